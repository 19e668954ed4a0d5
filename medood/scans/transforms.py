"""MONAI transforms from a source to the network's input. Training and screening go through the same ones."""

from __future__ import annotations

import torch
from monai.transforms import Compose, Resize, SpatialPad, Transform
from torch import Tensor

from medood.config import PreprocessConfig
from medood.scans.scan import Scan


class ScanToTensor(Transform):  # type: ignore[misc]  # MONAI is untyped
    """``Scan`` to a float32 tensor ``[1, H, W]`` in [0, 1]."""

    def __call__(self, scan: Scan) -> Tensor:
        """Return the pixels without a copy."""
        return torch.from_numpy(scan.pixels)


class SquarePad(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Pad the shorter side with black, evenly, to a square (letterbox)."""

    def __call__(self, picture: Tensor) -> Tensor:
        """``[1, H, W]`` to ``[1, S, S]``, S being the longer side."""
        side = max(picture.shape[-2:])
        padded: Tensor = SpatialPad(spatial_size=(side, side), method="symmetric", mode="constant")(picture)
        return padded


class ResizeTo(Transform):  # type: ignore[misc]  # MONAI is untyped
    """Resize to ``size`` x ``size``: by area where a side shrinks, so that nothing aliases, else bilinear."""

    def __init__(self, size: int) -> None:
        self._area = Resize((size, size), mode="area")
        self._bilinear = Resize((size, size), mode="bilinear")
        self.size = size

    def __call__(self, picture: Tensor) -> Tensor:
        """``[1, H, W]`` to ``[1, size, size]``."""
        resize = self._area if max(picture.shape[-2:]) > self.size else self._bilinear
        resized: Tensor = resize(picture)
        return resized


def preprocessing(config: PreprocessConfig, size: int | None = None) -> Compose:
    """The chain from a ``Scan`` to the network's input ``[1, size, size]`` in [0, 1].

    Args:
        config: the detector's preprocessing.
        size: another side than the network's, for the training cache.
    """
    steps: list[Transform] = [ScanToTensor()]
    if config.fit == "letterbox":
        steps.append(SquarePad())
    steps.append(ResizeTo(size or config.size))
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
