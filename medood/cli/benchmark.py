"""``medood benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def benchmark_command(
    detector: Annotated[Path, typer.Argument(help="The folder that medood train wrote.")],
    data: Annotated[Path, typer.Option("--data", help="A manifest: CSV with file, split, group, dataset.")],
    out: Annotated[Path, typer.Option("--out", help="Where benchmark.csv and benchmark.md go.")],
    repeats: Annotated[int, typer.Option("--repeats", min=10, help="Bootstrap draws of each interval.")] = 1000,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of the CSV.")] = False,
) -> None:
    """Measure AUROC, AUPR and FPR at 95 % TPR on every data set of a manifest, beside a pixel baseline."""
    from medood.detection.detector import Detector
    from medood.evaluation.benchmark import benchmark, markdown, write_table
    from medood.progress import Progress

    progress = Progress(quiet=quiet)
    loaded = Detector.load(detector)
    table, missing = benchmark(loaded, data, repeats=repeats, progress=progress)
    write_table(table, out, f"Benchmark of {loaded.facts.get('config', {}).get('name', 'a detector')}")
    for sentence in missing:
        progress.say(f"left out: {sentence}")
    progress.say(markdown(table))
    print(out / "benchmark.csv")
