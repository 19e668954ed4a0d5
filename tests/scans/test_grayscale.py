from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medood.scans import grayscale


def slow_window(x: float, c: float, w: float, function: str) -> float:
    """PS3.3 C.11.2.1.2 written out for one value, with the output range [0, 1]."""
    if function == "LINEAR":
        if x <= c - 0.5 - (w - 1) / 2:
            return 0.0
        if x > c - 0.5 + (w - 1) / 2:
            return 1.0
        return (x - (c - 0.5)) / (w - 1) + 0.5
    if function == "LINEAR_EXACT":
        if x <= c - w / 2:
            return 0.0
        if x > c + w / 2:
            return 1.0
        return (x - c) / w + 0.5
    return 1 / (1 + math.exp(min(-4 * (x - c) / w, 700)))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@given(center=st.floats(-500, 3000), width=st.floats(2, 4000))
def test_window_follows_the_standard(function: str, center: float, width: float) -> None:
    values = np.linspace(-1000, 4000, 97)
    expected = [slow_window(x, center, width, function) for x in values]
    np.testing.assert_allclose(grayscale.window(values, center, width, function), expected, atol=1e-9)


def test_window_of_width_one_is_a_step() -> None:
    np.testing.assert_array_equal(grayscale.window(np.array([9.0, 9.5, 9.6]), 10, 1), [0, 0, 1])


@pytest.mark.parametrize(("width", "function"), [(0.5, "LINEAR"), (0, "SIGMOID"), (-3, "LINEAR_EXACT"), (10, "CUBIC")])
def test_window_refuses_nonsense(width: float, function: str) -> None:
    with pytest.raises(ValueError, match=r"Width|Function"):
        grayscale.window(np.zeros(3), 0, width, function)


def test_looking_up_clamps_to_the_ends() -> None:
    table = np.array([0.0, 100.0, 1023.0])
    result = grayscale.look_up(np.array([-5.0, 10.0, 11.0, 12.0, 99.0]), table, first=10)
    np.testing.assert_array_equal(result, [0, 0, 100, 1023, 1023])


def test_percentile_window_ignores_padding_and_survives_a_flat_picture() -> None:
    values = np.linspace(100, 200, 1001)
    padded = np.r_[values, np.full(5000, -2000.0)]
    plain = grayscale.percentile_window(values, np.ones(1001, dtype=np.int64))
    with_padding = grayscale.percentile_window(padded, (padded != -2000).astype(np.int64))[:1001]
    np.testing.assert_allclose(plain, with_padding)
    assert (grayscale.percentile_window(np.array([7.0]), np.array([16])) == 0).all()


@given(st.lists(st.integers(-300, 300), min_size=1, max_size=60))
def test_percentile_window_of_levels_is_that_of_the_pixels(pixels: list[int]) -> None:
    image = np.array(pixels, dtype=np.float64)
    low, high = np.percentile(image, grayscale.DEFAULT_PERCENTILES)
    low, high = (low, high) if high > low else (image.min(), image.max())
    expected = np.clip((image - low) / (high - low), 0, 1) if high > low else np.zeros(len(image))
    levels, index, counts = np.unique(-image, return_inverse=True, return_counts=True)
    np.testing.assert_allclose(grayscale.percentile_window(-levels, counts)[index], expected, atol=1e-9)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">i2", "<i4", "f4"])
def test_painting_levels_is_the_grey_scale_of_every_pixel(dtype: str) -> None:
    image = np.random.default_rng(1).integers(-100, 100, (300, 257)).astype(dtype)
    levels = grayscale.Levels(image)
    np.testing.assert_array_equal(levels.words[np.flatnonzero(levels.counts())], np.unique(image))
    assert levels.counts().sum() == image.size
    slope = 1 / 40000
    painted = levels.paint(0.5 + levels.words.astype(np.float64) * slope)
    np.testing.assert_allclose(painted[0], 0.5 + image.astype(np.float64) * slope, atol=1e-7)


def test_stored_values_shift_mask_and_sign() -> None:
    raw = np.array([0xF7FF, 0x0800, 0x0FFF, 0x0001], dtype=np.uint16)
    signed = grayscale.stored_values(raw, 12, 11, signed=True)
    np.testing.assert_array_equal(signed, [2047, -2048, -1, 1])
    np.testing.assert_array_equal(grayscale.stored_values(raw, 12, 11, signed=False), [2047, 2048, 4095, 1])
    np.testing.assert_array_equal(grayscale.stored_values(np.array([0xABC0]), 12, 15, signed=False), [0xABC])
    with pytest.raises(ValueError, match="do not fit"):
        grayscale.stored_values(raw, 12, 5, signed=False)


def test_inversion_and_luminance() -> None:
    np.testing.assert_allclose(grayscale.invert(np.array([0.0, 0.25, 1.0])), [1, 0.75, 0])
    np.testing.assert_allclose(
        grayscale.luminance(np.array([[[255, 255, 255], [0, 255, 0]]], dtype=np.uint8), 255.0), [[[1.0, 0.587]]], atol=1e-6
    )
