"""An auxiliary picture as it is: another thing altogether, with nothing shifted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from medood.negatives.shift import Parameters


@dataclass(frozen=True)
class ImageAsIs:
    """``image_as_is``: unchanged. For auxiliary pictures only; of an in-distribution picture it is no negative."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        return {}

    def apply(self, pictures: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        return pictures
