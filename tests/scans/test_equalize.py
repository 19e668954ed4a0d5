"""Histogram equalisation before the network: against a slow oracle, and what it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medood.config.schema import PreprocessConfig
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.scans.cache import build_cache
from medood.scans.scan import Identity, Scan
from medood.scans.transforms import network_input, preprocessing

SIDE = 64
EQUALIZED = PreprocessConfig(size=SIDE, equalize=True)


def equalized(pixels: np.ndarray) -> np.ndarray:
    return network_input(Scan(Identity("x"), pixels[None].astype(np.float32)), preprocessing(EQUALIZED))[0].numpy()


@pytest.fixture
def film() -> np.ndarray:
    return frontal_chest(3, SIDE).image.astype(np.float32)


def test_a_grey_value_becomes_the_share_of_pixels_up_to_it(film: np.ndarray) -> None:
    found, values = equalized(film), np.sort(film.ravel())
    bins = np.linspace(film.min(), film.max(), 257)
    for row in range(0, SIDE, 7):
        for column in range(0, SIDE, 5):
            upper = bins[np.searchsorted(bins[1:], film[row, column]) + 1]
            share = np.searchsorted(values, upper, side="right") / values.size
            assert found[row, column] == pytest.approx(share, abs=0.03)


def test_the_grey_curve_of_a_device_is_taken_out_and_nothing_else(film: np.ndarray) -> None:
    plain = equalized(film)
    for curve in (film**0.6, film**1.7, 0.2 + 0.5 * film, 1 / (1 + np.exp(-6 * (film - 0.5)))):
        assert np.abs(equalized(curve) - plain).mean() < 0.02
    assert np.abs(equalized(1 - film) - (1 - plain)).mean() < 0.03
    assert np.abs(equalized(film[:, ::-1]) - plain[:, ::-1]).max() == 0


def test_an_even_picture_stays_finite() -> None:
    assert np.isfinite(equalized(np.full((SIDE, SIDE), 0.4))).all()


def test_training_and_screening_see_the_same_and_caches_are_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for i in range(3):
        (root / f"{i}.dcm").write_bytes(dicom_bytes(frontal_chest(i, 96).image, f"{i}"))
    plain = build_cache(root, tmp_path / "cache", PreprocessConfig(size=SIDE), SIDE)
    cache = build_cache(root, tmp_path / "cache", EQUALIZED, SIDE)
    assert (plain.images != cache.images).any()
    from medood.scans.reader import read_scans

    for image, scan in zip(cache.images, read_scans(root), strict=True):
        assert isinstance(scan, Scan)
        seen = network_input(scan, preprocessing(EQUALIZED))
        assert torch.equal(torch.from_numpy(np.array(image)).float() / 255.0, seen[0])
