"""Faults of whole radiographs that the lesion network names, made by shifting transformations before registration."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from medood.negatives.mixture import Mixture

#: What the network may call a radiograph; the first is none of the faults.
FAULTS = (
    "",
    "rotated_90_ccw",
    "rotated_180",
    "rotated_90_cw",
    "mirrored",
    "upside_down",
    "inverted",
    "wrong_window",
    "cropped_or_misframed",
    "not_a_frontal_chest_radiograph",
)
_NAMES = {
    "mirror": "mirrored",
    "upside_down": "upside_down",
    "inverted": "inverted",
    "wrong_window": "wrong_window",
    "framing": "cropped_or_misframed",
    "stretched": "cropped_or_misframed",
}


def plant_faults(images: Tensor, mixture: Mixture, share: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Put a share of ``[N, 1, S, S]`` radiographs through a fault each.

    Every transformation without a name of its own counts as ``not_a_frontal_chest_radiograph``.

    Args:
        images: float32 radiographs in [0, 1].
        mixture: shifting transformations.
        share: share of the radiographs, in [0, 1).
        generator: a CPU generator.

    Returns:
        the radiographs, and the index in :data:`FAULTS` of what was done to each, int64 ``[N]`` on the CPU.
    """
    fault = torch.zeros(len(images), dtype=torch.int64)
    rows = torch.nonzero(torch.rand(len(images), generator=generator) < share).flatten()
    if len(rows) < 2:  # some transformations need another patient
        return images, fault
    draw = mixture.sample(len(rows), images.shape[-1], generator)
    for name, chosen in draw.rows.items():
        turns = draw.parameters[name].get("turns") if name == "rot" else None
        named = FAULTS.index(_NAMES.get(name, "not_a_frontal_chest_radiograph"))
        fault[rows[chosen]] = turns if turns is not None else named
    faulty = images.clone()
    faulty[rows.to(images.device)] = mixture.apply(images[rows.to(images.device)], draw)
    return faulty, fault
