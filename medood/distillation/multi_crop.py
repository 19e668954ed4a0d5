"""The views of one step, made on the device: positives large and small, and negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medood.config.schema import RunConfig
from medood.distillation.views import acquire, crop, sample_view, to_device
from medood.errors import MedoodError
from medood.negatives.mixture import Mixture


class Pictures(Protocol):
    """uint8 ``[N, S, S]`` pictures, read row by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The pictures of some rows."""
        ...


@dataclass
class StepViews:
    """Views of one step: ``[V * B, 1, s, s]`` tensors, view by view."""

    positives: Tensor
    locals: Tensor | None
    negatives: Tensor | None

    def part(self, rows: slice, batch: int) -> StepViews:
        """The views of some of the ``batch`` pictures."""

        def cut(views: Tensor | None) -> Tensor | None:
            return None if views is None else views.view(-1, batch, *views.shape[1:])[:, rows].flatten(0, 1)

        positives = cut(self.positives)
        assert positives is not None
        return StepViews(positives, cut(self.locals), cut(self.negatives))


class ViewMaker:
    """Makes this process's share of the views of a step. All processes draw for all pictures of the step, so that their
    number changes nothing.

    Args:
        config: the run.
        pictures: in-distribution pictures.
        auxiliary: pictures to make negatives of, where ``negatives.sources`` asks for them.
        device: where views are made.
        rank: of this process.
        world: number of processes.

    Raises:
        MedoodError: auxiliary pictures are asked for and there are none.
    """

    def __init__(
        self, config: RunConfig, pictures: Pictures, auxiliary: Pictures | None, device: torch.device, rank: int, world: int
    ) -> None:
        self._config = config
        self._pictures = pictures
        self._sources = _sources(config, auxiliary)
        self._device = device
        self._mine = slice(rank, None, world)

    def make(self, step: int, rows: npt.NDArray[np.int64]) -> StepViews:
        """The views of the pictures in ``rows``, drawn from (seed, step) alone."""
        generator = torch.Generator().manual_seed(mix_seed(self._config.train.seed, 2, step, 0))
        config, size = self._config.views, self._config.preprocess.size
        source = self._load(self._pictures, rows)
        positives = self._crops(source, config.global_count, config.global_scale, size, generator)
        local = None
        if config.local_count:
            local = self._crops(source, config.local_count, config.local_scale, config.local_size, generator)
        shifted = []
        for mixture, pictures in self._sources:
            if pictures is not None:
                chosen = torch.randint(len(pictures), (len(rows),), generator=generator).numpy()
                source = self._load(pictures, np.sort(chosen))
            for _ in range(self._config.negatives.count):
                drawn = to_device(sample_view(len(source), self._config.negatives.scale, config, generator), source.device)
                plain = crop(source, drawn, size)
                made = mixture.apply(plain, mixture.sample(len(source), size, generator))
                shifted.append(acquire(made, drawn)[self._mine])
        return StepViews(positives, local, torch.cat(shifted) if shifted else None)

    def _load(self, pictures: Pictures, rows: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(pictures[rows]).to(self._device).float().div_(255.0)[:, None]

    def _crops(self, source: Tensor, count: int, scale: list[float], side: int, generator: torch.Generator) -> Tensor:
        views = []
        for _ in range(count):
            drawn = sample_view(len(source), scale, self._config.views, generator)
            drawn = {name: value[self._mine].to(source.device) for name, value in drawn.items()}
            views.append(acquire(crop(source[self._mine], drawn, side), drawn))
        return torch.cat(views)


def _sources(config: RunConfig, auxiliary: Pictures | None) -> list[tuple[Mixture, Pictures | None]]:
    """What negatives are made of: a mixture, and auxiliary pictures or (none) the step's own."""
    chosen, sources = config.negatives, list[tuple[Mixture, Pictures | None]]()
    if chosen.count and chosen.mixture and chosen.sources in ("in_distribution", "both"):
        sources.append((Mixture(chosen.mixture), None))
    if chosen.count and chosen.sources in ("auxiliary", "both"):
        if auxiliary is None or not len(auxiliary):
            raise MedoodError("negatives.auxiliary: there is no picture in it. Give folders that hold auxiliary pictures.")
        mixture = chosen.auxiliary_mixture or chosen.mixture
        if not mixture:
            raise MedoodError("negatives.auxiliary_mixture is empty; image_as_is: 1 takes the pictures as they are.")
        sources.append((Mixture(mixture), auxiliary))
    return sources


def mix_seed(*parts: int) -> int:
    """One 63-bit seed out of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
