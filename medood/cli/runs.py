"""``medood runs``, ``medood show`` and ``medood diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def runs_command(
    folder: Annotated[Path, typer.Argument(help="The folder that holds runs, at any depth.")] = Path("runs"),
) -> None:
    """List the runs in a folder."""
    from medood.screening.run_diff import find_runs

    runs = list(find_runs(folder))
    if not runs:
        print(f"no run in {folder}")
        return
    print(f"{'started':<20}{'finished':<20}{'rows':>9}{'flagged':>9}  {'detector':<28} {'calibration':<14} {'rate':<9} run")
    for run in runs:
        if run.damaged:
            print(f"{run.folder}: {run.damaged}")
            continue
        finished = run.finished[:19] or "not finished"
        made_with = f"{run.detector[:28]:<28} {run.calibration[:14]:<14} {run.rate:<9}"
        print(f"{run.started[:19]:<20}{finished:<20}{run.rows:>9}{run.flagged:>9}  {made_with} {run.folder}")


def show_command(
    run: Annotated[Path, typer.Argument(help="The folder that medood screen wrote.")],
    limit: Annotated[int, typer.Option("--limit", min=0, help="Flagged scans that are listed.")] = 20,
) -> None:
    """Show what a run was made with, what it found, and its most out-of-distribution scans."""
    from medood.detection.conformal import Decision
    from medood.reporting.sentences import run_sentences
    from medood.screening.ledger.database import Ledger

    ledger = Ledger(run)
    try:
        metadata, counts = ledger.metadata(), ledger.counts()
        print(f"sources   {', '.join(metadata.sources)}")
        print(f"screened  {metadata.started} to {metadata.finished or '(not finished)'}, medood {metadata.medood}")
        print(f"detector  {metadata.detector.name} {metadata.detector.sha256}, score {metadata.detector.score}")
        rate = f"false-discovery rate {metadata.fdr:g}" if metadata.fdr is not None else f"false-alarm rate {metadata.fpr:g}"
        print(f"decided   at a {rate}")
        if metadata.shard:
            rule = f"by --fpr {metadata.limit:g} alone until medood merge" if metadata.fdr is not None else "as the whole is"
            print(f"part      {metadata.shard} of the archive, decided {rule}")
        if metadata.finished:
            for sentence in run_sentences(metadata):
                print(f"          {sentence}")
        for (status, decision), count in counts.items():
            print(f"{count:>9}  {decision.replace('_', ' ') or status}")
        flagged = counts.get(("scored", Decision.OUT_OF_DISTRIBUTION), 0)
        if flagged and limit:
            print(f"\n{'score':>12}{'p-value':>10}  scan")
            for row in ledger.flagged(limit):
                frame = f", frame {row.frame}" if row.frame else ""
                print(f"{row.score:>12.5g}{row.p_value:>10.4f}  {row.source}{'!' if row.member else ''}{row.member}{frame}")
            if flagged > limit:
                print(f"{flagged - limit:>22} more; --limit shows them, verdicts.csv has all")
    finally:
        ledger.close()


def diff_command(
    first: Annotated[Path, typer.Argument(help="A run.")],
    second: Annotated[Path, typer.Argument(help="A later one, or one with another detector.")],
    changes: Annotated[Path | None, typer.Option("--out", help="A CSV file for the scans that changed.")] = None,
) -> None:
    """Say what changed between two runs: scans are told by their contents, wherever they lie."""
    from medood.screening.run_diff import diff_runs

    difference = diff_runs(first, second, changes)
    for name, before, after in difference.settings:
        print(f"{name}: {_plain(before)} -> {_plain(after)}")
    for (before, after), count in difference.counts.items():
        same = "still" if before == after else f"{before.replace('_', ' ')} ->"
        print(f"{count:>9}  {same} {after.replace('_', ' ')}")
    print(f"{difference.changed} of {sum(difference.counts.values())} scans changed")
    if changes is not None:
        print(changes)
    elif difference.changed:
        print("--out FILE.csv lists them")


def _plain(value: object) -> str:
    return "none" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
