"""``medood monitor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def monitor_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs with one detector, calibration and rate.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for monitor.html, monitor.json and monitor.prom.")],
    baseline: Annotated[
        int, typer.Option("--baseline", min=1, help="First runs from which control limits are computed.")
    ] = 1,
    every: Annotated[
        float, typer.Option("--every", help="Scans of a stratum in which at most one false alarm is expected.")
    ] = 1_000_000,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the page's path.")] = False,
) -> None:
    """Compare runs over time: flag rate within control limits, scores, and alarms where the scans have changed.

    A change is looked for in the order of the scans, by stratum where the calibration has strata.
    """
    from medood.progress import Progress
    from medood.reporting.pages.monitoring import write_monitoring
    from medood.screening.monitor.run_comparison import monitor

    progress = Progress(quiet=quiet)
    result = monitor(runs, baseline=baseline, every=every, progress=progress)
    page = write_monitoring(result, out)
    for stream in result.streams:
        for period in stream.periods:
            where = f"{period.run}{f', {stream.stratum}' if stream.stratum else ''}"
            for scan in period.alarms:
                progress.say(f"ALARM in {where}: the scans have changed, seen at scan {scan} of {period.scans}")
            if period.is_outside and period.limits is not None:
                low, high = (f"{100 * limit:.1f}" for limit in period.limits)
                progress.say(f"in {where} {period.flagged} of {period.scans} are flagged; {low} to {high} % were expected")
    print(page)
