"""Write what a benchmark measured on other sources: CSV files and a section of the Markdown page."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medood.evaluation.cross_site.measure import RATES, CrossSite
from medood.evaluation.metrics import Figure

_PAIRS_NOTE = (
    "Disease against normal scans of one source: as the scans are; among pairs for which 10 grey statistics and sharpness "
    "predict the same score (deciles of an out-of-fold regression); and after all scans were given one histogram. A figure "
    "that falls there measured the grey values. Flagged: share at a false-alarm rate of 5 %, by the detector's calibration."
)
_SOURCES_NOTE = (
    "Healthy scans of other sources: an AUROC of 0.5 against the in-distribution test is wanted, and no more flagged than "
    "the rate. The last row of each score is the worst source, and the mean distance from 0.5, whatever its sign."
)
_CALIBRATED_NOTE = (
    "Share flagged at 5 % after calibration with some of the source's own normal scans: mean and 5th to 95th percentile "
    "over random splits by patient. Of the normal scans 5 % are wanted, of the others all."
)
_SEVERITY_NOTE = "Spearman's rank correlation of the score with the severity that the manifest states."
_PAIR_FIGURES = ("auroc", "within_grey", "matched")


def write_cross_site(results: CrossSite, folder: Path) -> None:
    """Write ``pairs.csv``, ``sources.csv``, ``calibrated.csv`` and ``severity.csv``; a file without a row is not written."""
    ends = ("", "_low", "_high")
    flagged = [f"{side}_flagged_{rate:g}{end}" for side in ("disease", "normal") for rate in RATES for end in ends]
    _write(
        folder / "pairs.csv",
        ["pair", "disease", "normal", "scorer", *(f"{name}{end}" for name in _PAIR_FIGURES for end in ends), *flagged],
        (
            [line.pair, line.disease, line.normal, line.scorer]
            + [value for name in _PAIR_FIGURES for value in _values(getattr(line, name))]
            + [v for side in (line.disease_flagged, line.normal_flagged) for rate in RATES for v in _values(side.get(rate))]
            for line in results.pairs
        ),
    )
    rates = [f"flagged_{rate:g}{end}" for rate in RATES for end in ends]
    _write(
        folder / "sources.csv",
        ["dataset", "scans", "scorer", *(f"auroc{end}" for end in ends), *rates],
        (
            [line.dataset, line.scans, line.scorer, *_values(line.auroc)]
            + [value for rate in RATES for value in _values(line.flagged.get(rate))]
            for line in results.sources
        ),
    )
    _write(
        folder / "calibrated.csv",
        ["source", "scorer", "calibration_scans", "target", "rate", "flagged", "low", "high"],
        (
            [line.source, line.scorer, line.calibration_scans, line.target, line.rate, line.flagged, line.low, line.high]
            for line in results.calibrated
        ),
    )
    _write(
        folder / "severity.csv",
        ["dataset", "scans", "scorer", *(f"spearman{end}" for end in ends)],
        ([line.dataset, line.scans, line.scorer, *_values(line.spearman)] for line in results.severity),
    )


def cross_site_markdown(results: CrossSite) -> str:
    """The section of the page; empty if the manifest names no other source."""
    sections = [
        ("Disease of the same source, with the grey values held equal", _PAIRS_NOTE, _pairs(results)),
        ("Healthy scans of other sources", _SOURCES_NOTE, _sources(results)),
        ("After calibration on a source", _CALIBRATED_NOTE, _calibrated(results)),
        ("Score and severity", _SEVERITY_NOTE, _severity(results)),
    ]
    return "\n\n".join(f"## {title}\n\n{note}\n\n{_table(rows)}" for title, note, rows in sections if len(rows) > 1)


def _pairs(results: CrossSite) -> list[list[str]]:
    rows = [["pair", "disease", "normal", "score", "AUROC", "within grey strata", "histograms matched", "disease flagged"]]
    rows[0].append("normal flagged")
    for line in results.pairs:
        figures = [_text(getattr(line, name)) for name in _PAIR_FIGURES]
        shares = [_text(side.get(0.05)) for side in (line.disease_flagged, line.normal_flagged)]
        rows.append([line.pair, str(line.disease), str(line.normal), line.scorer, *figures, *shares])
    return rows


def _sources(results: CrossSite) -> list[list[str]]:
    rows = [["data set", "scans", "score", "AUROC", "flagged at 1 %", "flagged at 5 %"]]
    for scorer in dict.fromkeys(line.scorer for line in results.sources):
        lines = [line for line in results.sources if line.scorer == scorer]
        rows += [
            [line.dataset, str(line.scans), scorer, _text(line.auroc), *(_text(line.flagged.get(rate)) for rate in RATES)]
            for line in lines
        ]
        gaps = [abs(line.auroc.value - 0.5) for line in lines]
        most = [
            max((line.flagged[rate].value for line in lines if rate in line.flagged), default=math.nan) for rate in RATES
        ]
        rows.append(["worst (mean)", "", scorer, f"{max(gaps):.3f} from 0.5 ({np.mean(gaps):.3f})", *map(_number, most)])
    return rows


def _calibrated(results: CrossSite) -> list[list[str]]:
    counts = sorted({line.calibration_scans for line in results.calibrated})
    rows = [["source", "score", "target", *(f"{count} scans" for count in counts)]]
    shares = {
        (
            line.source,
            line.scorer,
            line.target,
            line.calibration_scans,
        ): f"{line.flagged:.2f} [{line.low:.2f}, {line.high:.2f}]"
        for line in results.calibrated
    }
    for source, scorer, target in dict.fromkeys(key[:3] for key in shares):
        rows.append([source, scorer, target, *(shares.get((source, scorer, target, count), "–") for count in counts)])
    return rows


def _severity(results: CrossSite) -> list[list[str]]:
    rows = [["data set", "scans", "score", "Spearman's rho"]]
    return rows + [[line.dataset, str(line.scans), line.scorer, _text(line.spearman)] for line in results.severity]


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    lines = [[_plain(value) for value in row] for row in rows]
    if lines:
        with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
            csv.writer(stream).writerows([header, *lines])


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}"
    return value


def _values(figure: Figure | None) -> list[float]:
    return [math.nan] * 3 if figure is None else [figure.value, figure.low, figure.high]


def _text(figure: Figure | None) -> str:
    if figure is None or math.isnan(figure.value):
        return "–"
    return _number(figure.value) if math.isnan(figure.low) else f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
