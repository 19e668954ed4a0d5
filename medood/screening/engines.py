"""Where the work of a run is done: in this process, or with worker processes that read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.features import Features
from medood.screening.reading import Place, Placed, Reading, Result, read_results
from medood.screening.workers import Workers

#: Features of a batch, and the seconds that they took.
Embedded = tuple[Features, float]


class Engine(Protocol):
    """Reads sources and embeds batches. All engines give the same, in the same order."""

    def read(self, placed: Iterator[Placed], stopped: Callable[[], bool]) -> Iterator[tuple[Place, list[Result]]]:
        """What is read of every source, in their order; ends early where ``stopped`` says yes."""
        ...

    def embed(self, pictures: Tensor) -> Future[Embedded]:
        """Features of ``[N, 1, S, S]`` pictures."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class Here:
    """Everything in this process, one thing after the other."""

    def __init__(self, reading: Reading, detector: Detector) -> None:
        self._reading, self._detector = reading, detector

    def read(self, placed: Iterator[Placed], stopped: Callable[[], bool]) -> Iterator[tuple[Place, list[Result]]]:
        """See :class:`Engine`."""
        for place, source in placed:
            if stopped():
                return
            yield place, read_results(source, self._reading)

    def embed(self, pictures: Tensor) -> Future[Embedded]:
        """See :class:`Engine`."""
        future: Future[Embedded] = Future()
        future.set_result(_embedded(self._detector, pictures))
        return future

    def close(self) -> None:
        """Nothing was started."""


class Isolated:
    """Worker processes read, a thread of this process embeds."""

    def __init__(self, reading: Reading, detector: Detector, workers: int, timeout: float) -> None:
        self._detector = detector
        self._workers = Workers(workers, reading, timeout)
        self._thread = ThreadPoolExecutor(1, "embedding")

    def read(self, placed: Iterator[Placed], stopped: Callable[[], bool]) -> Iterator[tuple[Place, list[Result]]]:
        """See :class:`Engine`."""
        return self._workers.read(placed, stopped)

    def embed(self, pictures: Tensor) -> Future[Embedded]:
        """See :class:`Engine`."""
        return self._thread.submit(_embedded, self._detector, pictures)

    def close(self) -> None:
        """See :class:`Engine`."""
        self._workers.close()
        self._thread.shutdown(cancel_futures=True)


def make_engine(reading: Reading, detector: Detector, workers: int, timeout: float) -> Engine:
    """The engine for a number of worker processes."""
    return Isolated(reading, detector, workers, timeout) if workers else Here(reading, detector)


def _embedded(detector: Detector, pictures: Tensor) -> Embedded:
    started = time.perf_counter()
    return detector.embed(pictures), time.perf_counter() - started
