"""``medood listen``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medood.cli.read_options import DEFAULTS, Decode, Select
from medood.cli.screen import signals, tell
from medood.config.resources import DEFAULT, find_detector
from medood.config.schema import ReadConfig
from medood.detection.detector_folder import check_calibration, check_detector


def listen_command(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="The port that is listened on.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; a run that is there goes on.")],
    detector: Annotated[
        str, typer.Option("--detector", help="The folder that medood train wrote, or the name of a shipped detector.")
    ] = DEFAULT,
    fpr: Annotated[float, typer.Option("--fpr", help="Share of in-distribution scans that may be flagged.")] = 0.05,
    calibration: Annotated[str, typer.Option("--calibration", help="Name given to medood calibrate.")] = "training",
    bind: Annotated[str, typer.Option("--bind", help="The one address that is listened on.")] = "127.0.0.1",
    title: Annotated[str, typer.Option("--title", help="Our application entity title.")] = "MEDOOD",
    caller: Annotated[
        list[str] | None, typer.Option("--caller", help="A title that may call; may be given again. [default: all]")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option("--peer", help="An address that may connect; may be given again. [default: all]")
    ] = None,
    associations: Annotated[int, typer.Option("--associations", min=1, help="Associations at once.")] = 10,
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1, help="Largest object, in bytes.")] = DEFAULTS.max_bytes,
    reserve: Annotated[
        int, typer.Option("--reserve", min=0, help="Bytes that stay free on the disk; less refuses objects.")
    ] = 1024**3,
    health_port: Annotated[
        int | None, typer.Option("--health-port", min=0, max=65535, help="Serve /health and /metrics there.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes that read; 0 reads in this one. [default: one a core]")
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds that one file may take before it is given up.")
    ] = 300.0,
    select: Select = DEFAULTS.select,
    decode: Decode = DEFAULTS.decode,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of verdicts.csv.")] = False,
) -> None:
    """Receive DICOM objects (C-STORE) and screen them as they come, until interrupted; verdicts.csv is written then."""
    from medood.detection.conformal import check_rate

    check_rate(fpr)
    check_detector(find_detector(detector))  # before torch is imported, which takes seconds
    check_calibration(find_detector(detector), calibration)

    from medood.progress import Progress
    from medood.screening.dicom_scp import ScpConfig, listen
    from medood.screening.run_options import RunOptions, cores

    progress = Progress(quiet=quiet)
    scp = ScpConfig(port, bind, title, caller or (), peer or (), associations, max_bytes, reserve, health_port)

    def on_open(port: int, health: int) -> None:
        progress.say(f"{title} listens on {bind}:{port}" + (f", health on {bind}:{health}" if health else ""))

    interrupts: list[int] = []
    with signals(interrupts):
        options = RunOptions(cores() if workers is None else workers, timeout, stopped=lambda: bool(interrupts))
        read = ReadConfig(select=select, max_bytes=max_bytes, decode=decode)
        settings = {"fpr": fpr, "calibration": calibration, "read": read}
        summary = listen(scp, detector, out, options=options, progress=progress, on_open=on_open, **settings)
    tell(summary, out, progress)
