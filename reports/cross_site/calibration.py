"""What a site that calibrates the shipped detector still finds, and how often it is warned of outliers. Prints CSV.

``flagged``: mean share flagged at 5 % over random splits by patient, with 5th and 95th percentile. ``warned``: share of
random samples of 100 normal scans for which the test of the upper tail warns.

Usage: python -m reports.cross_site.calibration FOLDER > reports/cross_site/calibration.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from medood.evaluation.acquisition_faults import FAULTS
from medood.evaluation.cross_site.site_calibration import after_calibration
from medood.workflows.calibration_check import tail_test
from reports.cross_site.choose import HEALTHY, PAIRS, Study

SAMPLE, REPEATS = 100, 200


def main() -> None:
    study = Study(Path(sys.argv[1]))
    scores = study.shipped
    own = scores("calibration")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["source", "calibration_scans", "target", "flagged", "low", "high"])
    for source, name in HEALTHY.items():
        normal, patients = scores(name), study.patients[name]
        others = {}
        if source in PAIRS:
            others["disease"] = (scores(PAIRS[source][1]), study.patients[PAIRS[source][1]])
        planted = {fault: scores(f"f_{name}_{fault}") for fault in (*FAULTS, "opacity")}
        for line in after_calibration(name, "detector", (normal, patients), others, planted):
            cells = [f"{value:.3f}" for value in (line.flagged, line.low, line.high)]
            writer.writerow([source, line.calibration_scans, line.target, *cells])
        rng = np.random.default_rng(0)
        size = min(SAMPLE, len(normal) // 2)
        warned = [tail_test(rng.choice(normal, size, replace=False), own).heavy for _ in range(REPEATS)]
        writer.writerow([source, size, "warned", f"{np.mean(warned):.3f}", "", ""])


if __name__ == "__main__":
    main()
