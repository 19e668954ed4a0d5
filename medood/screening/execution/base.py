"""The engine protocol: an engine reads sources and embeds batches.

Each batch is embedded on a single thread, because the last bits of the scores would otherwise depend on the number of
threads. Parallelism comes from embedding several batches at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Protocol

import torch
from torch import Tensor

from medood.detection.features import Features
from medood.screening.read_worker import Readout
from medood.screening.source_listing import NextSource

#: Features of a batch, and the seconds it took to compute them.
Embedded = tuple[Features, float]


class Embedding(Protocol):
    """Embeds a batch: a :class:`medood.detection.detector.Detector`, or its graph."""

    def embed(self, images: Tensor) -> Features:
        """Features of ``[N, C, S, S]`` images in [0, 1]."""
        ...


class Engine(Protocol):
    """Reads sources and embeds batches. All engines give the same results, in the same order."""

    def read(self, sources: Iterator[NextSource], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """Read every source, in order; end early where ``stopped`` returns true."""
        ...

    def embed(self, images: Tensor) -> Future[Embedded]:
        """Start embedding ``[N, 1, S, S]`` images and return a future of their features."""
        ...

    def close(self) -> None:
        """End the processes and threads of the engine."""
        ...


def use_one_thread() -> int:
    """Limit torch to one thread and return the previous number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before


def embed_batch(embedding: Embedding, images: Tensor) -> Embedded:
    """Embed a batch; return its features and the seconds it took."""
    started = time.perf_counter()
    return embedding.embed(images), time.perf_counter() - started
