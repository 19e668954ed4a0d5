"""What an engine is: it reads sources and embeds batches, wherever that is done.

A batch goes through the network on one thread: with more, the last bits of the scores would depend on how many. Several
batches go through it at once instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Protocol

import torch
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.features import Features
from medood.screening.read_worker import Listed, Readout

#: Features of a batch, and the seconds that they took.
Embedded = tuple[Features, float]


class Engine(Protocol):
    """Reads sources and embeds batches. All engines give the same results, in the same order."""

    def read(self, sources: Iterator[Listed], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """Read every source, in order; end early where ``stopped`` returns true."""
        ...

    def embed(self, images: Tensor) -> Future[Embedded]:
        """Features of ``[N, 1, S, S]`` images."""
        ...

    def close(self) -> None:
        """End the processes and threads of the engine."""
        ...


def use_one_thread() -> int:
    """Limit torch to one thread; returns the number it had before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before


def embed_batch(detector: Detector, images: Tensor) -> Embedded:
    """Features of a batch, and the seconds that they took."""
    started = time.perf_counter()
    return detector.embed(images), time.perf_counter() - started
