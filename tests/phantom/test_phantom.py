from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medood.config.resources import shipped_file
from medood.errors import MedoodError
from medood.phantom.archive import PhantomConfig, load_phantom, write_archive
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.progress import Progress
from medood.scans.reader import read_scans
from medood.scans.scan import Refusal, Scan


def test_the_same_seed_gives_the_same_chest_and_another_another() -> None:
    first, again, other = (frontal_chest(seed, 128) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    assert np.abs(first.image - other.image).mean() > 0.01


def test_a_chest_looks_like_one() -> None:
    """Lungs dark, heart bright and on the patient's left, which is the right of the image."""
    for seed in range(5):
        chest = frontal_chest(seed, 128)
        assert chest.image.min() >= 0
        assert chest.image.max() <= 1
        assert 0.15 < chest.lungs.mean() < 0.45
        assert chest.image[chest.lungs].mean() < chest.image[100:, 40:90].mean() - 0.2
        heart = chest.image[70:92]
        assert heart[:, 68:84].mean() > heart[:, 44:60].mean() + 0.02


@pytest.mark.parametrize("kind", OUTLIERS)
def test_strangers_are_pictures(kind: str) -> None:
    image = OUTLIERS[kind](3, 96)
    assert image.shape == (96, 96)
    assert 0 <= image.min() < image.max() <= 1
    assert np.abs(image - frontal_chest(3, 96).image).mean() > 0.001


@pytest.mark.parametrize("modality", ["DX", "CR", "CT"])
def test_written_dicom_is_read_back_by_pydicom(modality: str) -> None:
    content = dicom_bytes(frontal_chest(0, 64).image, "a", modality=modality)
    data = pydicom.dcmread(io.BytesIO(content))
    assert data.Modality == modality
    assert data.pixel_array.shape == (64, 64)
    assert content == dicom_bytes(frontal_chest(0, 64).image, "a", modality=modality)


def test_the_shipped_archive_holds_what_its_settings_say(tmp_path: Path) -> None:
    settings = load_phantom(shipped_file("datasets/phantom.yaml"))
    settings.size = 48
    archive = write_archive(settings, tmp_path / "a.zip", Progress(quiet=True))
    results = list(read_scans(archive))
    assert sum(isinstance(r, Refusal) for r in results) == settings.broken
    assert sum(isinstance(r, Scan) for r in results) == settings.in_distribution + sum(settings.outliers.values())
    again = write_archive(settings, tmp_path / "b.zip", Progress(quiet=True))
    assert archive.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None


def test_settings_that_are_not_known_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("sizes: 3\n")
    with pytest.raises(MedoodError, match="sizes"):
        load_phantom(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("outliers: {lateral: 3}\n")
    with pytest.raises(MedoodError, match="lateral unknown"):
        load_phantom(tmp_path / "b.yaml")
    assert PhantomConfig().outliers.keys() == OUTLIERS.keys()
