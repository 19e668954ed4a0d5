#!/usr/bin/env bash
# Makes everything in this folder anew. MEDOOD_DATA names the folder of real pictures (see README.md beside this file).
# Usage, from the checkout's root with .venv active: bash reports/first_run/run.sh
set -euo pipefail
here=reports/first_run
work=runs/first_run
rm -rf "$work/mixed" "$work/mixed.zip" "$work/screening"
mkdir -p "$work"

medood train configs/cxr_cpu.yaml data.root="$MEDOOD_DATA/in_distribution/train" out="$work/detector"
cp "$work/detector/training.csv" "$here/training.csv"

medood benchmark "$work/detector" --data "$MEDOOD_DATA/manifest.csv" --out "$here"

# A mixed archive: 20 in-distribution films, 10 COVID-19 films, 10 CT slices, 5 DICOM files. Only verdicts leave this step.
mkdir -p "$work"/mixed/{in_distribution,covid_cohen,chest_ct,dicom}
ls "$MEDOOD_DATA"/in_distribution/test/* | sed -n 1,20p | xargs cp -t "$work/mixed/in_distribution"
ls "$MEDOOD_DATA"/near/covid_cohen/* | sed -n 1,10p | xargs cp -t "$work/mixed/covid_cohen"
ls "$MEDOOD_DATA"/far/chest_ct/* | sed -n 1,10p | xargs cp -t "$work/mixed/chest_ct"
find "$MEDOOD_DATA"/dicom/{CR,DX,MR,NOPIX_SR,NOPIX_CT} -type f | sort | awk -F/ '!seen[$(NF-1)]++' | xargs cp -t "$work/mixed/dicom"
python -m zipfile -c "$work/mixed.zip" "$work"/mixed/*
medood screen "$work/mixed.zip" --detector "$work/detector" --out "$work/screening" --fpr 0.05
medood report "$work/screening" --no-images
cp "$work/screening/verdicts.csv" "$work/screening/report.pdf" "$here"
