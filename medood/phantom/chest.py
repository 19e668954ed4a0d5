"""Procedural frontal chest radiographs. They contain no patient data and are not an anatomical reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, zoom

FloatImage = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chest:
    """One phantom.

    Attributes:
        image: ``[S, S]`` in [0, 1], bone white, patient's left on the right side of the image.
        lungs: ``[S, S]`` bool, the lung field.
    """

    image: FloatImage
    lungs: npt.NDArray[np.bool_]


def frontal_chest(seed: int, size: int = 256) -> Chest:
    """Generate a frontal chest radiograph with lungs, heart, diaphragm, spine, ribs, clavicles and noise.

    Habitus, heart size, depth of inspiration, exposure, position and noise vary with the seed.

    Args:
        seed: the same seed gives the same image.
        size: side length in pixels.
    """
    rng = np.random.default_rng([seed, 11])
    row, col = _grid(size)
    col = col - rng.uniform(-0.02, 0.02)
    row = row - rng.uniform(-0.02, 0.02)
    habitus = rng.uniform(0.9, 1.12)
    x, y = (col - 0.5) / habitus, row

    torso = _soft(0.47 + 0.05 * np.clip((y - 0.15) / 0.5, 0, 1) - np.abs(x) - 0.5 * np.clip(0.16 - y, 0, 1) ** 0.8)
    attenuation = torso * (0.52 + 0.10 * np.clip(np.abs(x) / 0.45, 0, 1) ** 2)

    breath = rng.uniform(0.72, 0.8)
    dome_right = breath - rng.uniform(0.005, 0.03) + 3.0 * (x + 0.19) ** 2
    dome_left = breath + rng.uniform(0.0, 0.02) + 3.0 * (x - 0.2) ** 2
    dome = np.where(x < 0, dome_right, dome_left)
    heart_width = rng.uniform(0.135, 0.175)
    heart = _ellipse(x, y, 0.075, breath - 0.12, heart_width, 0.15, turn=0.45)
    aorta = _ellipse(x, y, 0.05, 0.31, 0.055, 0.055)
    lungs = np.zeros_like(x)
    for side in (-1.0, 1.0):
        centre = 0.205 + 0.04 * np.clip((y - 0.12) / 0.6, 0, 1)
        half = 0.165 * np.clip((y - 0.10) / 0.22, 0, 1) ** 0.55
        lungs = np.maximum(lungs, _soft(half - np.abs(side * x - centre), 0.012) * _soft(y - 0.10, 0.012))
    lungs = lungs * _soft(dome - y, 0.008)
    attenuation = attenuation - 0.36 * lungs * (1.0 - 0.75 * heart)
    below = _soft(y - dome, 0.008) * torso
    attenuation = attenuation + 0.26 * below
    mediastinum = _soft(0.062 + 0.03 * y - np.abs(x), 0.012) * _soft(y - 0.02, 0.02)
    attenuation = attenuation + 0.14 * mediastinum + 0.12 * np.maximum(heart, 0.8 * aorta) * torso
    spine = _soft(0.034 - np.abs(x), 0.008)
    attenuation = attenuation + spine * (0.05 + 0.004 * np.cos(y * 2 * np.pi / 0.062 + rng.uniform(0, 6)))
    trachea = _soft(0.018 - np.abs(x), 0.006) * _soft(0.33 - y, 0.02)
    attenuation = attenuation - 0.08 * trachea

    attenuation = attenuation + _ribs(rng, x, y) * torso * _soft(breath + 0.12 - y, 0.03)
    for side in (-1.0, 1.0):
        along = side * x
        clavicle = np.abs(y - (0.15 - 0.16 * (along - 0.03) + rng.uniform(-0.006, 0.006)))
        attenuation = attenuation + 0.13 * _soft(0.013 - clavicle, 0.005) * _soft(along - 0.03) * _soft(0.36 - along)
        vessels = np.exp(-(((along - 0.09) / 0.06) ** 2) - ((y - 0.46) / 0.12) ** 2)
        attenuation = attenuation + 0.09 * vessels * lungs

    texture = _clouds(rng, size, 24) * 0.012 + _clouds(rng, size, 64) * 0.008
    attenuation = attenuation + lungs * (1.0 - heart) * texture + 0.02 * _clouds(rng, size, 6) * torso
    image = np.clip(attenuation, 0.0, 1.2)
    image = gaussian_filter(image, size / 400)
    gain, gamma = rng.uniform(0.92, 1.06), rng.uniform(0.85, 1.2)
    image = np.clip(image * gain, 0.0, 1.0) ** gamma
    image = image + rng.normal(0.0, rng.uniform(0.008, 0.02), image.shape)
    if rng.uniform() < 0.5:  # the technologist's side marker, on the patient's left
        top, left = int(size * rng.uniform(0.04, 0.08)), int(size * rng.uniform(0.88, 0.91))
        height, width = size // 18, size // 60
        image[top : top + height, left : left + width] = 0.95
        image[top + height - width : top + height, left : left + 3 * width] = 0.95
    return Chest(np.clip(image, 0.0, 1.0), lungs > 0.5)


def _ribs(rng: np.random.Generator, x: FloatImage, y: FloatImage) -> FloatImage:
    """Attenuation of posterior ribs, which arch upwards, and fainter anterior ribs, which slope down towards the midline."""
    ribs = np.zeros_like(x)
    start, step, bow = rng.uniform(0.13, 0.16), rng.uniform(0.068, 0.078), rng.uniform(0.8, 1.1)
    for number in range(10):
        distance = np.abs(x)
        posterior = start + step * number + bow * (distance - 0.14) ** 2 - 0.02
        ribs += 0.045 * np.exp(-(((y - posterior) / 0.011) ** 2)) * _soft(distance - 0.03) * _soft(0.40 - distance)
        anterior = start + 0.05 + step * number + 0.35 * (0.4 - distance)
        ribs += 0.018 * np.exp(-(((y - anterior) / 0.010) ** 2)) * _soft(distance - 0.13) * _soft(0.40 - distance)
    return ribs


def _grid(size: int) -> tuple[FloatImage, FloatImage]:
    axis = (np.arange(size) + 0.5) / size
    return np.broadcast_to(axis[:, None], (size, size)), np.broadcast_to(axis[None, :], (size, size))


def _soft(distance: FloatImage, width: float = 0.01) -> FloatImage:
    """Soft mask: 1 inside (distance above 0), 0 outside, with an edge of the given width."""
    return np.asarray(1.0 / (1.0 + np.exp(np.clip(-distance / width, -50, 50))))


def _ellipse(x: FloatImage, y: FloatImage, cx: float, cy: float, a: float, b: float, turn: float = 0.0) -> FloatImage:
    u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
    v = -(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)
    return _soft(1.0 - np.sqrt((u / a) ** 2 + (v / b) ** 2), 0.06)


def _clouds(rng: np.random.Generator, size: int, cells: int) -> FloatImage:
    """Smooth noise with about ``cells`` bumps per side and unit variance before interpolation."""
    coarse = rng.normal(size=(cells, cells))
    return np.asarray(zoom(coarse, size / cells, order=3, mode="reflect", grid_mode=True)[:size, :size])
