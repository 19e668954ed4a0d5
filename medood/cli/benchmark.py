"""``medood benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medood.config.resources import find_detector
from medood.detection.detector_folder import check_detector
from medood.errors import MedoodError


def benchmark_command(
    detector: Annotated[str, typer.Argument(help="The folder that medood train wrote, or the name of a shipped detector.")],
    data: Annotated[Path, typer.Option("--data", help="A manifest: CSV with file, split, group, dataset, patient_id.")],
    out: Annotated[Path, typer.Option("--out", help="Where tables, the page and figures go.")],
    calibration: Annotated[str, typer.Option("--calibration", help="Name given to medood calibrate.")] = "training",
    against: Annotated[str | None, typer.Option("--against", help="Another detector, compared in pairs.")] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option("--external", help="Another library's detector on the same features, such as sklearn:IsolationForest."),
    ] = None,
    backbone: Annotated[str, typer.Option("--backbone", help="A frozen timm backbone to compare with.")] = "",
    backbone_weights: Annotated[
        Path | None, typer.Option("--backbone-weights", help="Its weights: a safetensors file, one grey channel in.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=10, help="Bootstrap draws of each interval.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the faults and the bootstrap.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of the CSV.")] = False,
) -> None:
    """Measure a detector on every data set of a manifest, beside trivial baselines, a shortcut audit and a leakage check."""
    from medood.evaluation.manifest import missing_files, read_manifest

    if bool(backbone) != bool(backbone_weights):
        raise MedoodError("--backbone and --backbone-weights go together: a timm name and a safetensors file.")
    missing_files(data, read_manifest(data))  # before torch is imported, which takes seconds
    check_detector(find_detector(detector))

    from medood.detection.detector import Detector
    from medood.evaluation.benchmark import benchmark
    from medood.evaluation.external_baselines import frozen_backbone
    from medood.evaluation.figures import write_figures
    from medood.evaluation.tables import main_table, write_benchmark
    from medood.progress import Progress

    progress = Progress(quiet=quiet)
    loaded = Detector.load(detector, calibration)
    frozen = {backbone: frozen_backbone(backbone, backbone_weights, loaded.preprocess)} if backbone_weights else {}
    results = benchmark(
        loaded,
        data,
        against=Detector.load(against) if against else None,
        backbones=frozen,
        peers=peer or (),
        repeats=repeats,
        seed=seed,
        progress=progress,
    )
    write_benchmark(results, out, f"Benchmark of {results.metadata['detector']}")
    with progress.bar(1, "figures") as bar:
        write_figures(results, out)
        bar(1, "")
    for sentence in results.missing:
        progress.say(f"left out: {sentence}")
    for (group, name), leak in sorted(results.leaks.items()):
        progress.say(f"left out: {len(leak.files)} scans of {group}/{name} that the detector knew already")
    progress.say(main_table(results))
    print(out / "benchmark.csv")
