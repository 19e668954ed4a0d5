#!/usr/bin/env bash
# Makes everything in this folder anew. MEDOOD_DATA names the folder of real pictures, with dicom/ and nifti/ in it.
# Usage, from the checkout's root with .venv active: bash reports/ingest/run.sh
set -euo pipefail
here=reports/ingest
python -m tests.benchmarks.ingest_table --data "$MEDOOD_DATA" --out "$here"
python -m tests.benchmarks.kinds_table --out "$here"
python -m reports.ingest.attacks --out "$here"
python -m tests.benchmarks.fuzz_ingest --data "$MEDOOD_DATA" --out runs/ingest
cp runs/ingest/fuzz_summary.csv "$here"
medood speed decode "$MEDOOD_DATA/dicom" --out "$here/speed.csv"
python -m reports.ingest.figure docs/images/grayscale.png
