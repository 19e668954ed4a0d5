"""Chooses which parts of the detector decide, and in which form, by the rule of README.md; prints CSV.

The first table has every candidate with its figures, the second the choice without each source and what it gives there.

Usage: python -m reports.cross_site.choose FOLDER > reports/cross_site/choose.csv   (FOLDER: see reports.cross_site.embed)
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medood.detection.conformal import p_values
from medood.evaluation.acquisition_faults import FAULTS
from medood.evaluation.baselines import Trivial
from medood.evaluation.cross_site.site_calibration import after_calibration
from medood.evaluation.metrics import auroc_within, draw
from medood.evaluation.shortcuts import grey_strata

Vector = npt.NDArray[np.float64]
PAIRS = {"nih": ("nih_normal", "nih_pneumonia"), "paediatric": ("paediatric_normal", "paediatric_pneumonia")}
ADULTS = {"nih": "nih_normal", "openist": "openist_normal", "pk": "pk_normal"}
HEALTHY = {**ADULTS, "paediatric": "paediatric_normal"}
PARTS = ("head 1", "head 2", "appearance")
FLOOR, MARGIN, SCANS, RATE = 0.99, 0.005, 100, 0.05


@dataclass(frozen=True)
class Candidate:
    """Parts that decide, their form, and how they are joined."""

    parts: tuple[int, ...]
    form: str
    rule: str

    @property
    def name(self) -> str:
        return f"{self.rule} of {' + '.join(PARTS[i] for i in self.parts)}, {self.form}"


class Study:
    """The embedded sets."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._sets = folder, dict[str, dict[str, Vector]]()
        self.patients = {
            name: np.array([row[1] for row in rows]) for name, rows in json.loads((folder / "sets.json").read_text()).items()
        }
        train = self["train"]
        style = _style(train)
        self._models = [
            make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9))).fit(style, y) for y in train["parts"].T
        ]

    def __getitem__(self, name: str) -> dict[str, Vector]:
        if name not in self._sets:
            stored = np.load(self._folder / f"{name}.npz")
            self._sets[name] = {key: stored[key].astype(np.float64) for key in ("parts", "grey", "sharp")}
        return self._sets[name]

    def parts(self, name: str, form: str) -> Vector:
        rows = self[name]
        if form == "as it is":
            return rows["parts"]
        style = _style(rows)
        residual: Vector = rows["parts"] - np.stack([model.predict(style) for model in self._models], axis=1)
        return residual

    def scores(self, candidate: Candidate) -> Callable[[str], Vector]:
        train = self.parts("train", candidate.form)[:, candidate.parts]
        middle, spread = train.mean(axis=0), train.std(axis=0)

        def of(name: str) -> Vector:
            rows = (self.parts(name, candidate.form)[:, candidate.parts] - middle) / spread
            return np.asarray(rows.sum(axis=1) if candidate.rule == "sum" else rows.max(axis=1))

        return of

    def shipped(self, name: str) -> Vector:
        """The score that decides in the detector: the sum of the parts as it standardises them."""
        return np.asarray(self[name]["parts"].sum(axis=1))

    def trivial(self, name: str) -> Trivial:
        rows, count = self[name], len(self[name]["grey"])
        empty = np.zeros((count, 1), dtype=np.float32)
        return Trivial(empty, rows["grey"].astype(np.float32), empty, rows["sharp"].astype(np.float32))


def _style(rows: dict[str, Vector]) -> Vector:
    return np.concatenate([rows["grey"], rows["sharp"]], axis=1)


def auroc(positives: Vector, negatives: Vector) -> float:
    truth = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
    return float(roc_auc_score(truth, np.r_[positives, negatives]))


#: The four figures of each candidate by source.
Table = dict[Candidate, dict[str, dict[str, float]]]


