#!/usr/bin/env bash
# Makes everything in this folder anew, in about 7 hours on 2 CPU cores. MEDOOD_DATA names the folder of real pictures.
# Usage, from the checkout's root with .venv active: bash reports/cxr_small/run.sh
set -euo pipefail
here=reports/cxr_small
work=runs/cxr_small
mkdir -p "$work"
export OMP_NUM_THREADS=1

torchrun --nproc-per-node=2 -m medood train configs/cxr_small.yaml data.root="$MEDOOD_DATA/in_distribution/train" \
  data.calibration_root="$MEDOOD_DATA/in_distribution/calibration" out="$work/detector" --resume
cp "$work/detector/training.csv" "$here/training.csv"
torchrun --nproc-per-node=2 -m medood train configs/cxr_small_further.yaml data.root="$MEDOOD_DATA/in_distribution/train" \
  data.calibration_root="$MEDOOD_DATA/in_distribution/calibration" model.weights="$work/detector/network.safetensors" \
  out="$work/further" --resume
cp "$work/further/training.csv" "$here/training_further.csv"
torchrun --nproc-per-node=2 -m medood train configs/cxr_small_equalized.yaml data.root="$MEDOOD_DATA/in_distribution/train" \
  data.calibration_root="$MEDOOD_DATA/in_distribution/calibration" model.weights="$work/further/network.safetensors" \
  out="$work/equalized" --resume
cp "$work/equalized/training.csv" "$here/training_equalized.csv"
torchrun --nproc-per-node=2 -m medood train configs/cxr_small_mixed.yaml data.root="$MEDOOD_DATA/in_distribution/train" \
  data.calibration_root="$MEDOOD_DATA/in_distribution/calibration" model.weights="$work/equalized/network.safetensors" \
  out="$work/mixed" --resume
cp "$work/mixed/training.csv" "$here/training_mixed.csv"
python "$here/choose.py" "$work/further" "$work/equalized" "$work/mixed" > "$here/choose_equalized.csv"
medood benchmark "$work/mixed" --data "$MEDOOD_DATA/manifest.csv" --out "$here/benchmark"
python "$here/targets.py" "$here/benchmark/benchmark.csv"
python "$here/failures.py" "$work/mixed" "$work/failures"

python "$here/ablation.py" train "$work/ablation" 0 2 &
first=$!
python "$here/ablation.py" train "$work/ablation" 1 2
wait "$first"
rm -f "$here/ablation.csv"
python "$here/ablation.py" measure "$work/ablation" "$here/ablation.csv"
