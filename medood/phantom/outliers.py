"""Synthetic outliers and faults for an archive of frontal chest radiographs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from medood.phantom.chest import Chest, FloatImage, frontal_chest


def rotated(seed: int, size: int) -> FloatImage:
    """A frontal chest radiograph rotated by 90 degrees."""
    return np.rot90(frontal_chest(seed, size).image).copy()


def upside_down(seed: int, size: int) -> FloatImage:
    """A frontal chest radiograph flipped vertically."""
    return frontal_chest(seed, size).image[::-1].copy()


def mirrored(seed: int, size: int) -> FloatImage:
    """A frontal chest radiograph flipped horizontally."""
    return frontal_chest(seed, size).image[:, ::-1].copy()


def inverted(seed: int, size: int) -> FloatImage:
    """A frontal chest radiograph with inverted grey levels (bone black)."""
    return 1.0 - frontal_chest(seed, size).image


def opacities(seed: int, size: int) -> FloatImage:
    """A frontal chest radiograph with two to four large opacities in the lungs."""
    rng = np.random.default_rng([seed, 12])
    return plant_opacities(frontal_chest(seed, size), rng, int(rng.integers(2, 5)), 0.07)


def plant_opacities(chest: Chest, rng: np.random.Generator, count: int, radius: float) -> FloatImage:
    """Add soft, mottled opacities to the lung field, with a radius of about ``radius`` times the image side."""
    size = len(chest.image)
    rows, cols = np.nonzero(chest.lungs)
    grid_row, grid_col = np.mgrid[:size, :size] / size
    cover = np.zeros_like(chest.image)
    for _ in range(count):
        place = int(rng.integers(len(rows)))
        r, c = rows[place] / size, cols[place] / size
        a, b = radius * rng.uniform(0.7, 1.4, 2)
        cover = np.maximum(cover, np.exp(-0.5 * (((grid_row - r) / a) ** 2 + ((grid_col - c) / b) ** 2)))
    mottle = 0.75 + 0.25 * np.clip(gaussian_filter(rng.normal(size=(size, size)), size / 80) * size / 20, -1, 1)
    cover = np.clip(cover * mottle, 0.0, 1.0)
    return np.asarray(chest.image + cover * np.clip(0.72 - chest.image, 0.0, 1.0))


def lateral_like(seed: int, size: int) -> FloatImage:
    """An image resembling a lateral chest radiograph: one lung field behind a heart, a spine along the back."""
    rng = np.random.default_rng([seed, 13])
    y, x = np.mgrid[:size, :size] / size
    x = x - 0.5 + rng.uniform(-0.03, 0.03)
    body = 1.0 / (1.0 + np.exp(-(0.36 - np.abs(x - 0.05 * np.sin(3 * y))) / 0.012))
    lung = 1.0 / (1.0 + np.exp((((x + 0.01) / 0.25) ** 2 + ((y - 0.42) / 0.32) ** 2 - 1.0) / 0.08))
    heart = np.exp(-(((x + 0.12) / 0.12) ** 2) - ((y - 0.56) / 0.13) ** 2)
    spine_at = 0.25 - 0.06 * np.sin(3.0 * y)
    spine = np.exp(-(((x - spine_at) / 0.035) ** 2)) * (0.8 + 0.2 * np.cos(y * 2 * np.pi / 0.07))
    image = body * 0.6 - 0.35 * lung + 0.3 * heart * body + 0.25 * spine
    image += 0.2 * body / (1.0 + np.exp(-(y - 0.74 - 0.3 * x) / 0.015))
    for number in range(9):
        image += 0.05 * np.exp(-(((y - 0.12 - 0.08 * number - 0.5 * (x - 0.2) ** 2) / 0.01) ** 2)) * lung
    return _finish(image, rng)


def hand_like(seed: int, size: int) -> FloatImage:
    """An image resembling a hand radiograph: a palm and five fingers with bones on a dark background."""
    rng = np.random.default_rng([seed, 14])
    y, x = np.mgrid[:size, :size] / size
    image = np.zeros((size, size))
    angles = np.array([-0.85, -0.25, -0.02, 0.18, 0.4]) + rng.uniform(-0.06, 0.06)
    for angle, length in zip(angles, (0.30, 0.40, 0.44, 0.41, 0.33), strict=True):
        u = (x - 0.5) * np.cos(angle) + (y - 0.68) * np.sin(angle)
        v = -(y - 0.68) * np.cos(angle) + (x - 0.5) * np.sin(angle)
        inside = (v > 0.05) & (v < length + 0.12)
        flesh = np.exp(-((u / 0.034) ** 4)) * inside
        joints = 0.75 + 0.25 * np.cos(v * 2 * np.pi / 0.13)
        image = np.maximum(image, 0.35 * flesh + 0.5 * np.exp(-((u / 0.014) ** 2)) * inside * joints)
    palm = np.exp(-(((x - 0.5) / 0.13) ** 4) - ((y - 0.68) / 0.13) ** 4)
    wrist = np.exp(-(((x - 0.5) / 0.09) ** 4)) * (y > 0.75)
    image = np.maximum(image, 0.5 * np.maximum(palm, wrist))
    return _finish(image, rng)


def ct_like(seed: int, size: int) -> FloatImage:
    """An image resembling an axial chest CT slice: a body outline with two lungs and a vertebra."""
    rng = np.random.default_rng([seed, 15])
    y, x = np.mgrid[:size, :size] / size - 0.5

    def ellipse(cx: float, cy: float, a: float, b: float) -> FloatImage:
        return np.asarray(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1.0, dtype=np.float64)

    image = 0.55 * ellipse(0, 0, 0.42, 0.31)
    for side in (-1, 1):
        image -= 0.45 * ellipse(0.2 * side, -0.01, 0.15 * rng.uniform(0.9, 1.1), 0.2)
    image = np.maximum(image, 0.62 * ellipse(0.05, -0.06, 0.1, 0.1))
    image = np.maximum(image, 0.95 * (ellipse(0, 0.19, 0.05, 0.045) - ellipse(0, 0.2, 0.016, 0.016)))
    ring = ellipse(0, 0, 0.385, 0.275) - ellipse(0, 0, 0.37, 0.26)
    image = np.maximum(image, 0.9 * ring * (np.sin(np.arctan2(y, x) * 17) > 0.2))
    image = np.maximum(image, 0.4 * (np.abs(y - 0.36 - 0.2 * x**2) < 0.006))
    return _finish(image, rng)


def _finish(image: FloatImage, rng: np.random.Generator) -> FloatImage:
    smooth = gaussian_filter(np.clip(image, 0.0, 1.0), len(image) / 300)
    return np.asarray(np.clip(smooth + rng.normal(0.0, 0.012, image.shape), 0.0, 1.0))


#: Generators of outliers by their names in ``datasets/phantom.yaml``.
OUTLIERS: dict[str, Callable[[int, int], FloatImage]] = {
    "rotated": rotated,
    "upside_down": upside_down,
    "mirrored": mirrored,
    "inverted": inverted,
    "opacities": opacities,
    "lateral_like": lateral_like,
    "hand_like": hand_like,
    "ct_like": ct_like,
}
