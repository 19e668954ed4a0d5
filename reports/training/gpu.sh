#!/usr/bin/env bash
# The GPU part of this study: ViT-S/16 at 224 px, 8 local crops of 96 px, bf16, on one GPU. It has not been run yet.
# Usage, from the checkout's root with .venv active: bash reports/training/gpu.sh
set -euo pipefail
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
medood speed train configs/cxr.yaml train.device=cuda --steps 20 --out reports/training/speed_gpu.csv
