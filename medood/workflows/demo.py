"""The demo of the main workflow with shipped files: synthetic scans, a calibrated detector, screening, report."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from medood.config.loader import load_config
from medood.config.resources import DEFAULT, shipped_file
from medood.detection.conformal import Decision
from medood.phantom.archive import PhantomConfig, load_phantom, write_archive, write_training
from medood.progress import Progress
from medood.screening.ledger.database import Ledger

FPR = 0.05
#: The demo's calibration of the shipped detector: its name and number of scans.
CALIBRATION, CALIBRATED = "synthetic", 150


@dataclass(frozen=True)
class Demo:
    """Output of the demo.

    Attributes:
        verdicts: path of the CSV.
        pdf: path of the PDF report; the HTML page is beside it.
        lines: printable table of flagged and accepted scans.
    """

    verdicts: Path
    pdf: Path
    lines: list[str]


def demo(out: Path, progress: Progress, *, train: bool = False) -> Demo:
    """Run the demo into ``out``; an earlier demo's screening there is replaced.

    Args:
        out: the output folder.
        progress: progress display.
        train: train a detector on synthetic chest radiographs first, instead of using the shipped one.
    """
    phantom = load_phantom(shipped_file("datasets/phantom.yaml"))
    progress.say("generating an archive of synthetic scans")
    archive = write_archive(phantom, out / "archive.zip", progress)
    detector = _train(phantom, out, progress) if train else _calibrate_shipped(phantom, out, progress)
    from medood.reporting.pdf import report  # here and below: import torch late, once progress is shown
    from medood.screening.run import screen

    run = out / "screening"
    shutil.rmtree(run, ignore_errors=True)
    calibration = "training" if train else CALIBRATION
    screen([archive], detector, run, fpr=FPR, calibration=calibration, progress=progress)
    pdf = report(run, progress=progress)
    return Demo(run / "verdicts.csv", pdf, _lines(run))


def _calibrate_shipped(phantom: PhantomConfig, out: Path, progress: Progress) -> Path:
    """Calibrate a copy of the shipped detector on synthetic scans, as for a new hospital, and return its folder."""
    progress.say(f"calibrating the shipped detector with {CALIBRATED} synthetic chest radiographs")
    scans = write_training(replace(phantom, training=CALIBRATED), out / "scans", progress)
    from medood.workflows.calibrate import calibrate

    shutil.rmtree(out / "detector", ignore_errors=True)
    calibrate(DEFAULT, scans, CALIBRATION, to=out / "detector", fpr=FPR, progress=progress)
    return out / "detector"


def _train(phantom: PhantomConfig, out: Path, progress: Progress) -> Path:
    progress.say(f"generating {phantom.training} synthetic chest radiographs for training")
    scans = write_training(phantom, out / "scans", progress)
    progress.say("training the detector (about a minute on 2 cores)")
    from medood.workflows.train import train

    shutil.rmtree(out / "detector", ignore_errors=True)
    config = load_config(shipped_file("configs/demo.yaml"))
    config.data.root, config.out = str(scans), str(out / "detector")
    return train(config, progress=progress)


def _lines(run: Path) -> list[str]:
    """Table with one line per kind of phantom: counts of flagged, accepted and unscored scans."""
    ledger = Ledger(run)
    try:
        counts: Counter[tuple[str, str]] = Counter()
        for row in ledger.rows():
            kind = row.member.rsplit("-", 1)[0]
            counts[kind, row.decision or row.status] += 1
    finally:
        ledger.close()
    lines = [f"{'kind of scan':<16}{'flagged':>8}{'accepted':>10}{'no score':>10}"]
    for kind in dict.fromkeys(kind for kind, _ in counts):
        flagged, accepted = counts[kind, Decision.OUT_OF_DISTRIBUTION], counts[kind, Decision.IN_DISTRIBUTION]
        total = sum(count for (name, _), count in counts.items() if name == kind)
        lines.append(f"{kind.replace('_', ' '):<16}{flagged:>8}{accepted:>10}{total - flagged - accepted:>10}")
    return lines
