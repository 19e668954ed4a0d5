"""Select an engine by name."""

from __future__ import annotations

from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.screening.execution.base import Engine
from medood.screening.execution.in_process import InProcessEngine
from medood.screening.execution.worker_pool import WorkerPoolEngine
from medood.screening.read_worker import ReadSpec

#: Names of the engines.
ENGINES = ("local", "dask")


def check_engine(name: str, scheduler: str) -> None:
    """Check the engine options before anything is written.

    Raises:
        MedoodError: the engine is unknown, or it takes no scheduler.
    """
    if name not in ENGINES:
        raise MedoodError(f"--engine is {name!r}; expected one of {', '.join(ENGINES)}.")
    if scheduler and name != "dask":
        raise MedoodError("--scheduler was given without --engine dask.")


def make_engine(
    name: str, reading: ReadSpec, detector: Detector, workers: int, timeout: float, scheduler: str = ""
) -> Engine:
    """Create the engine with the given name.

    Raises:
        MedoodError: it cannot be started.
    """
    if name == "dask":
        from medood.screening.execution.dask_cluster import DaskEngine

        return DaskEngine(reading, detector, workers, timeout, scheduler)
    return WorkerPoolEngine(reading, detector, workers, timeout) if workers else InProcessEngine(reading, detector)
