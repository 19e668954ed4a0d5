"""``medood mercure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def mercure_command(
    incoming: Annotated[
        Path, typer.Option("--in", envvar="MERCURE_IN_DIR", help="The folder with the objects, and task.json.")
    ],
    outgoing: Annotated[
        Path, typer.Option("--out", envvar="MERCURE_OUT_DIR", help="The folder for result.json and DICOM objects.")
    ],
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of result.json.")] = False,
) -> None:
    """Screen the objects of one task of the DICOM router mercure: the entry point of its processing module.

    The settings detector, calibration, fpr, objects and notify come from process.settings in task.json. Objects that cannot
    be read are lines of result.json, not errors.
    """
    from medood.workflows.mercure import check_task

    settings, files = check_task(incoming, outgoing)  # before torch is imported, which takes seconds
    from medood.screening.execution.fork_server import prepare

    prepare()
    from medood.progress import Progress
    from medood.workflows.mercure import screen_task

    progress = Progress(quiet=quiet)
    result = screen_task(settings, files, outgoing, progress)
    progress.say(result["__mercure_notification"]["text"])
    print(outgoing / "result.json")
