"""The engine that does everything in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import torch
from torch import Tensor

from medood.screening.execution.base import Embedded, Embedding, embed_batch, use_one_thread
from medood.screening.read_worker import Readout, ReadSpec, read_results
from medood.screening.source_listing import NextSource

#: Seconds to wait before asking again for a new source.
_TICK = 0.2


class InProcessEngine:
    """Reads and embeds in this process, one source and one batch at a time; see ``Engine``."""

    def __init__(self, reading: ReadSpec, embedding: Embedding) -> None:
        self._reading, self._embedding = reading, embedding
        self._threads = use_one_thread()

    def read(self, sources: Iterator[NextSource], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """Read every source; see the protocol."""
        for placed in sources:
            if stopped():
                return
            if placed is None:
                yield None
                time.sleep(_TICK)
            else:
                yield placed[0], read_results(placed[1], self._reading)

    def embed(self, images: Tensor) -> Future[Embedded]:
        """Embed a batch synchronously; see the protocol."""
        future: Future[Embedded] = Future()
        future.set_result(embed_batch(self._embedding, images))
        return future

    def close(self) -> None:
        """Restore torch's number of threads."""
        torch.set_num_threads(self._threads)
