"""Compare negative-sampling strategies without labels, by the sensitivity of the out-of-distribution score.

Definition. A strategy is a mixture of shifting transformations with which a detector is trained. The detector's reaction to
a shift is the AUROC of its score between held-out in-distribution images and the same images under that shift. The
sensitivity of a strategy is the mean, over all shifts *that the strategy did not train on*, of its reaction minus the mean
reaction to that shift of all strategies that did not train on it. The assumption is that a detector that reacts to shifts
it was never trained on also detects other anomalies.

Limits. The shifts are synthetic; they do not cover a hospital, a device or a disease that resembles none of them. A strategy
is compared only with the others in the same table. Shifts similar to a trained one are also left out.
"""

from __future__ import annotations

import copy
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from medood.config.schema import RunConfig
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.negatives.mixture import SHIFTS, Mixture
from medood.progress import Progress
from medood.workflows.train import train
from medood.workflows.training_data import to_input, training_data

#: Maximum number of development images to which the shifts are applied; calibration images choose nothing.
PROBES = 200
_NEIGHBOURS = {"rot": {"rot_360", "upside_down"}, "rot_360": {"rot", "upside_down"}, "upside_down": {"rot", "rot_360"}}
_NEIGHBOURS |= {"perm4": {"perm16"}, "perm16": {"perm4"}}


@dataclass(frozen=True)
class StrategySensitivity:
    """One row of the table.

    Attributes:
        strategy: name of the strategy.
        sensitivity: as defined above; higher is better.
        reactions: AUROC for each shift, including those trained on.
    """

    strategy: str
    sensitivity: float
    reactions: dict[str, float]


def strategies(config: RunConfig, names: list[str]) -> dict[str, dict[str, float]]:
    """Mixtures by name: a shift's name gives that shift alone, ``none`` no negatives, ``mixture`` the configured mixture.

    Raises:
        MedoodError: a name is unknown, or there are fewer than two.
    """
    chosen: dict[str, dict[str, float]] = {}
    for name in names:
        if name == "none":
            chosen[name] = {}
        elif name == "mixture":
            chosen[name] = dict(config.negatives.mixture)
        else:
            Mixture({name: 1.0})  # raises an error that lists the known names
            chosen[name] = {name: 1.0}
    if len(chosen) < 2:
        raise MedoodError("Sensitivity compares strategies; give at least two with --strategies.")
    return chosen


def sensitivity(config: RunConfig, names: list[str], out: Path, progress: Progress) -> list[StrategySensitivity]:
    """Train a detector for each strategy and measure its reactions; existing detectors are reused.

    Args:
        config: the configuration of all runs, except ``negatives.mixture`` and ``out``.
        names: see :func:`strategies`.
        out: output folder, with one subfolder per strategy.
        progress: progress display.

    Returns:
        the strategies, most sensitive first.
    """
    chosen = strategies(config, names)
    reactions: dict[str, dict[str, float]] = {}
    for number, (name, mixture) in enumerate(chosen.items(), start=1):
        run = copy.deepcopy(config)
        run.negatives.mixture, run.out = mixture, str(out / name)
        run.data.cache = config.data.cache or str(out / "cache")
        progress.say(f"strategy {number} of {len(chosen)}: {name}")
        if not (out / name / "detector.json").exists():
            train(run, resume=True, progress=progress)
        reactions[name] = react(Detector.load(out / name), run, progress)
    return table(chosen, reactions)


def react(detector: Detector, config: RunConfig, progress: Progress) -> dict[str, float]:
    """AUROC between held-out images and the same images under each shift."""
    data = training_data(config, Progress(quiet=True))
    images = to_input(data.inputs.images[data.development[:PROBES]])
    plain = detector.score(detector.embed(images)).numpy()
    truth = np.r_[np.zeros(len(plain)), np.ones(len(plain))]
    reactions = {}
    left_out = {"image_as_is", "mirror"} if config.views.mirror > 0 else {"image_as_is"}
    names = [name for name in SHIFTS if name not in left_out]
    for name in progress.track(iter(names), len(names), "reactions"):
        mixture, generator = Mixture({name: 1.0}), torch.Generator().manual_seed(config.train.seed)
        shifted = mixture.apply(images, mixture.sample(len(images), images.shape[-1], generator))
        scores = detector.score(detector.embed(shifted)).numpy()
        reactions[name] = float(roc_auc_score(truth, np.nan_to_num(np.r_[plain, scores], posinf=1e30)))
    return reactions


def table(chosen: dict[str, dict[str, float]], reactions: dict[str, dict[str, float]]) -> list[StrategySensitivity]:
    """Compute sensitivities from reactions by the definition above; a pure function."""

    def unseen(strategy: str, shift: str) -> bool:
        trained = {name for name, weight in chosen[strategy].items() if weight > 0}
        return shift not in trained and not any(shift in _NEIGHBOURS.get(name, set()) for name in trained)

    means = {}
    for shift in next(iter(reactions.values())):
        values = [reactions[strategy][shift] for strategy in chosen if unseen(strategy, shift)]
        means[shift] = float(np.mean(values)) if values else float("nan")
    rows = []
    for strategy in chosen:
        excess = [reactions[strategy][shift] - means[shift] for shift in means if unseen(strategy, shift)]
        rows.append(StrategySensitivity(strategy, float(np.mean(excess)) if excess else float("nan"), reactions[strategy]))
    return sorted(rows, key=lambda row: -row.sensitivity if row.sensitivity == row.sensitivity else float("inf"))


def write_sensitivity(rows: list[StrategySensitivity], target: Path) -> None:
    """Write the table as CSV."""
    shifts = list(rows[0].reactions)
    with target.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["strategy", "sensitivity", *shifts])
        for row in rows:
            writer.writerow([row.strategy, f"{row.sensitivity:.4f}", *(f"{row.reactions[shift]:.4f}" for shift in shifts)])
