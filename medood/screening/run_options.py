"""Options of a run, and every check that needs no network; does not import torch, so that a mistake is reported at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medood.config.resources import find_detector
from medood.config.schema import ReadConfig
from medood.detection.conformal import check_rate
from medood.detection.detector_folder import TRAINING, check_calibration, check_detector
from medood.detection.graph.files import check_graph
from medood.errors import MedoodError
from medood.evidence.burned_in_text import check_text
from medood.scans.reader import check_options
from medood.scans.sources.dicomweb import is_dicomweb
from medood.screening.ledger.database import check_run_free
from medood.screening.metrics import Metrics
from medood.screening.source_listing import Shard, check_sources

#: Names of the engines.
ENGINES = ("local", "dask")
#: Longest allowed time limit per source, in seconds (one day).
_LONGEST = 86_400.0


@dataclass(frozen=True)
class RunOptions:
    """How a run is executed; none of these options changes a verdict, except that a graph rounds otherwise.

    Attributes:
        workers: number of reader processes; 0 reads in this process, where a crashing decoder ends the run.
        timeout: time limit per source in seconds; applies only with workers.
        engine: ``local``, or ``dask`` for a cluster.
        scheduler: address of an existing Dask cluster; empty starts one on this machine.
        shard: screen only this part, ``I/N``; empty screens everything. ``medood merge`` combines the parts.
        resume: resume the run in the folder, or start one if there is none.
        watch: also screen files that arrive later, until stopped; the run is then finalized and can be resumed.
        graph: folder that ``medood onnx`` wrote, to embed with ONNX Runtime; None embeds with PyTorch.
        metrics: receives metrics and events.
        stopped: polled regularly; once it returns true, the run ends after the last complete batch.
    """

    workers: int = 0
    timeout: float = 300.0
    engine: str = "local"
    scheduler: str = ""
    shard: str = ""
    resume: bool = False
    watch: bool = False
    graph: Path | None = None
    metrics: Metrics = field(default_factory=Metrics)
    stopped: Callable[[], bool] = lambda: False


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_run(
    sources: Sequence[str | Path],
    out: Path,
    *,
    detector: str | Path | None = None,
    fpr: float = 0.05,
    fdr: float | None = None,
    calibration: str = TRAINING,
    read: ReadConfig,
    options: RunOptions,
) -> None:
    """Check the options of :func:`medood.screening.run.screen` as far as no network is needed.

    Args:
        sources: what to screen.
        out: the run's folder.
        detector: the detector's folder or the name of a shipped one; ``None`` if it is loaded already.
        fpr: as in :func:`medood.screening.run.screen`.
        fdr: likewise.
        calibration: likewise.
        read: likewise.
        options: likewise.

    Raises:
        MedoodError: a source or the detector is missing, the folder already holds a run, or an option is invalid.
    """
    check_options(read)
    check_text(read.text)
    if options.shard:
        Shard.parse(options.shard)
    check_rate(fpr)
    if fdr is not None:
        check_rate(fdr, option="--fdr")
    if detector is not None:
        folder = find_detector(detector)
        check_detector(folder)
        check_calibration(folder, calibration)
    if options.watch and (options.shard or any(is_dicomweb(source) for source in sources)):
        raise MedoodError("--watch works on folders only and cannot be combined with --shard.")
    if not 0 < options.timeout <= _LONGEST:
        raise MedoodError(f"--timeout is {options.timeout:g}; expected seconds above 0, up to {_LONGEST:g} (one day).")
    if options.engine not in ENGINES:
        raise MedoodError(f"--engine is {options.engine!r}; expected one of {', '.join(ENGINES)}.")
    if options.scheduler and options.engine != "dask":
        raise MedoodError("--scheduler was given without --engine dask.")
    if options.graph is not None:
        check_graph(options.graph)
        if options.engine != "local":
            raise MedoodError("--graph works with --engine local only; workers of a cluster embed with PyTorch.")
    options.metrics.check()
    if not options.resume:
        check_run_free(out)
    check_sources(sources, empty=options.watch)
