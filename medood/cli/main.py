"""The ``medood`` command. Its exit codes are those of :class:`medood.errors.ExitCode`."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from medood.allocator import keep_freed_memory
from medood.cli.benchmark import benchmark_command
from medood.cli.bundle import bundle_command
from medood.cli.calibrate import calibrate_command
from medood.cli.check_maps import check_maps_command
from medood.cli.clean import clean_command
from medood.cli.data import data_app
from medood.cli.demo import demo_command
from medood.cli.dicom import dicom_command
from medood.cli.doctor import doctor_command
from medood.cli.export import export_command
from medood.cli.inspect import inspect_command
from medood.cli.listen import listen_command
from medood.cli.mercure import mercure_command
from medood.cli.merge import merge_command
from medood.cli.monitor import monitor_command
from medood.cli.negatives import negatives_command
from medood.cli.onnx import onnx_command
from medood.cli.push import push_command
from medood.cli.renamed import current_names
from medood.cli.report import report_command
from medood.cli.runs import diff_command, runs_command, show_command
from medood.cli.screen import screen_command
from medood.cli.sensitivity import sensitivity_command
from medood.cli.speed import speed_app
from medood.cli.split import split_command
from medood.cli.train import keys_table, train_command
from medood.errors import ExitCode, MedoodError
from medood.text import visible

#: Panels of ``medood --help``: the commands of each with a short summary and an example for its own ``--help``.
_PANELS: dict[str, list[tuple[str, Callable[..., None], str, str]]] = {
    "Learn": [
        ("train", train_command, "Train a detector", "medood train configs/cxr_cpu.yaml data.root=NORMAL_CHESTS"),
        (
            "calibrate",
            calibrate_command,
            "Calibrate a detector for a hospital",
            "medood calibrate cxr-small --data SCANS --name kigali --to runs/cxr_kigali",
        ),
        (
            "negatives",
            negatives_command,
            "Show the negatives of a configuration",
            "medood negatives configs/cxr.yaml --out runs/negatives.png",
        ),
        (
            "sensitivity",
            sensitivity_command,
            "Rank strategies of negative sampling",
            "medood sensitivity configs/cxr_cpu.yaml data.root=NORMAL_CHESTS --strategies none,rot,mixture",
        ),
    ],
    "Screen": [
        (
            "screen",
            screen_command,
            "Score and decide every scan of an archive",
            "medood screen ARCHIVE.zip --out runs/january --fpr 0.05",
        ),
        (
            "clean",
            clean_command,
            "List what a data set should not hold",
            "medood clean DATASET --out runs/cleaning",
        ),
        (
            "listen",
            listen_command,
            "Receive DICOM objects and screen them",
            "medood listen --port 11112 --out runs/arrivals",
        ),
        (
            "merge",
            merge_command,
            "Merge runs of the shards of an archive",
            "medood merge runs/part1 runs/part2 --out runs/whole",
        ),
    ],
    "Report": [
        ("report", report_command, "Write the PDF and the HTML page of a run", "medood report runs/january --top 50"),
        (
            "split",
            split_command,
            "List or copy accepted and flagged files",
            "medood split runs/january --out runs/january_files --copy",
        ),
        ("runs", runs_command, "List the runs in a folder", "medood runs runs"),
        ("show", show_command, "Summarize a run", "medood show runs/january --limit 50"),
        (
            "monitor",
            monitor_command,
            "Compare runs over time, with alarms",
            "medood monitor runs/2026-* --out runs/monitoring",
        ),
        ("diff", diff_command, "Compare two runs", "medood diff runs/january runs/february --out changes.csv"),
    ],
    "Exchange": [
        (
            "export",
            export_command,
            "Write verdicts as CSV, JSON or Parquet",
            "medood export runs/january runs/january.parquet",
        ),
        ("bundle", bundle_command, "Write a detector as a MONAI bundle", "medood bundle cxr-small --out runs/bundle"),
        ("onnx", onnx_command, "Write a detector as an ONNX graph", "medood onnx cxr-small --out runs/graph"),
        ("dicom", dicom_command, "Write DICOM objects of flagged scans", "medood dicom runs/january"),
        (
            "mercure",
            mercure_command,
            "Screen as a processing module of mercure",
            "medood mercure --in STUDY --out runs/results",
        ),
        (
            "push",
            push_command,
            "Store DICOM objects in a PACS",
            "medood push runs/january --to dicomweb+https://pacs.example/dicom-web",
        ),
    ],
    "Measure": [
        (
            "benchmark",
            benchmark_command,
            "Measure detection on a manifest",
            "medood benchmark cxr-small --data MANIFEST.csv --out runs/benchmark",
        ),
        (
            "check-maps",
            check_maps_command,
            "Measure the evidence maps' faithfulness",
            "medood check-maps SCANS --detector cxr-small --out maps.csv",
        ),
    ],
    "Look": [
        ("demo", demo_command, "Screen and report synthetic scans", "medood demo --out runs/demo"),
        ("inspect", inspect_command, "Show how scans are read", "medood inspect ARCHIVE.zip --png runs/seen"),
        ("doctor", doctor_command, "Check this installation", "medood doctor"),
    ],
}


class _PanelGroup(TyperGroup):
    """A group whose help lists commands by panel, in plain text."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            if not command.hidden:
                panel = str(getattr(command, "rich_help_panel", None) or "Commands")
                panels.setdefault(panel, []).append((name, command.get_short_help_str(60)))
        for panel, lines in panels.items():
            with formatter.section(panel):
                formatter.write_dl(lines)


app = typer.Typer(
    name="medood",
    cls=_PanelGroup,
    help="Find the scans of an archive that do not belong, at a stated false-alarm rate, and show why.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        print(f"medood {version('medood')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


for _panel, _commands in _PANELS.items():
    for _name, _function, _summary, _example in _commands:
        _epilog = f"\b\nExample:\n  {_example}"
        if _name == "train":
            _epilog += f"\n\n{keys_table()}"
        app.command(_name, short_help=_summary, epilog=_epilog, rich_help_panel=_panel)(_function)
    if _panel == "Measure":
        app.add_typer(speed_app, name="speed", short_help="Measure training and decoding speed", rich_help_panel=_panel)
        app.add_typer(data_app, name="data", short_help="Data cards, and manifests for a benchmark", rich_help_panel=_panel)


class _VisibleStream:
    """Standard output on which no name can send control characters to a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(visible(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main() -> None:
    """Run the command line; a user's mistake ends in a sentence and exit code 2, never in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name never stops a line from being printed
    sys.stdout = _VisibleStream(sys.stdout)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # pydicom's warnings quote values of the header
    for name in ("pydicom", "pynetdicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    keep_freed_memory()
    arguments, hints = current_names(sys.argv[1:])
    for hint in hints:
        print(visible(f"medood: {hint}"), file=sys.stderr)
    try:
        app(arguments)
    except MedoodError as error:
        print(visible(f"medood: {error}"), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            visible(f"medood: {where}{error.strerror or error}. Check the path, its permissions and the free space."),
            file=sys.stderr,
        )
        raise SystemExit(ExitCode.USAGE) from None
    except KeyboardInterrupt:
        print("medood: interrupted", file=sys.stderr)
        raise SystemExit(ExitCode.INTERRUPTED) from None
