from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medood.config.schema import PreprocessConfig
from medood.errors import MedoodError
from medood.scans.cache import build_cache
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.scans.transforms import network_input, preprocessing
from medood.workflows.training_data import to_input


def folder_of(path: Path, count: int) -> Path:
    path.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (37 + i, 50), dtype=np.uint8)).save(path / f"{i}.png")
    return path


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
def test_cached_pictures_equal_what_screening_prepares(tmp_path: Path, fit: str) -> None:
    root, config = folder_of(tmp_path / "root", 5), PreprocessConfig(size=24, fit=fit)
    cache = build_cache(root, tmp_path / "cache", config, 24)
    chain = preprocessing(config)
    for row, scan in zip(to_input(cache.images), read_scans(root), strict=True):
        assert isinstance(scan, Scan)
        np.testing.assert_array_equal(row.numpy(), network_input(scan, chain).numpy())


def test_a_cache_is_used_again_until_the_folder_changes(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "root", 4)
    first = build_cache(root, tmp_path / "cache", PreprocessConfig(size=16), 16)
    again = build_cache(root, tmp_path / "cache", PreprocessConfig(size=16), 16)
    assert first.keys == again.keys
    assert len(list((tmp_path / "cache").glob("*.u8"))) == 1
    Image.new("L", (20, 20), 9).save(root / "new.png")
    assert len(build_cache(root, tmp_path / "cache", PreprocessConfig(size=16), 16).keys) == 5


def test_duplicates_and_refusals_are_counted(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "root", 3)
    (root / "copy.png").write_bytes((root / "0.png").read_bytes())
    (root / "bad.png").write_text("no")
    cache = build_cache(root, tmp_path / "cache", PreprocessConfig(size=16), 16)
    assert len(cache.keys) == 3
    assert cache.refused == {"duplicate": 1, "not_an_image": 1}


def test_nothing_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match="does not exist"):
        build_cache(tmp_path / "nowhere", tmp_path / "cache", PreprocessConfig(), 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedoodError, match="no scan was found"):
        build_cache(tmp_path / "empty", tmp_path / "cache", PreprocessConfig(), 16)


def test_letterbox_keeps_the_aspect_and_squash_does_not(tmp_path: Path) -> None:
    Image.new("L", (40, 20), 255).save(tmp_path / "wide.png")
    (scan,) = read_scans(tmp_path / "wide.png")
    assert isinstance(scan, Scan)
    boxed = network_input(scan, preprocessing(PreprocessConfig(size=20, fit="letterbox")))
    squashed = network_input(scan, preprocessing(PreprocessConfig(size=20, fit="squash")))
    assert squashed.min() == 1
    np.testing.assert_allclose(boxed.mean(), 0.5, atol=0.01)
    assert boxed[0, 0].max() == 0


def test_the_limit_cuts_a_file_of_many_frames_and_a_manifest_that_changes_is_read_again(tmp_path: Path) -> None:
    pages = [Image.new("L", (20, 20), i) for i in range(9)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert len(build_cache(tmp_path / "a.tif", tmp_path / "cache", PreprocessConfig(size=16), 16, limit=3).keys) == 3
    manifest = tmp_path / "list.csv"
    found = []
    for patient in ("ann", "bob"):
        manifest.write_text(f"file,patient_id\na.tif,{patient}\n")
        found.append(build_cache(manifest, tmp_path / "cache", PreprocessConfig(size=16), 16).patients)
    assert found[0] != found[1]
    assert len(set(found[0])) == 1
