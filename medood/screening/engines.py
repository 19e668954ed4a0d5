"""Where the work of a run is done: in this process, with worker processes that read, or on a cluster.

A batch goes through the network on one thread, wherever that is: with more, the last bits of scores depend on how many.
Several batches go through it at once instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.features import Features
from medood.errors import MedoodError
from medood.screening.reading import Listed, Reading, Readout, read_results
from medood.screening.workers import Workers

#: Names of the engines.
ENGINES = ("local", "dask")
#: Features of a batch, and the seconds that they took.
Embedded = tuple[Features, float]
#: Seconds between two questions for a new source.
_TICK = 0.2


class Engine(Protocol):
    """Reads sources and embeds batches. All engines give the same, in the same order."""

    def read(self, listed: Iterator[Listed], stopped: Callable[[], bool]) -> Iterator[Readout]:
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
        self._threads = _one_thread()

    def read(self, listed: Iterator[Listed], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """See :class:`Engine`."""
        for found in listed:
            if stopped():
                return
            if found is None:
                yield None
                time.sleep(_TICK)
            else:
                yield found[0], read_results(found[1], self._reading)

    def embed(self, pictures: Tensor) -> Future[Embedded]:
        """See :class:`Engine`."""
        future: Future[Embedded] = Future()
        future.set_result(_embedded(self._detector, pictures))
        return future

    def close(self) -> None:
        """See :class:`Engine`."""
        torch.set_num_threads(self._threads)


class Isolated:
    """Worker processes read, as many threads of this process embed."""

    def __init__(self, reading: Reading, detector: Detector, workers: int, timeout: float) -> None:
        self._detector = detector
        self._workers = Workers(workers, reading, timeout)
        self._threads = _one_thread()
        self._pool = ThreadPoolExecutor(min(workers, self._threads), "embedding")

    def read(self, listed: Iterator[Listed], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """See :class:`Engine`."""
        return self._workers.read(listed, stopped)

    def embed(self, pictures: Tensor) -> Future[Embedded]:
        """See :class:`Engine`."""
        return self._pool.submit(_embedded, self._detector, pictures)

    def close(self) -> None:
        """See :class:`Engine`."""
        self._workers.close()
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)


def check_engine(name: str, scheduler: str) -> None:
    """Find a mistake before anything is written.

    Raises:
        MedoodError: there is no such engine, or it takes no scheduler.
    """
    if name not in ENGINES:
        raise MedoodError(f"--engine is {name!r}; expected one of {', '.join(ENGINES)}.")
    if scheduler and name != "dask":
        raise MedoodError("--scheduler was given without --engine dask.")


def make_engine(
    name: str, reading: Reading, detector: Detector, workers: int, timeout: float, scheduler: str = ""
) -> Engine:
    """An engine by its name.

    Raises:
        MedoodError: it cannot be started.
    """
    if name == "dask":
        from medood.screening.cluster import Cluster

        return Cluster(reading, detector, workers, timeout, scheduler)
    return Isolated(reading, detector, workers, timeout) if workers else Here(reading, detector)


def _one_thread() -> int:
    """Leave torch one thread; how many it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before


def _embedded(detector: Detector, pictures: Tensor) -> Embedded:
    started = time.perf_counter()
    return detector.embed(pictures), time.perf_counter() - started
