"""Starts a real Orthanc on the loopback of this network namespace, and takes a run through it: store, screen, push back.

Run by ``test_orthanc.py`` inside ``unshare -rn``: python -m tests.screening.orthanc WORK DETECTOR
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pydicom

from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.reporting.dicom_objects import write_dicom
from medood.reporting.rejection_notes import write_notes
from medood.scans.sources.dicomweb import fetch, find_instances, store
from medood.screening.ledger.database import Ledger
from medood.screening.run import screen
from medood.screening.run_options import RunOptions

URL = "http://127.0.0.1:8042"
ADDRESS = "dicomweb+http://127.0.0.1:8042/dicom-web"


def count() -> int:
    with urllib.request.urlopen(f"{URL}/statistics", timeout=20) as answer:
        return int(json.loads(answer.read())["CountInstances"])


def started(work: Path, port: int = 8042) -> subprocess.Popen[bytes]:
    """An Orthanc with DICOMweb on loopback that answers, with its files in ``work``."""
    config = {
        "StorageDirectory": str(work / "storage"),
        "IndexDirectory": str(work / "storage"),
        "HttpPort": port,
        "DicomPort": port - 3800,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (work / "orthanc.json").write_text(json.dumps(config))
    with (work / "log").open("w") as log:
        server = subprocess.Popen(["Orthanc", str(work / "orthanc.json")], stdout=log, stderr=log)
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/statistics", timeout=20).close()
            break
        except OSError:
            time.sleep(0.1)
    return server


def main(work: Path, detector: Path) -> None:
    server = started(work)
    try:
        files = work / "files"
        files.mkdir()
        for i in range(20):
            (files / f"{i:02d}.dcm").write_bytes(dicom_bytes(frontal_chest(i, 64).image, f"{i}"))
        for kind in ("hand_like", "ct_like"):
            (files / f"{kind}.dcm").write_bytes(dicom_bytes(OUTLIERS[kind](0, 64), kind, modality="CT"))
        answers = list(store(ADDRESS, (pydicom.dcmread(path) for path in sorted(files.iterdir()))))
        screen([ADDRESS], detector, work / "pacs", fpr=0.9, options=RunOptions(workers=1))
        screen([files], detector, work / "files_run", fpr=0.9)
        ledgers = [Ledger(work / name) for name in ("pacs", "files_run")]
        scores = [sorted(row.score or 0.0 for row in ledger.rows()) for ledger in ledgers]
        statuses = {row.status for row in ledgers[0].rows()}
        written = write_dicom(work / "pacs", work / "pacs" / "dicom", detector)
        objects = sorted((work / "pacs" / "dicom").rglob("*.dcm"))
        pushed = list(store(ADDRESS, (pydicom.dcmread(path) for path in objects)))
        held = count()
        with ledgers[0].writing():
            ledgers[0]._database.execute("UPDATE scans SET finding = 'inverted' WHERE decision = 'out_of_distribution'")
        notes = write_notes(work / "pacs", work / "pacs" / "rejected", ["inverted"])
        sent = list(store(ADDRESS, (pydicom.dcmread(work / "pacs" / "rejected" / name) for name in notes.files)))
        found = [pydicom.dcmread(io.BytesIO(fetch(address))) for address in find_instances(f"{ADDRESS}?Modality=KO")]
        print(
            json.dumps(
                {
                    "stored": answers.count(""),
                    "statuses": sorted(statuses),
                    "largest_difference": max(abs(a - b) for a, b in zip(*scores, strict=True)),
                    "rows": [len(some) for some in scores],
                    "modality": len(list(find_instances(f"{ADDRESS}?Modality=CT"))),
                    "flagged": len(written),
                    "objects": len(objects),
                    "pushed": pushed.count(""),
                    "held": held,
                    "rejected": notes.scans,
                    "notes": [len(notes.files), sent.count("")],
                    "titles": [note.ConceptNameCodeSequence[0].CodeValue for note in found],
                    "named": sorted(
                        str(item.ReferencedSOPInstanceUID)
                        for note in found
                        for series in note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
                        for item in series.ReferencedSOPSequence
                    ),
                }
            )
        )
    finally:
        server.terminate()
        server.wait(20)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
