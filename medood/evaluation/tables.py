"""A benchmark as CSV, JSON and a Markdown page."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medood.detection.scores import SCORES
from medood.evaluation.benchmark import BASELINES, MAIN, OTHER, Benchmark, Comparison
from medood.evaluation.cross_site.tables import cross_site_markdown, write_cross_site
from medood.evaluation.metrics import FIGURES, Figure

SCHEMA_VERSION = 1
_SHOWN = {
    "pixel_knn": "pixel k-NN",
    "pca_mahalanobis": "PCA Mahalanobis",
    "pca_residual": "PCA residual",
    "grey_statistics": "grey statistics",
    "file_facts": "file facts",
}


def write_benchmark(results: Benchmark, folder: Path, heading: str) -> None:
    """Write ``benchmark.csv`` (a line for each comparison and scorer), ``benchmark.json`` and ``benchmark.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "benchmark.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["kind", "positives", "negatives", "positive_count", "negative_count", "scorer"]
            + [f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")]
        )
        for line in results.comparisons:
            for scorer, figures in line.figures.items():
                values = [getattr(getattr(figures, name), end) for name in FIGURES for end in ("value", "low", "high")]
                stem = [line.kind, line.positives, line.negatives, line.positive_count, line.negative_count, scorer]
                writer.writerow([*stem, *("" if math.isnan(value) else f"{value:.4f}" for value in values)])
    (folder / "benchmark.json").write_text(json.dumps(as_json(results), indent=1, allow_nan=False) + "\n")
    write_cross_site(results.cross_site, folder)
    page = f"# {heading}\n\n" + markdown(results)
    (folder / "benchmark.md").write_text(page, encoding="utf-8", errors="backslashreplace")


def as_json(results: Benchmark) -> dict[str, Any]:
    """All results as a JSON object, without the raw scores; NaN becomes ``null``."""
    return {
        "schema_version": SCHEMA_VERSION,
        **results.metadata,
        "comparisons": [_plain(asdict(line)) for line in results.comparisons],
        "decisions": [
            {**_plain(asdict(line)), "flagged": {f"{rate:g}": _plain(asdict(v)) for rate, v in line.flagged.items()}}
            for line in results.decisions
        ],
        "leaks": {f"{group}/{name}": asdict(leak) for (group, name), leak in results.leaks.items()},
        "missing": results.missing,
        "cross_site": {name: [_plain(asdict(line)) for line in lines] for name, lines in vars(results.cross_site).items()},
    }


def markdown(results: Benchmark) -> str:
    """The Markdown page: figures with 95 % intervals, and the checks for leaks and shortcuts."""
    parts = [
        _settings_line(results),
        main_table(results),
        _section("Which score", _scores(results), _SCORES_NOTE),
        _section("Trivial baselines and the shortcut audit", _audit(results), _AUDIT_NOTE),
        _section("What the calibrated decision does", _decisions(results), _DECISIONS_NOTE),
    ]
    if results.metadata.get("against"):
        parts.append(_section(f"Against {results.metadata['against']}", _against(results), _AGAINST_NOTE))
    if cross_site := cross_site_markdown(results.cross_site):
        parts.append(cross_site)
    peers = [name for name in results.comparisons[0].figures if ":" in name and not name.startswith("score:")]
    if peers:
        parts.append(_section("Other libraries' detectors", _columns(results, peers, peers), "AUROC."))
    parts.append(_section("Scans left out because a detector knew them", _leaks(results), _LEAKS_NOTE))
    parts.append(
        "## Files that could not be read, or not whole\n\n" + ("\n".join(f"- {line}" for line in results.missing) or "None.")
    )
    return "\n\n".join(parts) + "\n"


_SCORES_NOTE = (
    "AUROC of every score of the detector on the same features. The deciding score was chosen beforehand on other scans."
)
_AUDIT_NOTE = (
    "AUROC. The baselines learn from in-distribution scans only, as the detector does. The two columns of the audit are "
    "classifiers trained, out of fold by patient, to separate the two sets by 10 grey statistics or 4 file facts: near 1, "
    "the row measures the imaging chain as much as the content."
)
_DECISIONS_NOTE = "Share of scans flagged at a false-alarm rate of 1 and 5 %, by the detector's own calibration."
_AGAINST_NOTE = "AUROC of the detector minus that of the other, on the same bootstrap draws."
_LEAKS_NOTE = "The same file, or nearly the same image (at most 6 of 256 bits of a difference hash differ)."


