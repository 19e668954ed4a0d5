"""medood's images against those of DCMTK, which shares no code with it: every single-frame grey file that both read."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import apply_modality_lut

from medood.config.schema import ReadConfig
from medood.scans.dicom.grayscale_pipeline import stored_levels
from medood.scans.dicom.parser import parse_dicom
from medood.scans.dicom.pixel_data import decode_frames
from medood.scans.dicom.reader import transfer_syntax
from medood.scans.grayscale import DEFAULT_PERCENTILES, Levels
from medood.scans.reader import read_scans
from medood.scans.scan import Scan

#: Mean difference that is allowed, in grey levels of 8 bits.
ALLOWED = 2.0
#: Files whose images differ by more, and why.
EXPLAINED = {
    "PT/fo-dicom__GH610.dcm": "its values span 0.001, and a LINEAR window, which DCMTK is given, is at least 1 wide",
}


def stored_values(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Values of the first frame after the modality step, and which pixels are no padding (black here, DCMTK maps it)."""
    data = parse_dicom(path.read_bytes(), ReadConfig()).dataset
    frame = next(decode_frames(data, transfer_syntax(data), range(1)))
    levels = Levels(frame.array)
    stored = levels.paint(stored_levels(levels, frame, data).astype(np.float64))[0].astype(np.float64)
    padding = data.get("PixelPaddingValue")
    if isinstance(padding, int) and data.PixelRepresentation == 1 and padding > 32767:
        padding -= 65536  # written as unsigned
    shown = stored != padding if isinstance(padding, int) and (stored != padding).any() else np.ones(stored.shape, bool)
    return np.asarray(apply_modality_lut(stored.astype(np.int64), data), dtype=np.float64), shown


def window_of_percentiles(values: npt.NDArray[np.float64]) -> list[str]:
    """The window that maps percentiles to 0 and 1 (PS3.3 C.11.2.1.2.1), for DCMTK."""
    low, high = np.percentile(values, DEFAULT_PERCENTILES)
    return ["+Ww", f"{(low + high) / 2 + 0.5:.6f}", f"{high - low + 1:.6f}"]


def rendered(path: Path, options: list[str], folder: Path) -> npt.NDArray[np.float64] | None:
    """DCMTK's 8-bit image, without overlays; none where it reads none."""
    target = folder / "a.pgm"
    for program in ("dcmj2pnm", "dcml2pnm"):  # JPEG and RLE, JPEG-LS
        target.unlink(missing_ok=True)
        subprocess.run([program, "-q", "-O", *options, str(path), str(target)], capture_output=True, check=False)
        if target.is_file() and target.stat().st_size:
            return np.asarray(Image.open(io.BytesIO(target.read_bytes())).convert("L"), dtype=np.float64)
    return None


def compared(data: Path, folder: Path) -> dict[str, float]:
    """Mean difference in grey levels by file."""
    differences = {}
    with (data / "manifest.csv").open() as stream:
        files = [row["file"] for row in csv.DictReader(stream)]
    for file in files:
        results = list(read_scans(data / file))
        if len(results) != 1 or not isinstance(results[0], Scan):
            continue
        (scan,) = results
        header = pydicom.dcmread(data / file, force=True, stop_before_pixels=True)
        if (
            scan.grayscale.modality_lut == "palette"
            or header.get("SamplesPerPixel") != 1
            or header.get("BitsAllocated") == 1
        ):
            continue
        voi = scan.grayscale.voi
        options = ["+Wi", "1"] if voi.startswith("window") else ["+Wl", "1"] if voi.startswith("voi lut") else None
        values, shown = stored_values(data / file)
        theirs = rendered(data / file, options or window_of_percentiles(values[shown]), folder)
        if theirs is not None and theirs.shape == scan.pixels.shape[1:]:
            differences[file] = float(np.abs(theirs - scan.pixels[0] * 255)[shown].mean())
    return differences


@pytest.mark.pacs
def test_pictures_are_those_of_dcmtk(medood_data: Path, tmp_path: Path) -> None:
    if shutil.which("dcmj2pnm") is None:
        reason = "DCMTK's dcmj2pnm is not installed; this test compares with it"
        if os.environ.get("MEDOOD_REQUIRE_PACS"):
            pytest.fail(reason)
        pytest.skip(reason)
    differences = compared(medood_data / "dicom", tmp_path)
    assert len(differences) > 100
    wrong = {file: round(value, 2) for file, value in differences.items() if value > ALLOWED and file not in EXPLAINED}
    assert not wrong, wrong
    assert all(differences[file] > ALLOWED for file in EXPLAINED), "explained, and no longer different"
