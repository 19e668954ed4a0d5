"""Monitor a detector in use: the runs of months side by side, with control limits and alarms by stratum."""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medood.detection.conformal import Decision
from medood.errors import MedoodError
from medood.progress import Progress
from medood.screening.finished_run import finished_run
from medood.screening.ledger.database import Ledger
from medood.screening.ledger.run_metadata import RunMetadata
from medood.screening.monitor.change_detection import changes

#: Chance that a period's flag rate falls outside its control limits although nothing has changed (that of 3 sigma).
_OUTSIDE = 0.0027
#: Scores whose quantiles describe a period.
_QUANTILES = (0.05, 0.5, 0.95)
#: Points of the evidence that are kept for a chart.
_POINTS = 400


@dataclass(frozen=True)
class Period:
    """One run's scans of one stratum.

    Attributes:
        run: name of the run's folder.
        started: time in ISO 8601, UTC.
        scans: number of scored files; of several frames the highest score counts.
        flagged: number of files with a flagged frame.
        limits: control limits of the flag rate, given the baseline; none for the baseline itself or without scans.
        quantiles: 5 %, 50 % and 95 % of the scores; none without scans.
        alarms: numbers of the scans in this period, from 1, at which a change was reported.
    """

    run: str
    started: str
    scans: int
    flagged: int
    limits: tuple[float, float] | None
    quantiles: tuple[float, float, float] | None
    alarms: list[int]

    @property
    def rate(self) -> float | None:
        """Share of flagged scans; none without scans."""
        return self.flagged / self.scans if self.scans else None

    @property
    def is_outside(self) -> bool:
        """Whether the flag rate is outside its control limits."""
        return self.limits is not None and self.rate is not None and not self.limits[0] <= self.rate <= self.limits[1]


@dataclass(frozen=True)
class Stream:
    """The periods of one stratum, and the evidence of a change along its scans.

    Attributes:
        stratum: name of the stratum; empty if the calibration has none.
        periods: one for each run.
        evidence: pairs of scan number and decimal logarithm of the evidence, the highest of each of 400 stretches.
    """

    stratum: str
    periods: list[Period]
    evidence: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Monitoring:
    """What monitoring found.

    Attributes:
        detector: name of the detector and its SHA-256.
        calibration: name of the calibration.
        baseline: number of runs that the control limits are computed from.
        every: number of scans of a stratum in which at most one false alarm is expected.
        streams: one for each stratum.
    """

    detector: tuple[str, str]
    calibration: str
    baseline: int
    every: float
    streams: list[Stream]


def monitor(runs: Sequence[Path], *, baseline: int = 1, every: float = 1e6, progress: Progress | None = None) -> Monitoring:
    """Compare finished runs of one detector, in the order in which they began.

    Args:
        runs: the runs' folders.
        baseline: number of first runs from which the control limits of the flag rate are computed.
        every: number of scans of a stratum in which at most one false alarm of a change is expected.
        progress: progress display; None shows nothing.

    Raises:
        MedoodError: a run is missing or unfinished, given twice, decided at a false-discovery rate, or was made with another
            detector, calibration, rate or way of reading than the others.
    """
    progress = progress or Progress(quiet=True)
    if not (math.isfinite(every) and every >= 100):
        raise MedoodError(f"--every is {every:g}; expected a number of at least 100 scans.")
    known = sorted(((finished_run(run), run) for run in runs), key=lambda pair: (pair[0].started, str(pair[1])))
    check_alike(known)
    if not 1 <= baseline < max(2, len(known)):
        raise MedoodError(f"--baseline is {baseline}; expected 1 to {max(1, len(known) - 1)}, fewer than there are runs.")
    scores: dict[str, list[npt.NDArray[np.float64]]] = defaultdict(list)
    flagged: dict[str, list[int]] = defaultdict(list)
    for number, (_, run) in enumerate(progress.track(iter(known), len(known), "reading runs")):
        by_stratum: dict[str, tuple[list[float], list[bool]]] = defaultdict(lambda: ([], []))
        for stratum, score, is_flagged in _files(run):
            rows = by_stratum[stratum]
            rows[0].append(score)
            rows[1].append(is_flagged)
        for stratum in {*scores, *by_stratum}:
            values, flags = by_stratum[stratum]
            scores[stratum] += [np.empty(0)] * (number - len(scores[stratum])) + [np.array(values, dtype=np.float64)]
            flagged[stratum] += [0] * (number - len(flagged[stratum])) + [sum(flags)]
    names = sorted(scores)
    metadata = [item for item, _ in known]
    names_of_runs = [run.name for _, run in known]
    folders = [run.name if names_of_runs.count(run.name) == 1 else str(run) for _, run in known]
    streams = [
        _stream(name, metadata, folders, scores[name], flagged[name], baseline, every)
        for name in progress.track(iter(names), len(names), "comparing")
    ]
    first = metadata[0]
    return Monitoring((first.detector.name, first.detector.sha256), first.calibration.name, baseline, every, streams)


