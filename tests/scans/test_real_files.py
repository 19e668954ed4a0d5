"""Every real file of MEDOOD_DATA against what another chain of decoders read from it."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medood.scans.dicom.grayscale_pipeline import stored_levels
from medood.scans.dicom.pixel_data import decode_frames, number_of_frames
from medood.scans.grayscale import Levels
from medood.scans.reader import read_scans
from medood.scans.scan import Refusal, Scan, Status
from tests.benchmarks import fuzz_ingest

#: Files that could not be decoded where the manifest was made, and can here: 12-bit JPEG Extended, and headerless files.
DECODES_HERE_TOO = {
    "dicom-test-files__RG2_JPLY",
    "dicom-test-files__RG3_JPLY",
    "dicom-test-files__MR1_JPLY",
    "dicom-test-files__MR2_JPLY",
    "dicom-test-files__MR3_JPLY",
    "dicom-test-files__MR4_JPLY",
    "pydicom__JPEG-lossy.dcm",
    "dicom-test-files__XA1_JPLY",
    "bone-fracture-detection__phalanx1-1.dcm",
    "DICOMSamples__OT_Implicit_Little_Headless.dcm",
    "fo-dicom__GH1339.dcm",  # lacks the delimiter behind its last fragment alone
}


def manifest(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_every_dicom_file_yields_scans_or_the_right_refusal(medood_data: Path) -> None:
    rows = manifest(medood_data / "dicom")
    assert len(rows) > 300
    wrong = []
    for row in rows:
        results = list(read_scans(medood_data / "dicom" / row["file"]))
        scans = [r for r in results if isinstance(r, Scan)]
        refusals = [r for r in results if isinstance(r, Refusal)]
        for scan in scans:
            assert np.isfinite(scan.pixels).all(), row["file"]
            assert 0 <= scan.pixels.min() <= scan.pixels.max() <= 1, row["file"]
            assert scan.pixels.shape[1:] == (int(row["height"] or 0), int(row["width"] or 0)) or not row["height"]
        name = row["file"].rsplit("/", 1)[-1]
        if any(word in row["sop_class"] for word in ("Dose", "Segmentation", "Parametric")):
            if scans or [refusal.status for refusal in refusals] != [Status.NOT_AN_IMAGE]:
                wrong.append((row["file"], len(scans), refusals[:1]))
        elif row["decodes"] == "yes" or name in DECODES_HERE_TOO:
            if not scans or refusals or len(scans) != int(row["frames"] or 1):
                wrong.append((row["file"], len(scans), refusals[:1]))
        elif not refusals or refusals[0].status not in _expected(row):
            wrong.append((row["file"], len(scans), refusals[:1]))
    assert not wrong, wrong


def _expected(row: dict[str, str]) -> set[Status]:
    """What a file that does not decode may be refused as."""
    no_picture = ("SR", "Report", "Waveform", "ECG", "Plan", "Structure", "Presentation", "Encapsulated", "Directory")
    if any(word in row["sop_class"] for word in no_picture):
        return {Status.NOT_AN_IMAGE}
    return {Status.NO_PIXELS, Status.UNREADABLE, Status.NOT_AN_IMAGE}


def test_stored_values_are_those_another_chain_of_decoders_read(medood_data: Path) -> None:
    """Minimum and maximum of the first frame are in the manifest; lossy JPEG may differ by the decoder's rounding."""
    compared = 0
    for row in manifest(medood_data / "dicom"):
        if row["decodes"] != "yes" or not row["min"] or int(row["frames"] or 1) > 1 or row["samples"] != "1":
            continue
        data = pydicom.dcmread(medood_data / "dicom" / row["file"], force=True)
        syntax = data.file_meta.TransferSyntaxUID
        frame = next(decode_frames(data, syntax, range(number_of_frames(data))))
        levels = Levels(frame.array)
        stored = stored_levels(levels, frame, data)[levels.counts() > 0]
        slack = 5 if "JPEG Baseline" in row["ts_name"] or "Extended" in row["ts_name"] else 0
        assert abs(float(stored.min()) - float(row["min"])) <= slack, row["file"]
        assert abs(float(stored.max()) - float(row["max"])) <= slack, row["file"]
        compared += 1
    assert compared > 80


def test_every_nifti_volume_yields_its_slices(medood_data: Path) -> None:
    rows = [
        r for r in manifest(medood_data / "nifti") if r["file"].endswith((".nii", ".nii.gz")) and "dconn" not in r["file"]
    ]
    assert len(rows) >= 15
    for row in rows:
        shape = [int(n) for n in row["shape"].split("x")]
        results = list(read_scans(medood_data / "nifti" / row["file"]))
        assert all(isinstance(r, Scan) for r in results), (row["file"], results[0])
        assert len(results) in {n * int(np.prod(shape[3:])) for n in shape[:3]}, row["file"]
        assert all(0 <= r.pixels.min() <= r.pixels.max() <= 1 for r in results if isinstance(r, Scan))


@pytest.mark.parametrize("ending", ["nifti1.hdr", "analyze.hdr", "dconn.nii", "tiny.mnc", "test.mgz"])
def test_what_is_no_single_file_volume_is_told(medood_data: Path, ending: str) -> None:
    (result,) = read_scans(next((medood_data / "nifti").rglob(f"*{ending}")))
    assert isinstance(result, Refusal)
    assert result.status == Status.NOT_AN_IMAGE
    assert len(result.reason) > 20


def test_damaged_real_files_are_refused_or_give_their_own_pictures(medood_data: Path) -> None:
    """A sample of what tests/benchmarks/fuzz_ingest.py does to all of them; reports/ingest has the figures."""
    files = [f"{part}/{row['file']}" for part in ("dicom", "nifti") for row in manifest(medood_data / part)]
    tasks = [(file, *mutation) for file in files for mutation in fuzz_ingest.mutations(file)]
    for file, mutation, number in tasks[::97]:
        whole = (medood_data / file).read_bytes()
        damaged = fuzz_ingest.mutated(whole, file, mutation, number, seed=1)
        if damaged is None:
            continue
        started = time.perf_counter()
        images, statuses = fuzz_ingest.digests(damaged)
        assert time.perf_counter() - started < fuzz_ingest.TIMEOUT
        assert images or statuses, (file, mutation)
        if mutation != "flip":
            assert set(images) <= set(fuzz_ingest.digests(whole)[0]), (file, mutation, number)
