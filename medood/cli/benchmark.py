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
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", help="A frozen encoder to compare with: local-dir:FOLDER, or a timm name with weights."),
    ] = None,
    backbone_weights: Annotated[
        Path | None,
        typer.Option("--backbone-weights", help="Weights of the timm name: a safetensors file, one grey channel in."),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=10, help="Bootstrap draws of each interval.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the faults and the bootstrap.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of the CSV.")] = False,
) -> None:
    """Measure a detector on every data set of a manifest, beside trivial baselines, a shortcut audit and a leakage check."""
    from medood.evaluation.manifest import LOCAL, missing_files, read_manifest

    names = [name for name in backbone or () if not name.startswith(LOCAL)]
    folders = [Path(name.removeprefix(LOCAL)) for name in backbone or () if name.startswith(LOCAL)]
    if len(names) != (1 if backbone_weights else 0):
        raise MedoodError(
            "--backbone takes local-dir:FOLDER, as often as you like; one timm name and --backbone-weights go together."
        )
    if len({folder.name for folder in folders}) < len(folders):
        raise MedoodError("--backbone: two folders have the same name, by which the table names them. Rename one.")
    missing_files(data, read_manifest(data))  # before torch is imported, which takes seconds
    check_detector(find_detector(detector))

    from medood.detection.detector import Detector
    from medood.evaluation.benchmark import benchmark
    from medood.evaluation.encoders import local_encoder
    from medood.evaluation.external_baselines import frozen_backbone
    from medood.evaluation.figures import write_figures
    from medood.evaluation.tables import main_table, write_benchmark
    from medood.progress import Progress

    progress = Progress(quiet=quiet)
    loaded = Detector.load(detector, calibration)
    frozen = {folder.name: local_encoder(folder, loaded.preprocess) for folder in folders}
    if backbone_weights:
        frozen[names[0]] = frozen_backbone(names[0], backbone_weights, loaded.preprocess)
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
