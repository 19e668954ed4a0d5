"""Benchmark of screening an archive against its parts: reading and decoding alone, and scoring alone."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from medood.allocator import keep_freed_memory
from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.progress import Progress
from medood.screening.execution.base import use_one_thread
from medood.screening.execution.worker_pool import WorkerPool
from medood.screening.read_worker import ReadSpec
from medood.screening.run import screen
from medood.screening.run_options import RunOptions, cores
from medood.screening.source_listing import SourceListing

_BATCH, _TIMEOUT = 32, 300.0


@dataclass(frozen=True)
class ScreeningSpeed:
    """Speed of screening, in images per second on all cores; medians over the repeats, in which the three alternate.

    Attributes:
        images: number of images.
        decode: reading, decoding and preprocessing alone.
        score: the networks alone.
        screen: a run from its start to its ledger, with a worker process a core.
        limit: the lower of the two parts, which a run cannot exceed.
        share: median over the repeats of ``screen`` / ``limit``.
    """

    images: int
    decode: float
    score: float
    screen: float
    limit: float
    share: float


def decode_all(detector: Detector, source: Path, read: ReadConfig) -> int:
    """Read every scan of an archive as a run does, with a worker process a core; return the number of images."""
    workers, images = WorkerPool(cores(), ReadSpec(read, detector.preprocess), _TIMEOUT), 0
    try:
        for readout in workers.read(SourceListing([source], source, read).enumerate_sources(), lambda: False):
            images += sum(result.image is not None for result in readout[1]) if readout else 0
    finally:
        workers.close()
    return images


def score_all(detector: Detector, images: int) -> int:
    """Embed and score random images, one batch a thread on every core; return their number."""
    batches = torch.split(torch.rand(images, detector.preprocess.channels, *(detector.preprocess.size,) * 2), _BATCH)
    before = use_one_thread()
    try:
        with ThreadPoolExecutor(cores()) as pool:
            for rows in pool.map(detector.embed, batches):
                detector.judge(rows, 0.5)
    finally:
        torch.set_num_threads(before)
    return images


def screen_all(detector: Detector, source: Path, read: ReadConfig) -> int:
    """Screen an archive into a temporary run; return the number of images."""
    with tempfile.TemporaryDirectory(prefix="medood-") as folder:
        fpr = max(0.05, 1.0 / min(detector.calibration.counts().values()))  # what a small calibration allows
        run, options = Path(folder) / "run", RunOptions(workers=cores())
        summary = screen([source], detector, run, fpr=fpr, read=read, options=options)
        return summary.flagged + summary.accepted


def screening_speed(
    source: Path, detector: str, read: ReadConfig, repeats: int = 5, progress: Progress | None = None
) -> ScreeningSpeed:
    """Measure the speed of screening an archive, each side in a process of its own.

    Args:
        source: the archive or folder.
        detector: the detector's folder, or the name of a shipped one.
        read: how scans are read.
        repeats: number of timings of each side.
        progress: progress display; None shows nothing.

    Raises:
        MedoodError: the detector is missing or damaged.
    """
    Detector.load(detector)
    progress = progress or Progress(quiet=True)
    rates: list[tuple[float, float, float]] = []
    images = 1
    for _ in progress.track(iter(range(repeats)), repeats, "timing"):
        images, decode_seconds = _alone(decode_all, detector, source, read)
        images = max(images, 1)
        _, score_seconds = _alone(score_all, detector, images)
        _, screen_seconds = _alone(screen_all, detector, source, read)
        rates.append((images / decode_seconds, images / score_seconds, images / screen_seconds))
    decode, score, whole = (statistics.median(column) for column in zip(*rates, strict=True))
    share = statistics.median(s / min(d, n) for d, n, s in rates)
    return ScreeningSpeed(images, decode, score, whole, min(decode, score), share)


def _alone(work: Callable[..., int], detector: str, *arguments: object) -> tuple[int, float]:
    """The images and the seconds of work in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timed, work, detector, *arguments).result()


def _timed(work: Callable[..., int], folder: str, *arguments: object) -> tuple[int, float]:
    keep_freed_memory()
    detector = Detector.load(folder)  # not counted, as imports are not
    started = time.perf_counter()
    images = work(detector, *arguments)
    return images, time.perf_counter() - started


@dataclass(frozen=True)
class ScoringSpeed:
    """Speed of a detector's networks, in images per second; medians over the repeats.

    Attributes:
        one_thread: on one thread.
        all_cores: one batch a thread on every core.
        gflop: billions of floating-point operations that one image costs in layers and matrix products.
        limit: what all cores could do if the networks ran as fast as a large matrix product.
    """

    one_thread: float
    all_cores: float
    gflop: float
    limit: float


def scoring_speed(detector: Detector, images: int = 256, repeats: int = 5) -> ScoringSpeed:
    """Measure the speed of a detector's networks.

    Args:
        detector: the detector.
        images: number of random images in each timing on all cores.
        repeats: number of timings.
    """
    rates: list[tuple[float, float, float]] = []
    rows = torch.rand(min(images, _BATCH), detector.preprocess.channels, *(detector.preprocess.size,) * 2)
    side = 1024
    matrix = torch.randn(side, side)
    for _ in range(repeats):
        before = use_one_thread()
        single = len(rows) / _seconds(lambda: detector.embed(rows))
        torch.set_num_threads(before)
        every = images / _seconds(lambda: score_all(detector, images))
        rates.append((single, every, 10 * 2.0 * side**3 / _seconds(lambda: [matrix @ matrix for _ in range(10)])))
    one, all_cores, product = (statistics.median(column) for column in zip(*rates, strict=True))
    with FlopCounterMode(display=False) as counter:
        detector.embed(rows)
    operations = counter.get_total_flops() / len(rows)
    return ScoringSpeed(one, all_cores, operations / 1e9, product / operations)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
