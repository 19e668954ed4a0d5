"""The main job on what ships: made-up scans, a calibrated detector, screening, report."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from medood.config.loader import load_config
from medood.config.resources import DEFAULT, shipped_file
from medood.phantom.archive import PhantomConfig, load_phantom, write_archive, write_training
from medood.progress import Progress
from medood.screening.ledger import Ledger

FPR = 0.05
#: The demo's own calibration of the shipped detector: its name, and the number of scans.
CALIBRATION, CALIBRATED = "made-up", 150


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        verdicts: path of the CSV.
        pdf: path of the report; the page lies beside it.
        lines: what was flagged, for a person.
    """

    verdicts: Path
    pdf: Path
    lines: list[str]


def demo(out: Path, progress: Progress, *, train: bool = False) -> Demo:
    """Run the demo into ``out``; an earlier demo's screening there is replaced.

    Args:
        out: a folder for all that is made.
        progress: where to draw.
        train: learn from made-up chest radiographs first, instead of screening with the shipped detector.
    """
    phantom = load_phantom(shipped_file("datasets/phantom.yaml"))
    progress.say("drawing an archive of made-up scans")
    archive = write_archive(phantom, out / "archive.zip", progress)
    detector = _train(phantom, out, progress) if train else _calibrated(phantom, out, progress)
    from medood.reporting.pdf import report  # here and below: torch takes its seconds while something is on the screen
    from medood.screening.run import screen

    run = out / "screening"
    shutil.rmtree(run, ignore_errors=True)
    calibration = "training" if train else CALIBRATION
    screen([archive], detector, run, fpr=FPR, calibration=calibration, progress=progress)
    pdf = report(run, progress=progress)
    return Demo(run / "verdicts.csv", pdf, _lines(run))


def _calibrated(phantom: PhantomConfig, out: Path, progress: Progress) -> Path:
    """The shipped detector, calibrated for where the scans come from, as for any other hospital."""
    progress.say(f"calibrating the shipped detector with {CALIBRATED} made-up chest radiographs")
    scans = write_training(replace(phantom, training=CALIBRATED), out / "scans", progress)
    from medood.workflows.calibrate import calibrate

    shutil.rmtree(out / "detector", ignore_errors=True)
    calibrate(DEFAULT, scans, CALIBRATION, to=out / "detector", fpr=FPR, progress=progress)
    return out / "detector"


def _train(phantom: PhantomConfig, out: Path, progress: Progress) -> Path:
    progress.say(f"drawing {phantom.training} made-up chest radiographs to learn from")
    scans = write_training(phantom, out / "scans", progress)
    progress.say("learning what belongs (about a minute on 2 cores)")
    from medood.workflows.train import train

    shutil.rmtree(out / "detector", ignore_errors=True)
    config = load_config(shipped_file("configs/demo.yaml"))
    config.data.root, config.out = str(scans), str(out / "detector")
    return train(config, progress=progress)


def _lines(run: Path) -> list[str]:
    """One line a kind of phantom: how many of it were flagged."""
    ledger = Ledger(run)
    try:
        found: Counter[tuple[str, str]] = Counter()
        for row in ledger.rows():
            kind = row.member.rsplit("-", 1)[0]
            found[kind, row.decision or row.status] += 1
    finally:
        ledger.close()
    lines = [f"{'kind of scan':<16}{'flagged':>8}{'accepted':>10}{'no score':>10}"]
    for kind in dict.fromkeys(kind for kind, _ in found):
        flagged, accepted = found[kind, "out_of_distribution"], found[kind, "in_distribution"]
        total = sum(count for (name, _), count in found.items() if name == kind)
        lines.append(f"{kind.replace('_', ' '):<16}{flagged:>8}{accepted:>10}{total - flagged - accepted:>10}")
    return lines