def figures(study: Study, candidate: Candidate) -> dict[str, dict[str, float]]:
    """The four figures of the rule by source."""
    scores = study.scores(candidate)
    found: dict[str, dict[str, float]] = {"within grey": {}, "opacity": {}, "disease": {}, "accepted": {}}
    calibration = scores("calibration")
    for source, name in HEALTHY.items():
        normal, patients = scores(name), study.patients[name]
        others = {}
        if source in PAIRS:
            disease = PAIRS[source][1]
            others = {"disease": (scores(disease), study.patients[disease])}
            strata = grey_strata((scores(disease), study.trivial(disease)), (normal, study.trivial(name)), patients)
            draws = draw(study.patients[disease], patients, 1, 0)
            found["within grey"][source] = auroc_within(scores(disease), normal, *strata, draws).value
        planted = {"opacity": scores(f"f_{name}_opacity")}
        lines = after_calibration(name, candidate.name, (normal, patients), others, planted, rate=RATE)
        for line in lines:
            if line.calibration_scans == SCANS and line.target in found:
                found[line.target][source] = line.flagged
        if source in ADULTS:
            found["accepted"][source] = 1.0 - float((p_values(normal, calibration) <= RATE).mean())
    return found


def value(found: dict[str, dict[str, float]], without: str = "") -> float:
    """The mean of the four figures, each over the sources but one."""
    means = [[figure for source, figure in by_source.items() if source != without] for by_source in found.values()]
    return float(np.mean([np.mean(values) for values in means]))


def choose(table: Table, without: str = "") -> Candidate:
    """The candidate with the highest value; of those within the margin the one with the fewest parts."""
    values = {candidate: value(found, without) for candidate, found in table.items()}
    best = max(values.values())
    close = [candidate for candidate, reached in values.items() if reached >= best - MARGIN]
    return min(close, key=lambda candidate: (len(candidate.parts), -values[candidate]))


def write_choices(table: Table, allowed: Table, extra: dict[Candidate, dict[str, float]]) -> None:
    """Print all candidates with their figures, and the choice among the allowed ones without each source.

    Args:
        table: the figures of each candidate.
        allowed: those that may be chosen.
        extra: further columns of each candidate.
    """
    writer = csv.writer(sys.stdout, lineterminator="\n")
    first = next(iter(table))
    columns = [(figure, source) for figure, by_source in table[first].items() for source in by_source]
    writer.writerow(["candidate", "value", *extra[first], *(f"{figure}, {source}" for figure, source in columns)])
    for candidate in sorted(table, key=lambda candidate: -value(table[candidate])):
        cells = [table[candidate][figure][source] for figure, source in columns]
        row = [value(table[candidate]), *extra[candidate].values(), *cells]
        writer.writerow([candidate.name, *(f"{cell:.4f}" for cell in row)])
    writer.writerow([])
    writer.writerow(["without", "chosen", *(f"{figure}, there" for figure in table[first])])
    for source in ("", *HEALTHY):
        best = choose(allowed, source)
        there = [f"{by_source[source]:.4f}" if source in by_source else "" for by_source in table[best].values()]
        writer.writerow([source or "none", best.name, *there])


def main() -> None:
    study = Study(Path(sys.argv[1]))
    subsets = [parts for count in (1, 2, 3) for parts in itertools.combinations(range(len(PARTS)), count)]
    candidates = [
        Candidate(parts, form, rule)
        for parts in subsets
        for form in ("as it is", "style residual")
        for rule in (("sum", "maximum") if len(parts) > 1 else ("sum",))
    ]
    table = {candidate: figures(study, candidate) for candidate in candidates}
    worst = {}
    for candidate in candidates:
        scores = study.scores(candidate)
        plain = scores("id_test")
        worst[candidate] = min(auroc(scores(f"f_id_test_{fault}"), plain) for fault in FAULTS)
    allowed = {candidate: table[candidate] for candidate in candidates if worst[candidate] >= FLOOR}
    write_choices(table, allowed, {candidate: {"worst fault": worst[candidate]} for candidate in candidates})


if __name__ == "__main__":
    main()
