"""Synthetic faults in in-distribution images, which every detector must flag.

They are written here anew, and not taken from :mod:`medood.negatives`: a benchmark that planted the training negatives with
their own code would also reward a network that recognises that code, such as its resampling or its borders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from medood.detection.conformal import Vector
from medood.detection.detector import Detector
from medood.detection.detector_folder import DetectorMetadata
from medood.negatives.shift import column, coordinates, uniform
from medood.progress import Progress
from medood.scans.transforms import ResizeTo

Pixels = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]
#: Kinds of fault that :func:`plant` puts at a place.
KINDS = ("opacity", "foreign_patch", "device")
#: Diameter of such a fault, as a share of the width.
DIAMETER = (0.1, 0.25)
#: Cells per side of the grid on which darkness is measured.
_GRID = 16


def _permute_quarters(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Permute the four quarters at random, never to the original order."""
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    top, left = height // 2, width // 2
    quarters = [pixels[r : r + top, c : c + left] for r in (0, top) for c in (0, left)]
    order = rng.permutation(4)
    while (order == np.arange(4)).all():
        order = rng.permutation(4)
    a, b, c, d = (quarters[i] for i in order)
    return np.concatenate([np.concatenate([a, b], axis=1), np.concatenate([c, d], axis=1)])


#: Faults by name: functions of ``[H, W]`` pixels and a random generator that return ``[H', W']`` pixels.
FAULTS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "rot90": lambda pixels, rng: np.rot90(pixels),
    "rot180": lambda pixels, rng: np.rot90(pixels, 2),
    "mirror": lambda pixels, rng: pixels[:, ::-1],
    "upside_down": lambda pixels, rng: pixels[::-1],
    "inverted": lambda pixels, rng: 1.0 - pixels,
    "perm4": _permute_quarters,
    "crop_quarter": lambda pixels, rng: pixels[: pixels.shape[0] // 2, : pixels.shape[1] // 2],
}


def faults_for(metadata: DetectorMetadata) -> dict[str, Callable[[Pixels, np.random.Generator], Pixels]]:
    """The faults of ``FAULTS`` that are ones in a detector's domain: ``mirror`` is none where mirrored scans belong."""
    return {name: fault for name, fault in FAULTS.items() if not (name == "mirror" and metadata.mirrored_belong)}


def planted_scores(detector: Detector, images: Tensor, progress: Progress) -> Iterator[tuple[str, Vector]]:
    """Each fault of the detector's domain, planted in every image: its name, and ``[N]`` scores.

    Args:
        detector: the detector.
        images: ``[N, C, S, S]`` prepared images, of grey radiographs with opacities too.
        progress: progress display.
    """
    faults = faults_for(detector.metadata) | ({"opacity": opacity} if images.shape[1] == 1 else {})
    resize = ResizeTo(images.shape[-1])
    rows = images.permute(0, 2, 3, 1).squeeze(-1).numpy()
    for name, fault in progress.track(iter(faults.items()), len(faults), "planting faults"):
        rng = np.random.default_rng(0)
        planted = [torch.from_numpy(np.ascontiguousarray(fault(row, rng), dtype=np.float32)) for row in rows]
        resized = torch.stack([torch.as_tensor(np.asarray(resize(_as_channels(pixels)))) for pixels in planted])
        yield name, detector.raw_scores(detector.embed(resized))


def _as_channels(pixels: Tensor) -> Tensor:
    """``[H, W]`` or ``[H, W, 3]`` as ``[C, H, W]``."""
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def plant(kind: str, images: Tensor, generator: Generator, diameter: tuple[float, float] = DIAMETER) -> tuple[Tensor, Masks]:
    """Plant one fault in each image, preferably where the radiograph is dark.

    Args:
        kind: ``opacity``: soft, lifts the grey value towards 0.7 or above; ``foreign_patch``: a disc from another place in
            another image; ``device``: a metal disc, all white.
        images: float32 ``[N, 1, S, S]`` in [0, 1].
        generator: generator of the places and sizes.
        diameter: range of the fault's diameter, as a share of the width.

    Returns:
        the images with the faults, and their masks: bool ``[N, S, S]``. An opacity's mask ends at 14 % of its peak.
    """
    count, row, col = len(images), *coordinates(images)
    radius = column(uniform(count, *diameter, generator) / 2)
    dark = 1.0 - torch.nn.functional.adaptive_avg_pool2d(images, _GRID)[:, 0]
    axis = (torch.arange(_GRID) + 0.5) / _GRID
    frame = ((axis > 0.2) & (axis < 0.75))[:, None] & ((axis > 0.15) & (axis < 0.85))[None]
    weight = ((dark + 0.05) ** 4 * frame).flatten(1)
    place = torch.multinomial(weight, 1, generator=generator)[:, 0]
    wander = (torch.rand(2, count, generator=generator) - 0.5) / _GRID
    middle_row, middle_col = column(axis[place // _GRID] + wander[0]), column(axis[place % _GRID] + wander[1])
    distance = ((row - middle_row) ** 2 + (col - middle_col) ** 2).sqrt() / radius
    if kind == "opacity":
        strength = column(uniform(count, 0.5, 0.9, generator))
        planted = torch.lerp(images, images.clamp(min=0.7), strength * torch.exp(-2.0 * distance**2))
    elif kind == "device":
        planted = torch.where(distance < 1.0, torch.ones_like(images), images)
    else:
        side = images.shape[-1]
        other = images.roll((1, side // 3, side // 2), dims=(0, 2, 3))
        planted = torch.where(distance < 1.0, other, images)
    return planted, (distance[:, 0] < 1.0).numpy()


def opacity(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Plant one soft opacity in ``[H, W]`` pixels."""
    generator = Generator().manual_seed(int(rng.integers(2**31)))
    return plant("opacity", torch.from_numpy(np.ascontiguousarray(pixels))[None, None], generator)[0][0, 0].numpy()
