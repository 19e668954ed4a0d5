"""A real Orthanc as source and target, and storescu sending 1,000 objects over 8 associations, in figures. Prints CSV.

Needs Debian's orthanc, orthanc-dicomweb, dcmtk and iproute2.

Usage: python -m reports.screening.pacs WORK
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

from medood.screening.dicom_scp import ScpConfig
from medood.screening.ledger.database import Ledger
from medood.screening.metrics import Metrics
from tests.screening.test_dicom_scp import listening, send, size, written

SENDERS, EACH = 8, 125


def orthanc(work: Path) -> None:
    work.mkdir()
    inside = f"ip link set lo up && exec {sys.executable} -m tests.screening.orthanc {work} cxr-small"
    command = ["unshare", "-rn", "sh", "-c", inside]  # a network of its own
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    for name in ("stored", "rows", "flagged", "objects", "pushed", "held", "largest_difference"):
        print(f'Orthanc,"{name}","{told[name]}"')


def storescu(work: Path) -> None:
    work.mkdir()
    folders = [written(work / f"{part}", range(part * EACH, part * EACH + EACH)) for part in range(SENDERS)]
    started = time.perf_counter()
    with listening(ScpConfig(0, health_port=0), Path("cxr-small"), work / "run", workers=2, metrics=Metrics()) as (
        port,
        health,
    ):
        codes = Counter(sender.wait() for sender in [send(port, folder) for folder in folders])
        sent = time.perf_counter() - started
        while size(work / "run") < SENDERS * EACH:
            time.sleep(0.1)
        told = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{health}/health", timeout=10).read())
    statuses = Counter(status for (status,) in [(row.status,) for row in Ledger(work / "run").rows()])
    print(f'storescu,"exit codes of {SENDERS} senders","{dict(codes)}"')
    print(f'storescu,"stored, refused","{told["stored"]}, {told["refused"]}"')
    print(f'storescu,"rows by status","{dict(statuses)}"')
    print(f'storescu,"seconds until sent","{sent:.1f}"')
    print(f'storescu,"seconds until all are in the ledger","{time.perf_counter() - started:.1f}"')


if __name__ == "__main__":
    work = Path(sys.argv[1])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    print("with,what,figure")
    orthanc(work / "orthanc")
    storescu(work / "storescu")
