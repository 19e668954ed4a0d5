"""An auxiliary image as it is: already out-of-distribution, so nothing is shifted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from medood.negatives.shift import Parameters


@dataclass(frozen=True)
class Identity:
    """``image_as_is``: unchanged. For auxiliary images only; an unchanged in-distribution image is not a negative."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        return {}

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        return images
