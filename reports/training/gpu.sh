#!/usr/bin/env bash
# What needs a GPU, from the checkout's root. Train first: on 2026-11-27 the machine was there after 386 of 900 seconds, and compiling
# alone took more than the 120 seconds that the speed was given. Give OUT a folder that outlives the machine: all is written every minute.
#   bash reports/training/gpu.sh speed OUT                      speed of training beside a plain implementation
#   bash reports/training/gpu.sh train FOLDER OUT SECONDS       configs/cxr.yaml and the lesion networks of reports/cross_site,
#                                                               beside each other, each in as many epochs as fit
# FOLDER holds films.zip (python -m reports.cxr_small.gpu pack FOLDER) and start.safetensors, see reports/cross_site/gpu.py.
# Dry run of the second on a CPU: DRY=1 bash reports/training/gpu.sh train FOLDER OUT 120
set -euo pipefail
if [ "$1" = speed ]; then
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
  for name in cxr cxr_small; do
    timeout 120 python3 -m medood speed train "configs/$name.yaml" train.device=cuda --steps 3 --repeats 3 --quiet --out "$2/speed_gpu_$name.csv"
  done
else
  python3 -m reports.cross_site.gpu train "$2" "$3" "$4" & lesions=$!
  python3 -m reports.cxr_small.gpu train "$2" "$3" "$4" large
  wait "$lesions"
fi
