"""Scans in MONAI pipelines, and the geometry of the network's input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monai.transforms import Compose, Resized

import medood
from medood.config.schema import PreprocessConfig
from medood.errors import MedoodError
from medood.scans.scan import Identity, Scan
from medood.scans.transforms import network_input, preprocessing
from tests.scans.films import film, write


def test_a_monai_pipeline_loads_a_film(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(write(film(), WindowCenter=2048, WindowWidth=4096, PixelSpacing=[0.4, 0.2]))
    (tmp_path / "b.txt").write_text("no radiograph")
    loaded = medood.LoadScand(keys="image")({"image": tmp_path / "a.dcm", "label": 3})
    assert loaded["label"] == 3
    assert loaded["image"].shape == (1, 96, 80)
    np.testing.assert_allclose(loaded["image"][0].numpy(), film() / 4095, atol=1e-6)
    assert loaded["image"].pixdim[:2].tolist() == [0.4, 0.2]
    assert loaded["image"].meta["grayscale"]["voi"].startswith("window 1/1")
    chain = Compose([medood.LoadScand(keys=["image"]), Resized(keys=["image"], spatial_size=(32, 32))])
    assert chain({"image": str(tmp_path / "a.dcm")})["image"].shape == (1, 32, 32)
    with pytest.raises(MedoodError, match="not DICOM"):
        medood.LoadScand(keys="image")({"image": tmp_path / "b.txt"})
    with pytest.raises(MedoodError, match="does not exist"):
        medood.LoadScand(keys="image")({"image": tmp_path / "c.txt"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedoodError, match="it is empty"):
        medood.LoadScand(keys="image")({"image": tmp_path / "empty"})


def scan(height: int, width: int, aspect: float) -> Scan:
    return Scan(Identity("x"), np.ones((1, height, width), dtype=np.float32), aspect=aspect)


@pytest.mark.parametrize(
    ("height", "width", "aspect", "inner"),
    [
        (50, 100, 1.0, (32, 64)),
        (100, 50, 1.0, (64, 32)),
        (50, 100, 2.0, (64, 64)),
        (50, 100, 4.0, (64, 32)),
        (100, 100, 0.5, (32, 64)),
        (1, 500, 1.0, (1, 64)),
    ],
)
def test_a_letterbox_keeps_the_aspect_of_the_body_not_of_the_pixels(
    height: int, width: int, aspect: float, inner: tuple[int, int]
) -> None:
    seen = network_input(scan(height, width, aspect), preprocessing(PreprocessConfig(64, "letterbox")))[0].numpy()
    assert seen.shape == (64, 64)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert (len(rows), len(columns)) == inner
    assert abs((rows[0] + rows[-1]) - 63) <= 1
    assert abs((columns[0] + columns[-1]) - 63) <= 1
    assert seen[rows[0], columns[0]] == 1


def test_a_squash_fills_the_square() -> None:
    assert network_input(scan(50, 100, 3.0), preprocessing(PreprocessConfig(64, "squash"))).min() == 1


def test_rows_stay_rows() -> None:
    image = np.zeros((1, 40, 60), dtype=np.float32)
    image[:, :20] = 1
    for fit in ("squash", "letterbox"):
        seen = network_input(Scan(Identity("x"), image), preprocessing(PreprocessConfig(60, fit)))[0]
        assert seen[25, 30] == 1
        assert seen[35, 30] == 0
