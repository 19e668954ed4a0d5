"""inspect, doctor and bench, and the options of reading, as a user runs them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medood.scans.dicom.pixel_data import DECODERS
from tests.cli.test_commands import medood
from tests.scans.films import film, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "scans"
    root.mkdir()
    (root / "a.dcm").write_bytes(write(film(), WindowCenter=2048, WindowWidth=4096, ImagerPixelSpacing=[0.2, 0.2]))
    (root / "b.dcm").write_bytes(write(film() // 2, PhotometricInterpretation="MONOCHROME1", Modality="DX"))
    (root / "c.dcm").write_bytes((root / "a.dcm").read_bytes())
    (root / "d\n.png").write_bytes(b"no image")
    return root


def test_inspect_says_what_was_read_and_shows_it(folder: Path, tmp_path: Path) -> None:
    text = medood("inspect", folder, "--png", tmp_path / "png").stdout
    for words in (
        "voi                        window 1/1 center=2048 width=4096 LINEAR",
        "spacing                    0.2 x 0.2 mm (ImagerPixelSpacing)",
        "inverted                   MONOCHROME1",
        f"duplicate                  the same bytes as {folder / 'a.dcm'}",
        "d\\n.png",
        "1 duplicate, 1 not_an_image, 2 read",
    ):
        assert words in text
    assert "Secret" not in text
    assert "SECRET" not in text
    first, second = sorted((tmp_path / "png").iterdir())
    assert first.name == "000001_a.dcm_0.png"
    seen = np.asarray(Image.open(first))
    assert seen.shape == (224, 224)
    assert abs(seen.mean() / 255 - film().mean() / 4095) < 0.01
    assert second.name.startswith("000002_b.dcm")


def test_inspect_selects_and_tells_mistakes(folder: Path) -> None:
    selected = medood("inspect", folder, "--select", "Modality == DX", "--quiet").stdout
    assert selected == "1 duplicate, 2 not_selected, 1 read\n"
    assert "Did you mean 'Modality'" in medood("inspect", folder, "--select", "Modalty == DX", check=2).stderr
    assert "expected all, first, middle or every N" in medood("inspect", folder, "--frames", "last", check=2).stderr
    assert "expected one of axial" in medood("inspect", folder, "--plane", "flat", check=2).stderr
    assert "does not exist" in medood("inspect", folder / "nowhere", check=2).stderr
    assert "4 too_large" in medood("inspect", folder, "--max-bytes", "7", "--quiet").stdout


def test_doctor_decodes_every_syntax() -> None:
    text = medood("doctor").stdout
    for words in ("medood ", "torch ", "devices", "CPU, ", *DECODERS):
        assert words in text
    assert "none   " not in text


def test_bench_decode_writes_its_table(folder: Path, tmp_path: Path) -> None:
    text = medood("speed", "decode", folder, "--repeats", 1, "--out", tmp_path / "t.csv").stdout
    assert "two processes read" in text
    with (tmp_path / "t.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["syntax"] for row in rows] == ["Explicit VR Little Endian", "all", "two processes against one"]
    assert all(float(row["ratio"]) > 0 for row in rows)
    assert "holds no DICOM" in medood("speed", "decode", tmp_path / "scans" / "d\n.png", check=2).stderr
