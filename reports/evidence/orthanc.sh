#!/usr/bin/env bash
# The demo's DICOM objects stored to a real Orthanc (C-STORE and STOW-RS) and read back, byte for byte in what they say.
# Needs Debian's orthanc, orthanc-dicomweb and dcmtk. Everything stays on loopback, in a network namespace of its own.
# Usage, from the checkout's root with .venv active, after validate.sh: bash reports/evidence/orthanc.sh
set -euo pipefail
if [ "${1:-}" != inside ]; then
  exec unshare -rn bash "$0" inside
fi
ip link set lo up
work=$(mktemp -d)
trap 'kill "$server" 2> /dev/null || true; wait "$server" 2> /dev/null || true; rm -rf "$work"' EXIT
cat > "$work/orthanc.json" <<JSON
{"Name": "test", "StorageDirectory": "$work/storage", "IndexDirectory": "$work/storage", "HttpPort": 8042, "DicomPort": 4242,
 "DicomAlwaysAllowStore": true, "RemoteAccessAllowed": false, "AuthenticationEnabled": false, "OverwriteInstances": false,
 "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"], "DicomWeb": {"Enable": true, "Root": "/dicom-web/"}}
JSON
Orthanc "$work/orthanc.json" > "$work/log" 2>&1 &
server=$!
python - runs/evidence_demo/dicom "$work" <<'PYTHON'
import io, json, subprocess, sys, time, urllib.request
from pathlib import Path

import pydicom

folder, work = Path(sys.argv[1]), Path(sys.argv[2])
URL = "http://127.0.0.1:8042"


def ask(path, body=None, kind="application/json", accept="application/json"):
    request = urllib.request.Request(URL + path, data=body, headers={"Content-Type": kind, "Accept": accept})
    return urllib.request.urlopen(request, timeout=20).read()


for _ in range(100):
    try:
        told = json.loads(ask("/system"))
        break
    except OSError:
        time.sleep(0.1)
print(f"Orthanc {told['Version']}")
files = sorted(folder.glob("*.dcm"))
half = len(files) // 2
subprocess.run(["/usr/bin/storescu", "-R", "-aec", "ORTHANC", "127.0.0.1", "4242", *map(str, files[:half])], check=True)
for path in files[half:]:
    body = b"--part\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n--part--\r\n"
    ask("/dicom-web/studies", body, 'multipart/related; type="application/dicom"; boundary=part', "application/dicom+json")
same = kinds = 0
found = {}
for path in files:
    mine = pydicom.dcmread(path)
    identifier = json.loads(ask("/tools/lookup", mine.SOPInstanceUID.encode(), "text/plain"))
    if len(identifier) == 1:
        back = pydicom.dcmread(io.BytesIO(ask(f"/instances/{identifier[0]['ID']}/file")))
        same += back == mine
        found[mine.SOPClassUID.name] = found.get(mine.SOPClassUID.name, 0) + 1
studies = json.loads(ask("/dicom-web/studies?limit=1000", accept="application/dicom+json"))
print(f"{len(files)} objects: {half} by storescu, {len(files) - half} by STOW-RS; {sum(found.values())} found again, {same} equal")
print(f"{len(studies)} studies by QIDO-RS; {', '.join(f'{count} {name}' for name, count in sorted(found.items()))}")
sys.exit(same != len(files))
PYTHON
