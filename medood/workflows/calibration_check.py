"""Check a new calibration: what it still finds, whether outliers are among its scans, and a page to confirm them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from torch import Tensor

from medood.detection.conformal import Vector, fpr_interval, p_values
from medood.detection.detector import Detector
from medood.evaluation.acquisition_faults import planted_scores
from medood.progress import Progress

#: Largest number of scans in which faults are planted.
MAX_PLANTED = 100
#: Number of highest-scoring scans that are named for confirmation.
NAMED = 10
#: Number of patients, or of scans if these are unknown, below which the promise is loose.
FEW = 100
#: Share of the detector's own calibration scans that lie in its upper tail, and the p-value at which a tail is too heavy.
_TAIL, _SIGNIFICANT = 0.01, 0.01


@dataclass(frozen=True)
class Tail:
    """Scans in the upper tail of a calibration, relative to its own median and interquartile range.

    Attributes:
        count: scans beyond the point that 99 % of the detector's own calibration scans stay below, on that scale.
        expected: the number expected if the two tails are alike.
        p_value: one-sided binomial p-value of so many or more.
    """

    count: int
    expected: float
    p_value: float

    @property
    def heavy(self) -> bool:
        """Whether outliers are probably among the scans."""
        return self.p_value <= _SIGNIFICANT


@dataclass(frozen=True)
class CalibrationCheck:
    """What was found about a new calibration.

    Attributes:
        scans: number of scans.
        patients: number of patients; 0 if unknown.
        fpr: false-alarm rate of the shares.
        planted: share of scans with a planted fault that is found, by fault: before (with the detector's own calibration)
            and after.
        tail: the upper tail of the scores.
    """

    scans: int
    patients: int
    fpr: float
    planted: dict[str, tuple[float, float]]
    tail: Tail

    def sentences(self) -> list[str]:
        """The findings for the terminal and the page."""
        units = self.patients or self.scans
        low, high = fpr_interval(units, self.fpr) if units >= 1 / self.fpr - 1 - 1e-9 else (0.0, 1.0)
        of = f" of {self.patients} patients" if self.patients else ""
        lines = [
            f"{self.scans} scans{of}: at --fpr {self.fpr:g} the true rate lies between {low:.2%} and {high:.2%} with a "
            "probability of 90 %"
        ]
        if units < FEW:
            lines.append(
                f"Fewer than {FEW} {'patients' if self.patients else 'scans'}: the rate is only roughly the one asked for."
            )
        if self.tail.heavy:
            lines.append(
                f"Outliers are probably among these scans: {self.tail.count} lie far above the others, where "
                f"{self.tail.expected:.1f} are expected (p {self.tail.p_value:.2g}). They hide scans like them. Confirm the "
                "highest scans, leave out what does not belong with --exclude, and calibrate again."
            )
        shares = ", ".join(f"{name} {before:.0%} -> {after:.0%}" for name, (before, after) in self.planted.items())
        if shares:
            lines.append(
                f"Faults planted in these scans that are found at {self.fpr:g}, before -> after calibration: {shares}"
            )
        return lines


def tail_test(scores: Vector, own: Vector) -> Tail:
    """Whether the upper tail of scores is heavier than that of the detector's own calibration.

    Args:
        scores: ``[n]`` scores of the new calibration scans.
        own: ``[m]`` scores of the detector's own.
    """
    scores, own = (values[np.isfinite(values)] for values in (scores, own))
    if len(scores) < 4 or len(own) < 4:
        return Tail(0, _TAIL * len(scores), 1.0)
    limit = np.quantile(_standardised(own), 1.0 - _TAIL)
    count = int((_standardised(scores) > limit).sum())
    p_value = float(binomtest(count, len(scores), _TAIL, alternative="greater").pvalue)
    return Tail(count, _TAIL * len(scores), p_value)


def planted_shares(
    detector: Detector, images: Tensor, calibrated: Vector, fpr: float, progress: Progress
) -> dict[str, tuple[float, float]]:
    """Share of images with a planted fault that is found, with the detector's own calibration and with the new one.

    Args:
        detector: the detector.
        images: ``[N, C, S, S]`` prepared images of calibration scans.
        calibrated: ``[n]`` scores of the new calibration.
        fpr: false-alarm rate.
        progress: progress display.
    """
    return {
        name: (
            float((p_values(scores, detector.calibration.scores) <= fpr).mean()),
            float((p_values(scores, calibrated) <= fpr).mean()),
        )
        for name, scores in planted_scores(detector, images, progress)
    }


def write_page(
    page: Path, name: str, check: CalibrationCheck, highest: Sequence[tuple[str, float]], refused: Sequence[str], sheet: Path
) -> None:
    """Write the page, in Markdown, with the sheet's image.

    Args:
        page: where it goes.
        name: name of the calibration.
        check: what was found.
        highest: names and scores of the highest scans.
        refused: a line for each file without a score.
        sheet: the contact sheet.
    """
    lines = [f"# Calibration {name}", "", *(f"- {sentence}" for sentence in check.sentences()), "", "## Highest scans", ""]
    lines += [
        "Confirm that each belongs. List the SHA-256 of those that do not (the CSV has them) in a file for `--exclude`.",
        "",
    ]
    lines += [f"{rank}. {_literal(scan)}, score {score:.4g}" for rank, (scan, score) in enumerate(highest, start=1)]
    lines += ["", f"![The highest scans]({sheet.name})", ""]
    if check.planted:
        lines += ["## Planted faults", "", "| fault | found before | found after |", "|---|---|---|"]
        lines += [f"| {fault} | {before:.0%} | {after:.0%} |" for fault, (before, after) in check.planted.items()]
        lines.append("")
    lines += ["## Files without a score", "", *(f"- {_literal(line)}" for line in refused or ["none"]), ""]
    page.write_text("\n".join(lines), encoding="utf-8", errors="backslashreplace")


def _standardised(scores: Vector) -> Vector:
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    return np.asarray((scores - middle) / max(float(high - low), 1e-12))


def _literal(text: str) -> str:
    """Text as a code span, in which a name of a file can be no markup."""
    return "`" + text.replace("`", "'") + "`"
