"""Figures of a benchmark as PNG: ROC curves, score densities by group, and AUROC with intervals."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from medood.evaluation.benchmark import MAIN, Benchmark
from medood.evaluation.metrics import Vector

#: Colours of the groups, which most people with colour blindness can distinguish (Okabe and Ito).
_COLOURS = {
    "in_distribution": "#000000",
    "id_shift": "#0072B2",
    "near": "#E69F00",
    "far": "#D55E00",
    "acquisition": "#009E73",
    "near vs id_shift": "#E69F00",
    "same source": "#CC79A7",
}
_STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 130, "text.parse_math": False}


def write_figures(results: Benchmark, folder: Path) -> None:
    """Write ``roc.png``, ``densities.png`` and ``auroc.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        for name, figure in {"roc": _roc(results), "densities": _densities(results), "auroc": _forest(results)}.items():
            FigureCanvasAgg(figure)
            figure.savefig(folder / f"{name}.png", metadata={"Software": None})


def _groups(results: Benchmark) -> dict[str, dict[str, Vector]]:
    groups: dict[str, dict[str, Vector]] = {}
    for (group, name), scores in sorted(results.scores.items()):
        groups.setdefault(group, {})[name] = scores
    return groups


def _roc(results: Benchmark) -> Figure:
    groups = _groups(results)
    negatives = np.concatenate(list(groups["in_distribution"].values()))
    present = [group for group in ("far", "acquisition", "near", "id_shift") if group in groups]
    figure = Figure(figsize=(3.2 * max(len(present), 1), 3.4), layout="constrained")
    axes = figure.subplots(1, max(len(present), 1), squeeze=False)[0]
    for place, group in zip(axes, present, strict=False):
        for name, scores in groups[group].items():
            truth = np.r_[np.ones(len(scores)), np.zeros(len(negatives))]
            alarms, caught, _ = roc_curve(truth, _finite(np.r_[scores, negatives]))
            place.plot(alarms, caught, lw=1.2, label=name.replace("_", " "))
        place.plot([0, 1], [0, 1], color="0.8", lw=0.8, zorder=0)
        place.set(title=f"{group.replace('_', ' ')} against test", xlabel="false alarms", ylabel="detected", aspect="equal")
        place.legend(fontsize=7, frameon=False, loc="lower right")
    return figure


def _densities(results: Benchmark) -> Figure:
    groups = _groups(results)
    pooled = {group: _finite(np.concatenate(list(sets.values()))) for group, sets in groups.items()}
    everything = np.concatenate(list(pooled.values()))
    low, high = np.quantile(everything, [0.001, 0.995])
    bins = np.linspace(low, max(high, low + 1e-9), 80)
    figure = Figure(figsize=(7.2, 1.1 + 1.0 * len(pooled)), layout="constrained")
    axes = figure.subplots(len(pooled), 1, sharex=True, squeeze=False)[:, 0]
    order = [group for group in _COLOURS if group in pooled]
    for place, group in zip(axes, order, strict=True):
        place.hist(np.clip(pooled[group], low, high), bins=bins, density=True, color=_COLOURS[group], alpha=0.85)
        place.set(yticks=[])
        place.set_ylabel(f"{group.replace('_', ' ')}\n({len(pooled[group])})", rotation=0, ha="right", va="center")
    axes[-1].set_xlabel("score (higher is more out of distribution; the ends hold what lies beyond)")
    return figure


def _forest(results: Benchmark) -> Figure:
    lines = results.comparisons[::-1]
    figure = Figure(figsize=(7.2, 0.8 + 0.24 * len(lines)), layout="constrained")
    place: Axes = figure.subplots()
    for height, line in enumerate(lines):
        own, pixels = line.figures[MAIN].auroc, line.figures["pixel_knn"].auroc
        colour = _COLOURS.get(line.kind, "0.3")
        place.plot([pixels.low, pixels.high], [height - 0.22] * 2, color="0.75", lw=1.2)
        place.plot(pixels.value, height - 0.22, "|", color="0.55", ms=7)
        place.plot([own.low, own.high], [height] * 2, color=colour, lw=2)
        place.plot(own.value, height, "o", color=colour, ms=4)
    place.axvline(0.5, color="0.6", lw=0.8, ls=":")
    place.set_yticks(range(len(lines)), [f"{line.kind}: {line.positives.replace('_', ' ')}" for line in lines])
    place.set(xlabel="AUROC with 95 % interval (grey: pixel k-NN)", ylim=(-0.8, len(lines) - 0.3))
    return figure


def _finite(values: Vector) -> Vector:
    return np.asarray(np.nan_to_num(values, posinf=np.finfo(np.float64).max / 1e3))
