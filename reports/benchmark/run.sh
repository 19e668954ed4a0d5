#!/usr/bin/env bash
# Makes everything in this folder anew, in about 50 minutes on 2 cores. MEDOOD_DATA names the folder of real pictures.
# Usage, from the checkout's root with .venv active: bash reports/benchmark/run.sh
set -euo pipefail
here=reports/benchmark
work=runs/benchmark
mkdir -p "$work"

# The same recipe with and without negatives, side by side, one thread each.
recipe=(configs/cxr_cpu.yaml data.root="$MEDOOD_DATA/in_distribution/train" data.calibration_root="$MEDOOD_DATA/in_distribution/calibration"
  data.cache="$work/cache" train.threads=1)
OMP_NUM_THREADS=1 medood train "${recipe[@]}" out="$work/with" --resume &
with=$!
OMP_NUM_THREADS=1 medood train "${recipe[@]}" out="$work/without" negatives.count=0 name=cxr-cpu-without-negatives --resume
wait "$with"
for which in with without; do cp "$work/$which/training.csv" "$here/training_${which}_negatives.csv"; done

medood benchmark "$work/with" --data "$MEDOOD_DATA/manifest.csv" --out "$here/with_negatives" --against "$work/without" \
  --external sklearn:IsolationForest --external sklearn:LocalOutlierFactor --external sklearn:OneClassSVM \
  --external pytorch-ood:KNN --external pytorch-ood:Mahalanobis --external pytorch-ood:GMM
medood benchmark "$work/without" --data "$MEDOOD_DATA/manifest.csv" --out "$here/without_negatives"
python -m reports.benchmark.choices "$work" > "$here/choices.csv"
python -m reports.benchmark.ablation "$work" > "$here/ablation.csv"
python tests/benchmarks/bank_search.py > "$here/search.csv"
