"""How fast a run goes, and what it waits for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from medood.screening.read_worker import Result

T = TypeVar("T")
A = TypeVar("A")


class Pace:
    """Seconds spent on waiting for readers and for the network, and what the readers spent theirs on."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.scans = 0
        self.disk = self.decode = 0.0
        self.for_readers = self.for_network = 0.0

    def waiting(self, results: Iterable[T]) -> Iterator[T]:
        """Pass results on, and measure how long each was waited for."""
        source = iter(results)
        while True:
            started = time.perf_counter()
            try:
                found = next(source)
            except StopIteration:
                return
            finally:
                self.for_readers += time.perf_counter() - started
            yield found

    def read(self, result: Result) -> None:
        """A result has been read."""
        self.scans += 1
        self.disk += result.disk_seconds
        self.decode += result.decode_seconds

    def embedded(self, future: Future[A]) -> A:
        """Wait for a batch."""
        started = time.perf_counter()
        found = future.result()
        self.for_network += time.perf_counter() - started
        return found

    def rate(self) -> float:
        """Scans a second."""
        return self.scans / max(time.perf_counter() - self.began, 1e-9)

    def shares(self) -> dict[str, float]:
        """Shares of the time that the run waited for the disk, for decoding and for the network."""
        passed = max(time.perf_counter() - self.began, 1e-9)
        read = max(self.disk + self.decode, 1e-9)
        return {
            "disk": self.for_readers * self.disk / read / passed,
            "decode": self.for_readers * self.decode / read / passed,
            "network": self.for_network / passed,
        }

    def told(self) -> str:
        """For a progress line."""
        waits = ", ".join(f"{name} {share:.0%}" for name, share in self.shares().items())
        return f"{self.rate():.1f} scans/s, waiting for {waits}"
