"""``medood screen``."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from medood.cli.read_options import (
    DEFAULTS,
    Decode,
    Frames,
    MaxBytes,
    MaxDecoderMemory,
    MaxFrames,
    MaxMembers,
    MaxPixels,
    MaxRatio,
    MaxUnpacked,
    Plane,
    Select,
)
from medood.config.resources import DEFAULT, find_detector, is_shipped
from medood.config.schema import ReadConfig
from medood.errors import ExitCode, MedoodError, StoppedError

if TYPE_CHECKING:
    from medood.progress import Progress
    from medood.screening.finalize import Summary
    from medood.screening.ledger.run_metadata import RunMetadata


def screen_command(
    sources: Annotated[
        list[str],
        typer.Argument(help="Files, folders, zip and tar archives, DICOMDIRs, CSV manifests, dicomweb+https:// addresses."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; it must not hold a run yet, except with --resume.")],
    detector: Annotated[
        str, typer.Option("--detector", help="The folder that medood train wrote, or the name of a shipped detector.")
    ] = DEFAULT,
    fpr: Annotated[
        float | None, typer.Option("--fpr", help="Share of in-distribution scans that may be flagged. [default: 0.05]")
    ] = None,
    fdr: Annotated[
        float | None, typer.Option("--fdr", help="Instead: share of the flagged scans that may be in-distribution.")
    ] = None,
    calibration: Annotated[str, typer.Option("--calibration", help="Name given to medood calibrate.")] = "training",
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out, or start one.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Also screen files that arrive later, once they are complete, until interrupted.")
    ] = False,
    shard: Annotated[
        str, typer.Option("--shard", help="Screen one part alone, such as 2/8; medood merge puts them together.")
    ] = "",
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes that read; 0 reads in this one. [default: one a core]"),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds that one file may take before it is given up.")
    ] = 300.0,
    engine: Annotated[str, typer.Option("--engine", help="local, or dask for a cluster.")] = "local",
    scheduler: Annotated[
        str, typer.Option("--scheduler", help="An existing Dask cluster, tcp://HOST:PORT. [default: one on this machine]")
    ] = "",
    graph: Annotated[
        Path | None, typer.Option("--graph", help="Score with ONNX Runtime: the folder that medood onnx wrote.")
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option("--metrics", help="A file for figures in Prometheus' text format, every few seconds.")
    ] = None,
    log: Annotated[Path | None, typer.Option("--log", help="A file for events as lines of JSON.")] = None,
    select: Select = DEFAULTS.select,
    frames: Frames = DEFAULTS.frames,
    plane: Plane = DEFAULTS.plane,
    max_pixels: MaxPixels = DEFAULTS.max_pixels,
    max_bytes: MaxBytes = DEFAULTS.max_bytes,
    max_members: MaxMembers = DEFAULTS.max_members,
    max_unpacked: MaxUnpacked = DEFAULTS.max_unpacked,
    max_ratio: MaxRatio = DEFAULTS.max_ratio,
    max_frames: MaxFrames = DEFAULTS.max_frames,
    max_decoder_memory: MaxDecoderMemory = DEFAULTS.max_decoder_memory,
    decode: Decode = DEFAULTS.decode,
    text: Annotated[bool, typer.Option("--text", help="Also look for text burnt into the images; 0.4 s a scan.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of verdicts.csv.")] = False,
) -> None:
    """Score every scan, decide, and write ledger.sqlite and verdicts.csv.

    Exit code 0 when the run finished, whatever it flagged; files that cannot be read are rows, not errors. Exit code 4
    when it finished, but nothing got a score, or a source that was named could not be read to its end. Interrupted, or
    asked to end, it stops after the last whole batch, and --resume goes on.
    """
    if fpr is not None and fdr is not None:
        raise MedoodError("--fpr and --fdr were both given; a run is decided by one of them.")
    from medood.progress import Progress
    from medood.screening.metrics import Metrics
    from medood.screening.run_options import RunOptions, check_run, cores

    read = ReadConfig(
        frames,
        plane,
        select,
        max_pixels,
        max_bytes,
        max_members,
        max_unpacked,
        max_ratio,
        max_frames,
        max_decoder_memory,
        decode,
        text,
    )
    rate = 0.05 if fpr is None else fpr
    interrupts: list[int] = []
    options = RunOptions(
        cores() if workers is None else workers,
        timeout,
        engine,
        scheduler,
        shard,
        resume,
        watch,
        graph,
        Metrics(metrics, log),
        lambda: bool(interrupts),
    )
    check_run(
        sources, out, detector=detector, fpr=rate, fdr=fdr, calibration=calibration, read=read, options=options
    )  # before torch is imported, which takes seconds
    if options.workers and engine == "local":
        from medood.screening.execution.fork_server import prepare

        prepare()
    from medood.screening.run import screen

    progress = Progress(quiet=quiet)
    with signals(interrupts):
        try:
            summary = screen(
                list(sources),
                detector,
                out,
                fpr=rate,
                fdr=fdr,
                calibration=calibration,
                read=read,
                options=options,
                progress=progress,
            )
        except StoppedError as error:
            progress.say(str(error))
            raise typer.Exit(128 + interrupts[0]) from None
    tell(summary, out, progress)
    if not (watch or shard) and (problem := incomplete(out, summary)):
        progress.say(problem)
        raise typer.Exit(ExitCode.INCOMPLETE)


def incomplete(out: Path, summary: Summary) -> str:
    """What went wrong in a finished run; empty if nothing did."""
    from medood.screening.ledger.database import Ledger

    with contextlib.closing(Ledger(out)) as ledger:
        unread = ledger.unreadable_sources(source for source in ledger.metadata().sources if "://" not in source)
    if unread:
        more = f" and {len(unread) - 1} other sources" if len(unread) > 1 else ""
        return f"{unread[0]}{more} could not be read, or not to the end; verdicts.csv says why."
    if not summary.flagged + summary.accepted:
        return "No scan got a score; verdicts.csv gives the reason for each file."
    return ""


def tell(summary: Summary, out: Path, progress: Progress) -> None:
    """Say what a run found, and print where its verdicts are."""
    from medood.reporting.sentences import run_sentences
    from medood.scans.scan import Status
    from medood.screening.ledger.database import Ledger

    with contextlib.closing(Ledger(out)) as ledger:
        metadata, counts = ledger.metadata(), ledger.counts()
    left_out = f", {summary.left_out} left out by the selection" if metadata.read.select else ""
    refused = [f"{n} {status}" for (status, _), n in counts.items() if status not in (Status.SCORED, Status.NOT_SELECTED)]
    details = f" ({', '.join(refused)}; verdicts.csv says why)" if refused else ""
    progress.say(
        f"{summary.scanned} {'row' if summary.scanned == 1 else 'rows'}: {summary.flagged} out of distribution, "
        f"{summary.accepted} in distribution, {summary.refused} without a score{details}{left_out}"
    )
    for sentence in run_sentences(metadata):
        progress.say(sentence)
    if advice := calibration_advice(metadata):
        progress.say(advice)
    print(out / "verdicts.csv")


def calibration_advice(metadata: RunMetadata) -> str:
    """What to run if the archive as a whole differs from the calibration scans; empty if that was not shown."""
    from medood.reporting.sentences import DIFFERS

    shift = metadata.archive.shift if metadata.archive else None
    if shift is None or shift.p_value > DIFFERS:
        return ""
    detector = metadata.detector.folder or metadata.detector.name or "DETECTOR"
    copy = " --to NEW_FOLDER" if is_shipped(find_detector(detector)) else ""
    return (
        "The false-alarm rate need not hold for these scans. If they are of a hospital or device that the detector was not "
        f"calibrated for: medood calibrate {detector} --data SCANS_THAT_BELONG --name NAME{copy}"
    )


@contextlib.contextmanager
def signals(received: list[int]) -> Iterator[None]:
    """Put the first SIGINT or SIGTERM into a list; a second one interrupts at once."""

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
