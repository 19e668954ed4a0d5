"""Throughput of a run, and the time it spends waiting."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from medood.screening.read_worker import Result

T = TypeVar("T")
A = TypeVar("A")


class Throughput:
    """Measures time spent waiting for readers and the network, and the readers' time for disk and decoding."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.scans = 0
        self.disk = self.decode = 0.0
        self.for_readers = self.for_network = 0.0

    def waiting(self, results: Iterable[T]) -> Iterator[T]:
        """Yield the results unchanged, and measure the time spent waiting for each."""
        source = iter(results)
        while True:
            started = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                self.for_readers += time.perf_counter() - started
            yield item

    def read(self, result: Result) -> None:
        """Count a result and its read times."""
        self.scans += 1
        self.disk += result.disk_seconds
        self.decode += result.decode_seconds

    def embedded(self, future: Future[A]) -> A:
        """Wait for an embedded batch and measure the waiting time."""
        started = time.perf_counter()
        result = future.result()
        self.for_network += time.perf_counter() - started
        return result

    def rate(self) -> float:
        """Scans per second."""
        return self.scans / max(time.perf_counter() - self.began, 1e-9)

    def shares(self) -> dict[str, float]:
        """Shares of the elapsed time spent waiting for disk, decoding and network."""
        passed = max(time.perf_counter() - self.began, 1e-9)
        read = max(self.disk + self.decode, 1e-9)
        return {
            "disk": self.for_readers * self.disk / read / passed,
            "decode": self.for_readers * self.decode / read / passed,
            "network": self.for_network / passed,
        }

    def summary(self) -> str:
        """Text for the progress line."""
        waits = ", ".join(f"{name} {share:.0%}" for name, share in self.shares().items())
        return f"{self.rate():.1f} scans/s, waiting for {waits}"
