"""Benchmark of training speed against a plain implementation, with the same network and crops in the same run."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from medood.config.schema import RunConfig
from medood.distillation.multi_crop import StepViews, ViewMaker
from medood.distillation.network import student_and_teacher, update_teacher
from medood.distillation.trainer import Trainer
from medood.progress import Progress

#: Number of synthetic images to train on; only their number and size affect the timing.
_PICTURES = 512


@dataclass(frozen=True)
class TrainingSpeed:
    """Training speed: medians over the repeats, with both implementations timed alternately.

    Attributes:
        step: images per second of forward, backward and update alone.
        loader: images per second of making the views alone.
        both: images per second of whole steps.
        wait: share of a whole step in which the network waits for its views.
        plain: images per second of the plain implementation.
        ratio: median over the repeats of ``both`` / ``plain``.
        flops: floating-point operations per second of the network's layers, forward and backward.
        matmul: floating-point operations per second of one large matrix product here, in the run's precision.
        threads: CPU threads.
        batch: images per step.
    """

    step: float
    loader: float
    both: float
    wait: float
    plain: float
    ratio: float
    flops: float
    matmul: float
    threads: int
    batch: int


def training_speed(config: RunConfig, steps: int = 3, repeats: int = 5, progress: Progress | None = None) -> TrainingSpeed:
    """Measure the training speed of a configuration.

    Args:
        config: configuration of the run; its data are not read.
        steps: number of steps per timing.
        repeats: number of timings per implementation.
        progress: progress display; None shows nothing.
    """
    progress = progress or Progress(quiet=True)
    config = copy.deepcopy(config)
    config.train.epochs = max(config.train.epochs, 100)
    colour = (3,) if config.preprocess.channels == 3 else ()
    shape = (_PICTURES, *colour, config.views.source_size, config.views.source_size)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with tempfile.TemporaryDirectory(prefix="medood-") as folder:
        trainer = Trainer(config, images, Path(folder))
        whole, network, loader = _seconds_of(trainer)
        plain = _Plain(trainer.config, images, trainer.fabric.device)
        ways = (whole, network, loader, plain.step)
        times = [
            tuple(_time(way, steps) for way in ways) for _ in progress.track(iter(range(repeats + 1)), repeats + 1, "timing")
        ]
        plain.close()
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            whole()
        matmul = _matmul_rate(trainer)
    batch, measured = trainer.batch, times[1:]  # the first warms caches and allocators
    whole_median, network_median, views_median, plain_median = (
        statistics.median(column) for column in zip(*measured, strict=True)
    )
    return TrainingSpeed(
        batch / network_median,
        batch / views_median,
        batch / whole_median,
        max(0.0, 1.0 - network_median / whole_median),
        batch / plain_median,
        statistics.median(p / o for o, _, _, p in measured),
        counter.get_total_flops() / whole_median,
        matmul,
        torch.get_num_threads(),
        batch,
    )


class _FixedViews:
    """Gives the same views at every step."""

    def __init__(self, views: StepViews) -> None:
        self._views = views

    def take(self, step: int, rows: npt.NDArray[np.int64]) -> StepViews:
        return self._views

    def prepare(self, step: int, rows: npt.NDArray[np.int64]) -> None:
        """There is nothing to prepare."""


def _seconds_of(trainer: Trainer) -> tuple[Callable[[], object], Callable[[], object], Callable[[], object]]:
    """Three functions: a whole step of the trainer; the same on views that are there already; making the views alone."""
    counter, maker = iter(range(10**9)), trainer.views
    fixed = _FixedViews(maker.make(0, trainer.rows_of(0)))

    def step_with(views: ViewMaker | _FixedViews) -> object:
        trainer.views = views  # type: ignore[assignment]
        step = next(counter)
        return trainer.take_step(step, trainer.rows_of(step))

    def views() -> object:
        return maker.make(0, trainer.rows_of(0))

    return lambda: step_with(maker), lambda: step_with(fixed), views


def _matmul_rate(trainer: Trainer, side: int = 4096) -> float:
    """Floating-point operations per second of a square matrix product on the trainer's device, best of five."""
    device = trainer.fabric.device
    side = side if device.type == "cuda" else 1024
    kind = torch.bfloat16 if trainer.precision == "bf16-mixed" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))

    def product() -> object:
        for _ in range(10):
            result = left @ right
        return float(result[0, 0])  # waits for the device

    product()
    return 10 * 2.0 * side**3 / min(_time(product, 1) for _ in range(5))


