#!/usr/bin/env bash
# Repeats the benchmark of the shipped detector and holds its figures against the ones kept here, to 0.002.
# Usage, from the checkout's root with .venv active: MEDOOD_DATA=FOLDER bash reports/cxr_small/repeat.sh
set -euo pipefail
medood benchmark cxr-small --data "$MEDOOD_DATA/manifest.csv" --out runs/cxr_small_benchmark
python - reports/cxr_small/benchmark/benchmark.csv runs/cxr_small_benchmark/benchmark.csv <<'PYTHON'
import csv, sys
kept, found = ({(r["kind"], r["positives"], r["negatives"], r["scorer"]): float(r["auroc"]) for r in csv.DictReader(open(p))} for p in sys.argv[1:])
both = [key for key in kept if key[3] == "detector"]
worst = max(both, key=lambda key: abs(kept[key] - found[key]))
print(f"{len(both)} rows; largest difference {abs(kept[worst] - found[worst]):.4f} ({' '.join(worst[:2])})")
sys.exit(abs(kept[worst] - found[worst]) > 0.002)
PYTHON