def main_table(results: Benchmark) -> str:
    """Table of the detector's own figures."""
    lines = [
        _row(
            "kind",
            "positives",
            "against",
            "AUROC",
            "AUPR",
            "FPR at 95 % TPR",
            "TPR at 1 % FPR",
            "TPR at 5 % FPR",
            "best baseline",
        ),
        "|---" * 9 + "|",
    ]
    for line in results.comparisons:
        own = line.figures[MAIN]
        best = max(BASELINES, key=lambda name: line.figures[name].auroc.value)
        figures = [interval(getattr(own, name)) for name in FIGURES]
        lines.append(_row(*_names(line), *figures, f"{line.figures[best].auroc.value:.3f} {_SHOWN[best]}"))
    return "\n".join(lines)


def _settings_line(results: Benchmark) -> str:
    """Provenance of the results, and how to read the table."""
    metadata, stated_calibration = results.metadata, results.metadata["calibration"]
    assert isinstance(stated_calibration, dict)
    return (
        f"Detector {metadata['detector']} (SHA-256 {str(metadata['detector_sha256'])[:12]}), score {metadata['score']}, "
        f"calibration {stated_calibration['name']} of {stated_calibration['scans']} scans; manifest SHA-256 "
        f"{str(metadata['manifest_sha256'])[:12]}; seed "
        f"{metadata['seed']}. Positives are what should be flagged, or, in the rows of `id_shift`, healthy scans of other "
        f"hospitals, where an AUROC of 0.5 is wanted. TPR is the share of positives flagged where FPR of the negatives are, "
        f"whatever the calibration. In brackets 95 % intervals of {metadata['repeats']} bootstraps by patient."
    )


def interval(figure: Figure) -> str:
    """A figure with its interval, to three decimals; without an interval if there are too few patients."""
    if math.isnan(figure.low):
        return _number(figure.value)
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def _scores(results: Benchmark) -> str:
    names = [name for name in SCORES if f"score:{name}" in results.comparisons[0].figures]
    return _columns(results, [f"score:{name}" for name in names], names)


def _audit(results: Benchmark) -> str:
    lines = [
        _row(
            "kind", "positives", "against", "detector", *(_SHOWN[name] for name in BASELINES), "audit: grey", "audit: file"
        ),
        "|---" * 11 + "|",
    ]
    for line in results.comparisons:
        values = [line.figures[name].auroc.value for name in (MAIN, *BASELINES)]
        lines.append(_row(*_names(line), *map(_number, [*values, line.shortcut.grey, line.shortcut.file])))
    return "\n".join(lines)


def _columns(results: Benchmark, scorers: list[str], titles: list[str]) -> str:
    lines = [_row("kind", "positives", "against", *titles), "|---" * (3 + len(titles)) + "|"]
    lines += [
        _row(*_names(line), *(_number(line.figures[name].auroc.value) for name in scorers)) for line in results.comparisons
    ]
    return "\n".join(lines)


def _decisions(results: Benchmark) -> str:
    lines = [_row("group", "data set", "scans", "flagged at 1 %", "flagged at 5 %"), "|---" * 5 + "|"]
    lines += [
        _row(line.group, line.dataset, str(line.count), *map(interval, line.flagged.values())) for line in results.decisions
    ]
    return "\n".join(lines)


def _against(results: Benchmark) -> str:
    lines = [_row("kind", "positives", "against", "detector", "other", "difference", "p"), "|---" * 7 + "|"]
    for line in results.comparisons:
        gap = line.differences[OTHER]
        values = [interval(line.figures[name].auroc) for name in (MAIN, OTHER)]
        lines.append(_row(*_names(line), *values, interval(gap.auroc), f"{gap.p_value:.3f}"))
    return "\n".join(lines)


def _leaks(results: Benchmark) -> str:
    if not results.leaks:
        return "None."
    lines = [_row("data set", "same file", "nearly a training image", "nearly a calibration image"), "|---" * 4 + "|"]
    for (group, name), leak in sorted(results.leaks.items()):
        counts = (leak.same_file, leak.near_learned, leak.near_calibration)
        lines.append(_row(f"{group}/{name}", *map(str, counts)))
    return "\n".join(lines)


def _section(title: str, table: str, note: str) -> str:
    return f"## {title}\n\n{note}\n\n{table}"


def _names(line: Comparison) -> tuple[str, str, str]:
    return line.kind, f"{line.positives} ({line.positive_count})", f"{line.negatives} ({line.negative_count})"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