def _time(work: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / count


class _PlainViews(Dataset[list[Tensor]]):
    """Crops of one image, made one by one with torchvision."""

    def __init__(self, config: RunConfig, images: npt.NDArray[np.uint8]) -> None:
        self._pictures = images
        views, size = config.views, config.network_size

        def chain(side: int, scale: list[float]) -> transforms.Compose:
            return transforms.Compose(
                [
                    transforms.RandomRotation(views.rotation, transforms.InterpolationMode.BILINEAR),
                    transforms.RandomResizedCrop(side, scale=tuple(scale), ratio=(1 / views.aspect, views.aspect)),
                    transforms.ColorJitter(brightness=views.brightness, contrast=views.contrast),
                    transforms.RandomApply([transforms.GaussianBlur(5, (0.2, max(views.blur_sigma, 0.21)))], views.blur),
                    transforms.ToTensor(),
                ]
            )

        self._chains = [chain(size, views.global_scale)] * views.global_count
        self._chains += [chain(views.local_size, views.local_scale)] * views.local_count
        self._chains += [chain(size, config.negatives.scale)] * config.negatives.count

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> list[Tensor]:
        image = Image.fromarray(self._pictures[index].T if self._pictures.ndim == 4 else self._pictures[index])
        views = [chain(image) for chain in self._chains]
        views[-1] = torch.rot90(views[-1], 1 + index % 3, (-2, -1))
        return views


class _Plain:
    """Plain implementation: per-image transforms in workers, loops over crops and loss pairs, teacher on negatives too."""

    def __init__(self, config: RunConfig, images: npt.NDArray[np.uint8], device: torch.device) -> None:
        self._config = config
        self._device = device
        self._student, self._teacher = student_and_teacher(config.model, config.network_size, config.preprocess.channels)
        self._student.to(device), self._teacher.to(device)
        self._optimizer = torch.optim.AdamW(self._student.parameters(), lr=1e-4)
        loader = DataLoader(
            _PlainViews(config, images), config.train.batch_size, shuffle=True, drop_last=True, num_workers=2
        )
        self._loader, self._batches = loader, iter(loader)

    def step(self) -> None:
        try:
            batch = next(self._batches)
        except StopIteration:
            self._batches = iter(self._loader)
            batch = next(self._batches)
        batch = [view.to(self._device) for view in batch]
        settings, large = self._config.train, self._config.views.global_count
        negative = batch.pop() if self._config.negatives.count else None
        with torch.no_grad():
            teacher = [torch.softmax(self._teacher([view])[0][1] / 0.04, dim=-1) for view in batch[:large]]
            if negative is not None:
                self._teacher([negative])
        student = [self._student([view])[0][1] / settings.student_temperature for view in batch]
        total, pairs = torch.zeros((), device=self._device), 0
        for t, target in enumerate(teacher):
            for s, output in enumerate(student):
                if s != t:
                    total = total - (target * functional.log_softmax(output, dim=-1)).sum(dim=-1).mean()
                    pairs += 1
        total = total / pairs
        if negative is not None:
            output = self._student([negative])[0][1] / settings.student_temperature
            total = total - functional.log_softmax(output, dim=-1).mean(dim=-1).mean()
        self._optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), settings.gradient_clip)
        self._optimizer.step()
        update_teacher(self._teacher, self._student, 0.99)

    def close(self) -> None:
        """Stop the workers."""
        del self._batches, self._loader
