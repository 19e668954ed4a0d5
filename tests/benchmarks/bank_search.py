"""Time and memory of scoring 1,000 queries against a bank of 1,000,000 x 384, as CSV.

Usage: python tests/benchmarks/bank_search.py
"""

from __future__ import annotations

import csv
import resource
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.nn.functional import normalize

from medood.detection.knn import BLOCK, largest_cosine, nearest_rows, soft_cosine

ROWS, QUERIES, DIMENSIONS, TRIES = 1_000_000, 1_000, 384, 5


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def product_alone() -> None:
    for block in torch.split(bank, BLOCK):
        queries @ block.T


torch.manual_seed(0)
bank = torch.randn(ROWS, DIMENSIONS)
for block in torch.split(bank, BLOCK):
    block.copy_(normalize(block, dim=1))
queries = normalize(torch.randn(QUERIES, DIMENSIONS), dim=1)
kinds: dict[str, Callable[[], object]] = {
    "matrix product alone": product_alone,
    "nearest": lambda: largest_cosine(queries, bank),
    "soft_nearest": lambda: soft_cosine(queries, bank, 0.04),
    "5 nearest rows": lambda: nearest_rows(queries, bank, 5),
}
times: dict[str, list[float]] = {name: [] for name in kinds}
for _ in range(TRIES):
    for name, work in kinds.items():
        times[name].append(seconds(work))
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(["work", "median_seconds", "gflop_per_second", "peak_memory_gib_so_far"])
for name, values in times.items():
    median = statistics.median(values)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    writer.writerow([name, f"{median:.2f}", f"{2e-9 * ROWS * QUERIES * DIMENSIONS / median:.0f}", f"{peak:.2f}"])
