"""Grey scales that no radiograph has."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from medood.negatives.shift import Parameters, column, uniform


@dataclass(frozen=True)
class Inverted:
    """``inverted``: bone black, as when MONOCHROME1 is ignored."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        return {}

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        return 1.0 - images


@dataclass(frozen=True)
class WrongWindow:
    """``wrong_window``: a window of width 0.06 to 0.25 around a grey value of 0.2 to 0.8."""

    def sample(self, rows: Tensor, pool: int, side: int, generator: Generator) -> Parameters:
        return {
            "center": uniform(len(rows), 0.2, 0.8, generator),
            "width": uniform(len(rows), 0.06, 0.25, generator),
        }

    def apply(self, images: Tensor, parameters: Parameters, pool: Tensor) -> Tensor:
        return ((images - column(parameters["center"])) / column(parameters["width"]) + 0.5).clamp(0.0, 1.0)
