#!/usr/bin/env bash
# DICOM objects of the demo's flagged scans, checked. Needs dciodvfy (dicom3tools) and dsrdump (dcmtk).
# Usage, from the checkout's root with .venv active: bash reports/evidence/validate.sh > reports/evidence/dicom.txt
set -euo pipefail
medood demo --out runs/evidence_demo --quiet > /dev/null
rm -rf runs/evidence_demo/dicom
medood dicom runs/evidence_demo/screening --out runs/evidence_demo/dicom --quiet > /dev/null
echo "$(find runs/evidence_demo/dicom -name '*.dcm' | wc -l) objects; lines of dciodvfy, counted:"
for object in runs/evidence_demo/dicom/*.dcm; do
  dciodvfy "$object" 2>&1 | grep -E '^(Error|Warning)' || true
  dciodvfy "$object" 2>&1 | grep -E '^[A-Z][A-Za-z0-9]+$' || true
done | sort | uniq -c
echo "A Structured Report, by dsrdump:"
for object in runs/evidence_demo/dicom/*.dcm; do
  if text=$(dsrdump --quiet "$object" 2> /dev/null); then
    sed -e '/^$/d' <<< "$text"
    break
  fi
done
