#!/usr/bin/env bash
# Reports of the demo's made-up scans, their pages as pictures, and the picture of the README. Needs pdftoppm (poppler-utils) and Chromium.
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
python -m reports.samples.draw "$run/report.html" "$here/page.png"
pdftoppm -r 80 -png -f 1 -l 4 "$here/report.pdf" runs/samples/page  # and the README's picture: two of the pages beside the page
python - runs/samples/page-1.png runs/samples/page-4.png "$here/page.png" docs/images/report.png <<'PYTHON'
import sys
from PIL import Image

*given, target = sys.argv[1:]
pages = [Image.open(path).convert("RGB") for path in given]
height, gap = pages[0].height, 16
pages[2] = pages[2].resize((round(pages[2].width * 0.47), round(pages[2].height * 0.47)), Image.LANCZOS)
pages[2] = pages[2].crop((0, 0, pages[2].width, height))
whole = Image.new("RGB", (sum(page.width + gap for page in pages) + gap, height + 2 * gap), (224, 224, 224))
left = gap
for page in pages:
    whole.paste(page, (left, gap))
    left += page.width + gap
whole.save(target, optimize=True)
PYTHON
