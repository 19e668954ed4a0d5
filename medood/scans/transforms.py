"""MONAI transforms from a scan to the network's input, shared by training and screening."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, HistogramNormalize, Resize, SpatialPad, Transform
from torch import Tensor

from medood.config.schema import PreprocessConfig
from medood.scans.scan import Reduction, Scan

#: Key of MONAI's meta data for an image's :class:`Reduction`.
_REDUCTION = "reduction"


class ScanToTensor(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Convert a ``Scan`` to a float32 ``MetaTensor`` ``[C, H, W]`` in [0, 1].

    Its affine holds the spacing or the aspect, and its meta data how it was reduced in decoding.

    Args:
        channels: 1 for grey values, 3 for colours; a grey scan then has three equal channels.
    """

    def __init__(self, channels: int = 1) -> None:
        self.channels = channels

    def __call__(self, scan: Scan) -> Tensor:
        """Return the pixels, grey values without a copy."""
        row, column = scan.spacing or (scan.aspect, 1.0)
        affine = torch.diag(torch.tensor([row, column, 1.0, 1.0], dtype=torch.float64))
        values = torch.from_numpy(scan.pixels)
        if self.channels == 3 and scan.colours is not None:
            values = torch.from_numpy(scan.colours.transpose(2, 0, 1).astype(np.float32) / 255.0)
        elif self.channels == 3:
            values = values.repeat(3, 1, 1)
        tensor: Tensor = MetaTensor(values, affine=affine, meta={_REDUCTION: scan.reduction})
        return tensor


class Letterbox(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Fit the image into a square with square pixels and pad it evenly with black."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Tensor) -> Tensor:
        """``[C, H, W]`` to ``[C, size, size]``."""
        row, column = (float(v) for v in image.pixdim[:2])  # type: ignore[attr-defined]
        reduction = _reduction(image)
        rows, columns = reduction.shape if reduction else image.shape[-2:]
        height, width = square_shape(rows, columns, row / column)
        scale = self.size / max(height, width)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        fitted = resize(image, inner)
        padded: Tensor = SpatialPad(spatial_size=(self.size, self.size), method="symmetric", mode="constant")(fitted)
        return padded


class ResizeTo(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Squash to ``size`` x ``size``."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Tensor) -> Tensor:
        """``[C, H, W]`` to ``[C, size, size]``."""
        return resize(image, (self.size, self.size))


def resize(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize by area if a side shrinks, to avoid aliasing, else bilinearly; a reduced image as the whole one would be."""
    reduction = _reduction(image)
    if reduction and reduction.shape[0] >= shape[0] and reduction.shape[1] >= shape[1]:
        return resize_reduced(image, reduction, shape)
    shrinks = image.shape[-2] > shape[0] or image.shape[-1] > shape[1]
    result: Tensor = Resize(shape, mode="area" if shrinks else "bilinear")(image)
    return result


def _reduction(image: Tensor) -> Reduction | None:
    reduction: Reduction | None = image.meta.get(_REDUCTION) if isinstance(image, MetaTensor) else None
    return reduction


def resize_reduced(image: Tensor, reduction: Reduction, shape: tuple[int, int]) -> Tensor:
    """Resize a reduced image as the whole one would be: interpolated linearly to its grid, then averaged by area.

    Args:
        image: ``[C, h, w]``.
        reduction: how it was reduced.
        shape: height and width of the result, no more than those of the whole image.

    Returns:
        ``[C, *shape]``.
    """
    rows, columns = (
        _weights(whole, reduced, reduction.divisor, reduction.is_centred, size)
        for whole, reduced, size in zip(reduction.shape, image.shape[-2:], shape, strict=True)
    )
    return rows @ image @ columns.T


@lru_cache(maxsize=64)
def _weights(whole: int, reduced: int, divisor: int, is_centred: bool, size: int) -> Tensor:
    """Weights ``[size, reduced]`` of one direction; the areas are those of PyTorch's adaptive average."""
    positions = (np.arange(whole) - (divisor - 1) / 2 * is_centred) / divisor
    positions = positions.clip(0.0, reduced - 1)
    left = np.minimum(positions.astype(np.int64), max(reduced - 2, 0))
    right = np.minimum(left + 1, reduced - 1)
    share = positions - left
    starts = np.arange(size) * whole // size
    lengths = -(-(np.arange(size) + 1) * whole // size) - starts
    areas = np.repeat(np.arange(size), lengths)
    pixels = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths) + np.repeat(starts, lengths)
    weights = np.zeros((size, reduced))
    np.add.at(weights, (areas, left[pixels]), (1.0 - share[pixels]) / lengths[areas])
    np.add.at(weights, (areas, right[pixels]), share[pixels] / lengths[areas])
    return torch.from_numpy(weights.astype(np.float32))


def square_shape(height: int, width: int, aspect: float) -> tuple[float, float]:
    """Return an image's height and width after resampling to square pixels, with no side shrunk.

    Args:
        height: rows.
        width: columns.
        aspect: height of a pixel over its width.
    """
    return height * max(1.0, aspect), width * max(1.0, 1.0 / aspect)


def preprocessing(config: PreprocessConfig, size: int | None = None, intermediate: int = 0) -> Compose:
    """Build the chain from a ``Scan`` to the network's input ``[C, size, size]`` in [0, 1].

    Args:
        config: the detector's preprocessing.
        size: side of the result if not the network's, for the training cache.
        through: intermediate side to resize to first, if it is smaller; 0 for none.
    """
    size = size or config.size
    first = ScanToTensor(config.channels)
    fit = Letterbox if config.fit == "letterbox" else ResizeTo
    steps = [first, fit(intermediate), ResizeTo(size)] if 0 < intermediate < size else [first, fit(size)]
    if config.equalize:
        steps.append(HistogramNormalize(num_bins=256, min=0, max=1))
    return Compose(steps)


def network_input(scan: Scan, chain: Compose) -> Tensor:
    """Run ``chain`` and return a plain tensor ``[C, size, size]`` on the 256 grey levels 0, 1/255, ..., 1.

    Rounding to these levels makes an image from the training cache bit-identical to the same image at screening.
    """
    result = chain(scan)
    plain: Tensor = result.as_tensor() if hasattr(result, "as_tensor") else result
    return to_levels(plain).float() / 255.0


def to_levels(image: Tensor) -> Tensor:
    """Round values in [0, 1] to uint8 grey levels."""
    return (image.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
