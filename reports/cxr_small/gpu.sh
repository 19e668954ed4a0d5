#!/usr/bin/env bash
# The GPU part of the study: configs/cxr.yaml (ViT-S/16, 224 px) trained and measured on one GPU. It has not been run on one yet.
# Usage, from the checkout's root with .venv active: OUT=FOLDER MEDOOD_DATA=FOLDER bash reports/cxr_small/gpu.sh [key=value ...]
# Cut off, it goes on from its last checkpoint when started again. Dry run on a CPU:
#   OUT=runs/dry MEDOOD_DATA=FOLDER bash reports/cxr_small/gpu.sh train.device=cpu data.limit=200 train.epochs=1 preprocess.size=32 \
#     views.source_size=40 views.local_size=16 views.local_count=1 train.batch_size=16 model.hidden_dim=32
set -euo pipefail
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || echo "no GPU"
medood train configs/cxr.yaml data.root="$MEDOOD_DATA/in_distribution/train" \
  data.calibration_root="$MEDOOD_DATA/in_distribution/calibration" data.cache="$OUT/cache" out="$OUT/cxr" --resume "$@"
medood benchmark "$OUT/cxr" --data "$MEDOOD_DATA/manifest.csv" --out "$OUT/benchmark"
python reports/cxr_small/targets.py "$OUT/benchmark/benchmark.csv" | tee "$OUT/targets.md"
# Weights in parts of under 16 MiB; `cat network.safetensors.* > network.safetensors` puts them together again.
(cd "$OUT/cxr" && split --bytes=15M --numeric-suffixes network.safetensors network.safetensors.)