def _files(run: Path) -> Iterator[tuple[str, float, bool]]:
    """Stratum, highest score and decision of each file, in the order of the run: the frames of a file are not independent.

    Raises:
        MedoodError: the ledger cannot be read.
    """
    ledger = Ledger(run)
    try:
        columns = ledger.scored_columns("file", "item", "score", "decision", "json_extract(metadata, '$.stratum')")
        for _, frames in itertools.groupby(columns, key=lambda row: row[:2]):
            rows = list(frames)
            is_flagged = any(row[3] == Decision.OUT_OF_DISTRIBUTION for row in rows)
            yield rows[0][4] or "", max(row[2] for row in rows), is_flagged
    except sqlite3.Error as error:
        raise MedoodError(f"The ledger of {run} cannot be read: {error}.") from error
    finally:
        ledger.close()


def check_alike(known: Sequence[tuple[RunMetadata, Path]]) -> None:
    """Refuse runs whose scores or decisions cannot be compared.

    Raises:
        MedoodError: there is none, or one differs from the first.
    """
    if not known:
        raise MedoodError("There is no run. Give the folders that medood screen wrote.")
    (first, folder), *others = known
    if first.fdr is not None:
        raise MedoodError(
            f"{folder} was decided at a false-discovery rate, by which the flag rate depends on the archive. Give runs "
            "that were screened with --fpr."
        )
    twice = [run for i, (_, run) in enumerate(known) if run.resolve() in {other.resolve() for _, other in known[:i]}]
    if twice:
        raise MedoodError(f"{twice[0]} was given twice. Give each run once.")
    for metadata, run in others:
        for what, one, other in (
            ("detector", first.detector.sha256[:12], metadata.detector.sha256[:12]),
            ("calibration", first.calibration.sha256[:12], metadata.calibration.sha256[:12]),
            ("--fpr", first.fpr, metadata.fpr),
            ("way of reading", first.read, metadata.read),
        ):
            if one != other:
                raise MedoodError(
                    f"{run} has another {what} ({other}) than {folder} ({one}), so that their scores or decisions cannot "
                    "be compared. Give runs of one setting."
                )


def _stream(
    stratum: str,
    metadata: Sequence[RunMetadata],
    folders: Sequence[str],
    scores: Sequence[npt.NDArray[np.float64]],
    flagged: Sequence[int],
    baseline: int,
    every: float,
) -> Stream:
    alarms, evidence = changes(np.concatenate(scores), every)
    ends = np.cumsum([len(values) for values in scores])
    base = (sum(flagged[:baseline]), int(ends[baseline - 1]))
    periods = []
    for number, (item, folder, values, count) in enumerate(zip(metadata, folders, scores, flagged, strict=True)):
        start = int(ends[number]) - len(values)
        is_compared = number >= baseline and len(values) > 0 and base[1] > 0
        periods.append(
            Period(
                folder,
                item.started,
                len(values),
                count,
                control_limits(*base, len(values)) if is_compared else None,
                _quantiles(values),
                [alarm - start + 1 for alarm in alarms if start <= alarm < int(ends[number])],
            )
        )
    pieces = np.array_split(np.arange(len(evidence)), min(_POINTS, len(evidence))) if len(evidence) else []
    kept = sorted({*(int(piece[evidence[piece].argmax()]) for piece in pieces), *alarms, len(evidence) - 1} - {-1})
    return Stream(stratum, periods, [(i + 1, float(evidence[i]) / math.log(10.0)) for i in kept])


def _quantiles(values: npt.NDArray[np.float64]) -> tuple[float, float, float] | None:
    if not len(values):
        return None
    low, middle, high = (float(value) for value in np.quantile(np.minimum(values, 1e300), _QUANTILES, method="lower"))
    return low, middle, high


def control_limits(flagged: int, scans: int, period: int) -> tuple[float, float]:
    """Limits of a period's flag rate if nothing has changed since the baseline, with the error of both counted in.

    The predictive distribution of the period's count is beta-binomial, with Jeffreys' prior.

    Args:
        flagged: flagged scans of the baseline.
        scans: scans of the baseline.
        period: scans of the period.
    """
    from scipy.stats import betabinom

    predicted = betabinom(period, flagged + 0.5, scans - flagged + 0.5)
    return float(predicted.ppf(_OUTSIDE / 2)) / period, float(predicted.isf(_OUTSIDE / 2)) / period
