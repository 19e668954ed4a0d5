#!/usr/bin/env bash
# Makes everything in this folder anew; estimated, not run as a whole: 15 minutes on a GPU such as an H200 for the training, then 5 hours on 2 CPU cores.
# MEDOOD_DATA names the folder of real pictures. The detector that ships was trained of the same films as WebP, see gpu.py.
# Usage, from the checkout's root with .venv active: bash reports/cxr_small/run.sh
set -euo pipefail
here=reports/cxr_small
work=runs/cxr_small
mkdir -p "$work"

medood train configs/cxr_small.yaml data.root="$MEDOOD_DATA/in_distribution/train" \
  data.calibration_root="$MEDOOD_DATA/in_distribution/calibration" out="$work/first" --resume
cp "$work/first/training.csv" "$here/training.csv"
vit() { # NAME KEY=VALUE...: a candidate for the second network
  medood train configs/cxr_small_vit.yaml data.root="$MEDOOD_DATA/in_distribution/train" \
    data.calibration_root="$MEDOOD_DATA/in_distribution/calibration" data.cache="$work/vit/cache" out="$work/vit/$1" --resume "${@:2}"
}
vit patch6
vit patch8 model.arguments.patch_size=8
vit patch8_wide model.arguments.patch_size=8 model.arguments.embed_dim=192
vit patch6_seed1 train.seed=1 data.split_seed=0
vit patch6_seed2 train.seed=2 data.split_seed=0
medood train configs/cxr_small_further.yaml detector.members="[$work/vit/patch6]" data.root="$MEDOOD_DATA/in_distribution/train" \
  data.calibration_root="$MEDOOD_DATA/in_distribution/calibration" model.weights="$work/first/network.safetensors" \
  out="$work/further" --resume
cp "$work/further/training.csv" "$here/training_further.csv"
python -m reports.cxr_small.choose "$work/first" "$work/further" > "$here/choose.csv"
python -m reports.cxr_small.crops "$work/further" development > "$here/crops_development.csv"
python -m reports.cxr_small.crops "$work/further" test > "$here/crops_test.csv"
asked() { # NAME MEMBER...: which to ask, by development and by test films
  for films in development test; do python -m reports.cxr_small.members "$films" "$work/further" "${@:2}" > "$here/$1_$films.csv"; done
}
asked members "$work"/vit/patch{8,8_wide,6}
asked seeds "$work"/vit/patch6{,_seed1,_seed2}
asked weights "$work/vit/patch6"
medood benchmark "$work/further" --data "$MEDOOD_DATA/manifest.csv" --out "$here/benchmark"
python -m reports.cxr_small.targets "$here/benchmark/benchmark.csv"
python -m reports.cxr_small.failures "$work/further" "$work/failures"

export OMP_NUM_THREADS=1
python -m reports.cxr_small.ablation train "$work/ablation" 0 2 &
first=$!
python -m reports.cxr_small.ablation train "$work/ablation" 1 2
wait "$first"
rm -f "$here/ablation.csv"
python -m reports.cxr_small.ablation measure "$work/ablation" "$here/ablation.csv"
