"""The ``medood`` command.

Exit codes: 0 done (whatever was flagged); 1 a fault of medood itself; 2 something the user can put right, said in one
sentence; 3 training collapsed; 4 a run finished, but nothing got a score, or a source could not be read to its end; 130
interrupted; 143 asked to end (SIGTERM). Training and screening then go on by --resume.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from typing import Annotated, Any, TextIO

import typer

from medood.cli.bench import bench_app
from medood.cli.benchmark import benchmark_command
from medood.cli.calibrate import calibrate_command
from medood.cli.data import data_app
from medood.cli.demo import demo_command
from medood.cli.dicom import dicom_command
from medood.cli.doctor import doctor_command
from medood.cli.export import export_command
from medood.cli.faithfulness import faithfulness_command
from medood.cli.inspect import inspect_command
from medood.cli.listen import listen_command
from medood.cli.merge import merge_command
from medood.cli.negatives import negatives_command
from medood.cli.push import push_command
from medood.cli.report import report_command
from medood.cli.runs import diff_command, runs_command, show_command
from medood.cli.screen import screen_command
from medood.cli.sensitivity import sensitivity_command
from medood.cli.split import split_command
from medood.cli.train import keys_table, train_command
from medood.errors import MedoodError
from medood.text import visible

app = typer.Typer(
    name="medood",
    help="Tells which scans of an archive do not belong, at a stated false-alarm rate, and shows why.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"medood {version('medood')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


app.command("train", epilog=keys_table())(train_command)
app.command("negatives")(negatives_command)
app.command("sensitivity")(sensitivity_command)
app.command("calibrate")(calibrate_command)
app.command("screen")(screen_command)
app.command("listen")(listen_command)
app.command("merge")(merge_command)
app.command("inspect")(inspect_command)
app.command("report")(report_command)
app.command("split")(split_command)
app.command("dicom")(dicom_command)
app.command("push")(push_command)
app.command("export")(export_command)
app.command("runs")(runs_command)
app.command("show")(show_command)
app.command("diff")(diff_command)
app.command("benchmark")(benchmark_command)
app.command("faithfulness")(faithfulness_command)
app.command("demo")(demo_command)
app.command("doctor")(doctor_command)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")


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
    try:
        app()
    except MedoodError as error:
        print(visible(f"medood: {error}"), file=sys.stderr)
        raise SystemExit({"CollapseError": 3, "TerminatedError": 143}.get(type(error).__name__, 2)) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            visible(f"medood: {where}{error.strerror or error}. Check the path, its permissions and the free space."),
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("medood: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
