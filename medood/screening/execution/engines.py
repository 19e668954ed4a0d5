"""Select an engine by name."""

from __future__ import annotations

from medood.detection.detector import Detector
from medood.screening.execution.base import Embedding, Engine
from medood.screening.execution.in_process import InProcessEngine
from medood.screening.execution.worker_pool import WorkerPoolEngine
from medood.screening.read_worker import ReadSpec


def make_engine(
    name: str,
    reading: ReadSpec,
    detector: Detector,
    workers: int,
    timeout: float,
    scheduler: str = "",
    graph: Embedding | None = None,
) -> Engine:
    """Create the engine with the given name; a local one may embed with a graph instead of the detector's networks.

    Raises:
        MedoodError: it cannot be started.
    """
    if name == "dask":
        from medood.screening.execution.dask_cluster import DaskEngine

        return DaskEngine(reading, detector, workers, timeout, scheduler)
    embedding = graph or detector
    return WorkerPoolEngine(reading, embedding, workers, timeout) if workers else InProcessEngine(reading, embedding)
