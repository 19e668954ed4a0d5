"""What becomes of every DICOM and NIfTI file: ``python -m tests.benchmarks.ingest_table --data DIR --out DIR``."""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import pydicom

from medood.scans.reader import read_source
from medood.scans.scan import Refusal, Scan, Status
from medood.scans.sources.source import Source, find_sources

REFUSALS = [status.value for status in Status if status is not Status.SCORED]
COLUMNS = ("transfer syntax", "files", "with scans", "scans", "decoder", *REFUSALS)


def syntax_of(path: Path) -> str:
    """The transfer syntax as the file states it."""
    if path.name.endswith((".nii", ".nii.gz")):
        return "NIfTI"
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        return str(data.file_meta.TransferSyntaxUID.name)
    except Exception:
        return "none stated"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds dicom/ and nifti/")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    decoders: dict[str, set[str]] = defaultdict(set)
    for part in ("dicom", "nifti"):
        for source in find_sources(given.data / part):
            assert isinstance(source, Source)
            if source.path.name == "manifest.csv":
                continue
            row = rows[name := syntax_of(source.path)]
            row["files"] += 1
            results = list(read_source(source))
            scans = [r for r in results if isinstance(r, Scan)]
            row["with scans"] += bool(scans)
            row["scans"] += len(scans)
            decoders[name] |= {scan.grayscale.plugin for scan in scans}
            for refusal in results:
                if isinstance(refusal, Refusal):
                    row[refusal.status] += 1
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "decode.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for name, row in sorted(rows.items()):
            words = {"transfer syntax": name, "decoder": " ".join(sorted(decoders[name]))}
            writer.writerow([words.get(column, row[column]) for column in COLUMNS])


if __name__ == "__main__":
    main()
