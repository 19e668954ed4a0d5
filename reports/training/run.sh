#!/usr/bin/env bash
# Makes everything in this folder anew, on 2 CPU cores in about 40 minutes. MEDOOD_DATA names the folder of real pictures.
# Usage, from the checkout's root with .venv active: bash reports/training/run.sh
set -euo pipefail
here=reports/training
work=runs/training
medood sensitivity configs/demo.yaml data.root="$MEDOOD_DATA/in_distribution/train" data.limit=1500 data.calibration_fraction=0.2 \
  train.epochs=16 train.batch_size=64 train.threads=1 --out "$work" \
  --strategies none,rot,perm4,pixel_perm,mirror,inverted,framing,blended_patch,opacity,mixture
cp "$work/sensitivity.csv" "$here"
cp "$work/none/training.csv" "$here/training_without_negatives.csv"
cp "$work/mixture/training.csv" "$here/training_with_negatives.csv"
python -m reports.training.study "$work" "$MEDOOD_DATA/manifest.csv" "$here"
python -m reports.training.curves "$here"
python -m reports.training.probe "$here"
medood speed train configs/cxr_cpu.yaml --out "$here/speed.csv"
medood negatives configs/cxr.yaml --out "$here/negatives.png"
mkdir -p "$work/memory"
python -m tests.benchmarks.train_memory "$work/memory" | tee "$here/memory.txt"
