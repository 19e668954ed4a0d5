"""MONAI transforms from a source to the network's input. Training and screening go through the same ones."""

from __future__ import annotations

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, HistogramNormalize, Resize, SpatialPad, Transform
from torch import Tensor

from medood.config.schema import PreprocessConfig
from medood.scans.scan import Scan


class ScanToTensor(Transform):  # type: ignore[misc]  # MONAI is untyped
    """``Scan`` to a float32 ``MetaTensor`` ``[1, H, W]`` in [0, 1], whose affine holds the spacing (or the aspect alone)."""

    def __call__(self, scan: Scan) -> Tensor:
        """Return the pixels without a copy."""
        row, column = scan.spacing or (scan.aspect, 1.0)
        affine = torch.diag(torch.tensor([row, column, 1.0, 1.0], dtype=torch.float64))
        tensor: Tensor = MetaTensor(torch.from_numpy(scan.pixels), affine=affine)
        return tensor


class Letterbox(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Fit into a square with pixels made square, the rest black, evenly on both sides."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Tensor) -> Tensor:
        """``[1, H, W]`` to ``[1, size, size]``."""
        row, column = (float(v) for v in picture.pixdim[:2])  # type: ignore[attr-defined]
        height, width = square_shape(picture.shape[-2], picture.shape[-1], row / column)
        scale = self.size / max(height, width)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        fitted = resized(picture, inner)
        padded: Tensor = SpatialPad(spatial_size=(self.size, self.size), method="symmetric", mode="constant")(fitted)
        return padded


class ResizeTo(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Squash to ``size`` x ``size``."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Tensor) -> Tensor:
        """``[1, H, W]`` to ``[1, size, size]``."""
        return resized(picture, (self.size, self.size))


def resized(picture: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize by area where a side shrinks, so that nothing aliases, else bilinear."""
    shrinks = picture.shape[-2] > shape[0] or picture.shape[-1] > shape[1]
    result: Tensor = Resize(shape, mode="area" if shrinks else "bilinear")(picture)
    return result


def square_shape(height: int, width: int, aspect: float) -> tuple[float, float]:
    """The sides of a picture whose pixels are made square, none of them shrunk.

    Args:
        height: rows.
        width: columns.
        aspect: height of a pixel over its width.
    """
    return height * max(1.0, aspect), width * max(1.0, 1.0 / aspect)


def preprocessing(config: PreprocessConfig, size: int | None = None, through: int = 0) -> Compose:
    """The chain from a ``Scan`` to the network's input ``[1, size, size]`` in [0, 1].

    Args:
        config: the detector's preprocessing.
        size: another side than the network's, for the training cache.
        through: a side to bring the picture to on the way, where that is smaller; 0 for none.
    """
    size = size or config.size
    fit = Letterbox if config.fit == "letterbox" else ResizeTo
    steps = [ScanToTensor(), fit(through), ResizeTo(size)] if 0 < through < size else [ScanToTensor(), fit(size)]
    if config.equalize:
        steps.append(HistogramNormalize(num_bins=256, min=0, max=1))
    return Compose(steps)


def network_input(scan: Scan, chain: Compose) -> Tensor:
    """Run ``chain`` and return a plain tensor ``[1, size, size]`` on the 256 grey levels 0, 1/255, ..., 1.

    The levels make a picture from the training cache and the same picture at screening equal, bit for bit.
    """
    result = chain(scan)
    plain: Tensor = result.as_tensor() if hasattr(result, "as_tensor") else result
    return to_levels(plain).float() / 255.0


def to_levels(picture: Tensor) -> Tensor:
    """[0, 1] to uint8 grey levels, rounded."""
    return (picture.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
