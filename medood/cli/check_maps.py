"""``medood check-maps``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medood.config.resources import DEFAULT, find_detector
from medood.detection.detector_folder import check_detector


def check_maps_command(
    source: Annotated[
        Path, typer.Argument(help="In-distribution scans that nothing was learned from: a folder or archive.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The CSV file to write.")] = Path("maps.csv"),
    detector: Annotated[
        str, typer.Option("--detector", help="The folder that medood train wrote, or the name of a shipped detector.")
    ] = DEFAULT,
    limit: Annotated[int, typer.Option("--limit", min=2, help="Scans that faults are planted in.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Of places and sizes of the faults.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of the CSV.")] = False,
) -> None:
    """Measure whether the evidence maps can be believed, with faults planted in scans that belong.

    How often a map peaks inside the fault, how much of the score is left after its most relevant pixels were filled, and how
    like it is to the map of a network with random weights; each beside what chance gives.
    """
    check_detector(find_detector(detector))  # before torch is imported, which takes seconds
    from medood.screening.source_listing import check_sources

    check_sources([source])

    from medood.detection.detector import Detector
    from medood.evaluation.faithfulness import measure, write_csv
    from medood.progress import Progress

    figures = measure(Detector.load(detector), source, limit=limit, seed=seed, progress=Progress(quiet=quiet))
    write_csv(figures, out)
    if not quiet:
        for name, value in figures:
            print(f"{'' if value is None else format(value, '.4f'):>8}  {name}")
    print(out)
