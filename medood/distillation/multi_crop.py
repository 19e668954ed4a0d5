"""The views of one training step, made on the device: global and local positives, and negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medood.config.schema import RunConfig
from medood.distillation.losses import UNKNOWN_TURN
from medood.distillation.side_stream import SideStream
from medood.distillation.views import acquire, crop, sample_view, to_device
from medood.errors import MedoodError
from medood.negatives.mixture import QUARTER_TURNS, Mixture


class ImageArray(Protocol):
    """uint8 ``[N, S, S]`` grey or ``[N, 3, S, S]`` colour images, read row by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The images at the given indices."""
        ...


def as_tensor(images: npt.NDArray[np.uint8], device: torch.device | None = None) -> Tensor:
    """The images as float32 ``[N, C, S, S]`` in [0, 1]."""
    values = torch.from_numpy(images).to(device).float().div_(255.0)
    return values if values.ndim == 4 else values[:, None]


@dataclass
class StepViews:
    """Views of one step: ``[V * B, C, s, s]`` tensors, ordered by view.

    With a rotation head also the quarter turns of the positives and negatives, int64 ``[V * B]``.
    """

    positives: Tensor
    locals: Tensor | None
    negatives: Tensor | None
    local_negatives: Tensor | None = None
    turns: Tensor | None = None

    def part(self, rows: slice, batch: int) -> StepViews:
        """The views of the images in ``rows``, out of ``batch`` images."""

        def cut(views: Tensor | None) -> Tensor | None:
            return None if views is None else views.view(-1, batch, *views.shape[1:])[:, rows].flatten(0, 1)

        positives = cut(self.positives)
        assert positives is not None
        return StepViews(positives, cut(self.locals), cut(self.negatives), cut(self.local_negatives), cut(self.turns))


class ViewMaker:
    """Makes this process's share of the views of a step.

    Every process draws for all images of the step, so that the number of processes does not affect the views.

    Args:
        config: configuration of the run.
        images: in-distribution images.
        auxiliary: images to make negatives from, if ``negatives.sources`` requires them.
        device: device on which views are made.
        rank: rank of this process.
        world: number of processes.

    Raises:
        MedoodError: auxiliary images are required but missing.
    """

    def __init__(
        self,
        config: RunConfig,
        images: ImageArray,
        auxiliary: ImageArray | None,
        device: torch.device,
        rank: int,
        world: int,
    ) -> None:
        self._config = config
        self._pictures = images
        self._sources = _sources(config, auxiliary)
        self._device = device
        self._mine = slice(rank, None, world)
        self._beside = SideStream(device)
        self._prepared: tuple[int, StepViews] | None = None

    def prepare(self, step: int, rows: npt.NDArray[np.int64]) -> None:
        """On a GPU, begin to make the views of a later step beside what it computes now; elsewhere do nothing."""
        if self._beside.exists:
            with self._beside.work():
                self._prepared = step, self.make(step, rows)

    def take(self, step: int, rows: npt.NDArray[np.int64]) -> StepViews:
        """The views of a step, prepared or made now."""
        prepared, self._prepared = self._prepared, None
        if prepared is None or prepared[0] != step:
            return self.make(step, rows)
        views = prepared[1]
        self._beside.hand_over(view for view in vars(views).values() if view is not None)
        return views

    def make(self, step: int, rows: npt.NDArray[np.int64]) -> StepViews:
        """Make the views of the images in ``rows``; the random draws depend on (seed, step) only."""
        generator = torch.Generator().manual_seed(mix_seed(self._config.train.seed, 2, step, 0))
        config, size = self._config.views, self._config.network_size
        source = self._load(self._pictures, rows)
        positives = self._crops(source, config.global_count, config.global_scale, size, generator)
        local = None
        if config.local_count:
            local = self._crops(source, config.local_count, config.local_scale, config.local_size, generator)
        shifted, shifted_locals, settings = list[Tensor](), list[Tensor](), self._config.negatives
        turns = [torch.zeros(len(positives), dtype=torch.int64)]
        for mixture, images in self._sources:
            if images is not None:
                chosen = torch.randint(len(images), (len(rows),), generator=generator).numpy()
                source = self._load(images, np.sort(chosen))
            for _ in range(settings.count):
                negatives, drawn = self._shifted(source, mixture, settings.scale, size, generator)
                shifted.append(negatives)
                turns.append(drawn if images is None else torch.full_like(drawn, UNKNOWN_TURN))
            for _ in range(settings.local_count):
                negatives, _ = self._shifted(source, mixture, config.local_scale, config.local_size, generator)
                shifted_locals.append(negatives)
        return StepViews(
            positives,
            local,
            torch.cat(shifted) if shifted else None,
            torch.cat(shifted_locals) if shifted_locals else None,
            torch.cat(turns).to(self._device) if self._config.model.rotation_head else None,
        )

    def _shifted(
        self, source: Tensor, mixture: Mixture, scale: list[float], side: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """One negative view of each image, of which this process keeps its share, and their turns."""
        crops = to_device(sample_view(len(source), scale, self._config.views, generator), source.device)
        draw = mixture.sample(len(source), side, generator)
        negatives = mixture.apply(crop(source, crops, side), draw)
        turns = torch.full((len(source),), UNKNOWN_TURN)
        if QUARTER_TURNS in draw.rows:
            turns[draw.rows[QUARTER_TURNS]] = draw.parameters[QUARTER_TURNS]["turns"]
        return acquire(negatives, crops)[self._mine], turns[self._mine]

    def _load(self, images: ImageArray, rows: npt.NDArray[np.int64]) -> Tensor:
        return as_tensor(images[rows], self._device)

    def _crops(self, source: Tensor, count: int, scale: list[float], side: int, generator: torch.Generator) -> Tensor:
        views = []
        for _ in range(count):
            crops = sample_view(len(source), scale, self._config.views, generator)
            crops = {name: value[self._mine].to(source.device) for name, value in crops.items()}
            views.append(acquire(crop(source[self._mine], crops, side), crops))
        return torch.cat(views)


def _sources(config: RunConfig, auxiliary: ImageArray | None) -> list[tuple[Mixture, ImageArray | None]]:
    """The sources of negatives: a mixture with its auxiliary images, or None for the step's own images."""
    chosen, sources = config.negatives, list[tuple[Mixture, ImageArray | None]]()
    count = chosen.count + chosen.local_count
    if count and chosen.mixture and chosen.sources in ("in_distribution", "both"):
        sources.append((Mixture(chosen.mixture), None))
    if count and chosen.sources in ("auxiliary", "both"):
        if auxiliary is None or not len(auxiliary):
            raise MedoodError("negatives.auxiliary: there is no image in it. Give folders that hold auxiliary images.")
        mixture = chosen.auxiliary_mixture or chosen.mixture
        if not mixture:
            raise MedoodError("negatives.auxiliary_mixture is empty; image_as_is: 1 takes the images as they are.")
        sources.append((Mixture(mixture), auxiliary))
    return sources


def mix_seed(*parts: int) -> int:
    """Derive one 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
