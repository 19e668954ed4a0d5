"""``medood onnx``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from medood.config.resources import find_detector
from medood.detection.detector_folder import TRAINING, check_calibration, check_detector
from medood.errors import MedoodError
from medood.output_folder import check_empty


def onnx_command(
    detector: Annotated[str, typer.Argument(help="The folder that medood train wrote, or the name of a shipped detector.")],
    out: Annotated[Path, typer.Option("--out", help="The graph's folder; it must not exist or be empty.")],
    calibration: Annotated[str, typer.Option("--calibration", help="Name given to medood calibrate.")] = TRAINING,
    check: Annotated[
        Path | None,
        typer.Option("--check", help="Scans to compare the graph with PyTorch on. [default: 16 simulated radiographs]"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the folder.")] = False,
) -> None:
    """Write a detector as one ONNX graph, with its calibration beside it, for programs without PyTorch.

    medood screen --graph scores with it.
    """
    folder = find_detector(detector)
    check_detector(folder)  # before torch is imported, which takes seconds
    check_calibration(folder, calibration)
    check_empty(out)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MedoodError(f"medood onnx needs the package {package}: pip install 'medood[onnx]'.")
    if check is not None and not check.exists():
        raise MedoodError(f"--check: {check} does not exist.")
    from medood.progress import Progress
    from medood.workflows.onnx_export import write_graph

    progress = Progress(quiet=quiet)
    checked = write_graph(detector, out, calibration=calibration, check=check, progress=progress)
    progress.say(
        f"compared with PyTorch on {checked['scans']} scans: scores differ by at most {checked['largest_difference']:.2g}, "
        f"{checked['decided_otherwise']} decided otherwise at 5 %"
    )
    print(out)
