"""A detector's graph in ONNX Runtime beside PyTorch: milliseconds an image on one thread, medians of 5, alternating.

Usage: python -m reports.speed.graph DETECTOR GRAPH > reports/speed/graph.csv    (nothing else should run)
GRAPH is the folder that medood onnx wrote.
"""

from __future__ import annotations

import csv
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from medood.detection.detector import Detector
from medood.phantom.chest import frontal_chest
from medood.screening.execution.base import Embedding, use_one_thread
from medood.screening.execution.onnx_graph import OnnxGraph

REPEATS, BATCH = 5, 32


def main() -> None:
    detector = Detector.load(sys.argv[1])
    graph = OnnxGraph(Path(sys.argv[2]), detector.sha256)
    size = detector.preprocess.size
    images = torch.stack([torch.from_numpy(frontal_chest(seed, size).image).float() for seed in range(BATCH)])[:, None]
    use_one_thread()
    for embedding in (detector, graph):
        embedding.embed(images)
    sides: tuple[tuple[str, Embedding], ...] = (("PyTorch", detector), ("ONNX Runtime", graph))
    timings = [{name: milliseconds(embedding, images) for name, embedding in sides} for _ in range(REPEATS)]
    writer = csv.writer(sys.stdout)
    writer.writerow(["runtime", "ms_an_image", "times_as_fast"])
    for name, _ in sides:
        ratio = statistics.median(timing["PyTorch"] / timing[name] for timing in timings)
        writer.writerow([name, f"{statistics.median(timing[name] for timing in timings):.1f}", f"{ratio:.2f}"])


def milliseconds(embedding: Embedding, images: Tensor) -> float:
    started = time.perf_counter()
    embedding.embed(images)
    return 1000.0 * (time.perf_counter() - started) / len(images)


if __name__ == "__main__":
    main()
