#!/usr/bin/env bash
# Reports of the demo's made-up scans, and their pages as pictures. Needs pdftoppm (poppler-utils) and Chromium.
# Usage, from the checkout's root with .venv active: bash reports/samples/make.sh
set -euo pipefail
here=reports/samples
run=runs/samples/screening
medood demo --out runs/samples --quiet > /dev/null
key=$(python -c "import json; print(json.load(open('$run/record.json'))['pages'][0]['key'])")
name=$(python -c "import json; print(json.load(open('$run/record.json'))['run_name'])")
cat > runs/samples/review.json <<JSON
{"medood_review": 1, "run": "$name", "reviewer": "A. Reader",
 "reviews": [{"key": "$key", "verdict": "agree", "note": "Not one of ours."}]}
JSON
medood report "$run" --top 6 --language de --quiet > /dev/null
cp "$run/report.pdf" "$here/report_de.pdf"
medood report "$run" --top 6 --review runs/samples/review.json --quiet > /dev/null
cp "$run/report.pdf" "$here/report.pdf"
rm -f "$here"/report*.png "$here"/page.png
pdftoppm -r 60 -png "$here/report.pdf" "$here/report"
pdftoppm -r 60 -png -l 1 "$here/report_de.pdf" "$here/report_de"
python "$here/draw.py" "$run/report.html" "$here/page.png"
