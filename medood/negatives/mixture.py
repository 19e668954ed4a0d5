"""The configured mixture of shifting transformations."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medood.errors import MedoodError
from medood.negatives.compositing import BlendedPatch, JoinedHalves
from medood.negatives.dead_leaves import DeadLeaves
from medood.negatives.diffuse import Effusion, Haze
from medood.negatives.framing import Stretched, WrongFraming
from medood.negatives.identity import Identity
from medood.negatives.intensity import Inverted, WrongWindow
from medood.negatives.lesions import Displaced, ForeignStructure, Infiltrate, Lucency, Nodules, Reticular
from medood.negatives.opacity import SimulatedOpacity
from medood.negatives.orientation import AnyTurn, Mirror, QuarterTurn, UpsideDown
from medood.negatives.permutation import PatchPermutation, PixelPermutation
from medood.negatives.shift import Parameters, Shift

#: The transformation whose number of quarter turns the rotation head predicts.
QUARTER_TURNS = "rot"
#: Lesions for the lesion network, many of them faint.
LESIONS = ("infiltrate", "reticular", "nodules", "lucency", "displaced", "foreign_structure")
#: Every shifting transformation by its name in a configuration.
SHIFTS: dict[str, Shift] = {
    "rot": QuarterTurn(),
    "rot_360": AnyTurn(),
    "mirror": Mirror(),
    "upside_down": UpsideDown(),
    "perm4": PatchPermutation(2),
    "perm16": PatchPermutation(4),
    "pixel_perm": PixelPermutation(),
    "inverted": Inverted(),
    "wrong_window": WrongWindow(),
    "framing": WrongFraming(),
    "joined_halves": JoinedHalves(),
    "blended_patch": BlendedPatch(),
    "opacity": SimulatedOpacity(),
    "haze": Haze(),
    "effusion": Effusion(),
    "infiltrate": Infiltrate(),
    "reticular": Reticular(),
    "nodules": Nodules(),
    "lucency": Lucency(),
    "displaced": Displaced(),
    "foreign_structure": ForeignStructure(),
    "stretched": Stretched(),
    "dead_leaves": DeadLeaves(),
    "image_as_is": Identity(),
}


@dataclass(frozen=True)
class Draw:
    """Random draw for one batch: rows and parameters of each shift. Applying it again gives the same images."""

    rows: dict[str, Tensor]
    parameters: dict[str, Parameters]


class Mixture:
    """Draws one shift per image, by weight.

    Args:
        weights: weight of each shift by name.

    Raises:
        MedoodError: a name is unknown, or no weight is above 0.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        for name in weights:
            if name not in SHIFTS:
                nearest = difflib.get_close_matches(name, SHIFTS, n=1, cutoff=0.0)[0]
                raise MedoodError(
                    f"negatives.mixture: {name!r} is not a shifting transformation. Did you mean {nearest!r}? "
                    f"Known: {', '.join(SHIFTS)}."
                )
        self.names = [name for name, weight in weights.items() if weight > 0]
        if not self.names:
            raise MedoodError("negatives.mixture: no weight is above 0; leave the mixture empty to train without.")
        self._weights = torch.tensor([weights[name] for name in self.names], dtype=torch.float64)

    def sample(self, count: int, side: int, generator: Generator) -> Draw:
        """Draw a shift and its parameters for each of ``count`` images."""
        kind = torch.multinomial(self._weights, count, replacement=True, generator=generator)
        rows = {name: torch.nonzero(kind == i).flatten() for i, name in enumerate(self.names)}
        rows = {name: chosen for name, chosen in rows.items() if len(chosen)}
        parameters = {name: SHIFTS[name].sample(chosen, count, side, generator) for name, chosen in rows.items()}
        return Draw(rows, parameters)

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Shift ``[N, 1, S, S]`` images as drawn."""
        shifted = images.clone()
        for name, rows in draw.rows.items():
            rows = rows.to(images.device)
            parameters = {key: value.to(images.device) for key, value in draw.parameters[name].items()}
            shifted[rows] = SHIFTS[name].apply(images[rows], parameters, images)
        return shifted
