"""``medood speed``."""

from __future__ import annotations

import csv
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Annotated

import typer

from medood.cli.read_options import DEFAULTS, Decode
from medood.config.resources import DEFAULT, find_detector
from medood.detection.detector_folder import check_detector

speed_app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


@speed_app.callback()
def speed() -> None:
    """Measure speed on this machine."""


@speed_app.command("train", short_help="Images per second of a training step")
def train_command(
    config: Annotated[Path, typer.Argument(help="A YAML file such as configs/cxr_cpu.yaml; its data are not read.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ..., as for medood train.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of each timing.")] = 3,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timings of each way; medians are shown.")] = 5,
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file for the figures.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Draw no progress bar.")] = False,
) -> None:
    """Images a second of the step, of the views and of both, against the plain way of writing the same training."""
    from medood.config.loader import load_config

    run = load_config(config, overrides or [])

    from medood.distillation.training_benchmark import training_speed
    from medood.progress import Progress

    speed = training_speed(run, steps, repeats, Progress(quiet=quiet))
    print(f"step alone    {speed.step:>8.1f} images/s")
    print(f"views alone   {speed.loader:>8.1f} images/s")
    print(f"both          {speed.both:>8.1f} images/s, {100 * speed.wait:.1f} % of it waiting for views")
    print(f"the plain way {speed.plain:>8.1f} images/s; medood {speed.ratio:.2f} times as many")
    share = f"{100 * speed.flops / speed.matmul:.0f} % of the {speed.matmul / 1e9:.0f} of a matrix product"
    print(f"network       {speed.flops / 1e9:>8.1f} GFLOP/s, {share}")
    print(f"batch {speed.batch}, {speed.threads} threads")
    _write(speed, out)


@speed_app.command("screen", short_help="Images per second of a run and of its parts")
def screen_command(
    archive: Annotated[Path, typer.Argument(help="A folder or archive to screen.")],
    detector: Annotated[
        str, typer.Option("--detector", help="A detector's folder, or the name of a shipped one.")
    ] = DEFAULT,
    decode: Decode = DEFAULTS.decode,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timings of each side; medians are shown.")] = 5,
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file for the figures.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Draw no progress bar.")] = False,
) -> None:
    """Images a second of screening an archive, of reading it alone and of scoring alone, on all cores."""
    from medood.errors import MedoodError
    from medood.scans.reader import check_options

    read = replace(DEFAULTS, decode=decode)
    check_options(read)
    check_detector(find_detector(detector))
    if not archive.exists():
        raise MedoodError(f"{archive} does not exist. Give a folder or an archive of scans.")

    from medood.progress import Progress
    from medood.screening.run_options import cores
    from medood.screening.screening_benchmark import screening_speed

    speed = screening_speed(archive, detector, read, repeats, Progress(quiet=quiet))
    print(f"reading alone {speed.decode:>8.1f} images/s")
    print(f"scoring alone {speed.score:>8.1f} images/s")
    print(f"a run         {speed.screen:>8.1f} images/s, {speed.share:.2f} of the lower of the two")
    print(f"{speed.images} images, {cores()} cores")
    _write(speed, out)


@speed_app.command("score", short_help="Images per second of a detector's networks")
def score_command(
    detector: Annotated[str, typer.Argument(help="A detector's folder, or the name of a shipped one.")] = DEFAULT,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timings; medians are shown.")] = 5,
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file for the figures.")] = None,
) -> None:
    """Images a second of a detector's networks, on one thread and on all cores, beside what a matrix product would allow."""
    check_detector(find_detector(detector))
    from medood.detection.detector import Detector
    from medood.screening.run_options import cores
    from medood.screening.screening_benchmark import scoring_speed

    speed = scoring_speed(Detector.load(detector), repeats=repeats)
    print(f"one thread    {speed.one_thread:>8.1f} images/s, {1000 / speed.one_thread:.1f} ms each")
    print(f"all cores     {speed.all_cores:>8.1f} images/s")
    print(f"limit         {speed.limit:>8.1f} images/s: {speed.gflop:.2f} GFLOP each at the speed of a matrix product")
    print(f"{cores()} cores")
    _write(speed, out)


def _write(speed: object, out: Path | None) -> None:
    """Write the figures as lines ``NAME,VALUE``."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(f"{name},{value:.4g}\n" for name, value in vars(speed).items()))


@speed_app.command("decode", short_help="Files per second of each decoder")
def decode_command(
    path: Annotated[Path, typer.Argument(help="A folder of DICOM files.")],
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timings of each side; medians are shown.")] = 5,
    out: Annotated[Path | None, typer.Option("--out", help="A CSV file for the table.")] = None,
) -> None:
    """Files a second by transfer syntax and decoder, against plain pydicom.pixel_array, and the gain of a second process."""
    from medood.errors import MedoodError
    from medood.scans.decode_benchmark import Speed, decode_speed, two_process_gain

    if not path.exists():
        raise MedoodError(f"{path} does not exist. Give a folder of DICOM files.")
    rows = []
    print(f"{'files/s':>9}{'pixel_array':>13}{'ratio':>8}{'files':>7}  syntax, decoder")
    for speed in decode_speed(path, repeats):
        rows.append(speed)
        figures = f"{speed.medood:>9.1f}{speed.pixel_array:>13.1f}{speed.ratio:>8.2f}{speed.files:>7}"
        print(f"{figures}  {speed.syntax} {speed.plugin}", flush=True)
    gain = two_process_gain(path, repeats)
    print(f"two processes read {gain:.2f} times as many files a second as one")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow([field.name for field in fields(Speed)])
            for row in rows:
                writer.writerow([round(value, 3) if isinstance(value, float) else value for value in astuple(row)])
            writer.writerow(["two processes against one", "", rows[-1].files, rows[-1].megapixels, "", "", round(gain, 3)])
