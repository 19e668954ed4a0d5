"""Two ledgers joined by scan."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medood.scans.scan import Status

#: State of a scan in a run that does not contain it.
ABSENT = "absent"
#: Columns of the CSV of changes; a scan's names are taken from the second run, or from the first if the second lacks it.
COLUMNS = ("source", "member", "frame", "sha256", "before", "after", "score_before", "score_after", "p_before", "p_after")

_ROWS = f"""
CREATE TEMP TABLE {{0}}_rows (key TEXT, frame INTEGER, source TEXT, member TEXT, sha256 TEXT, state TEXT, score REAL,
    p_value REAL, PRIMARY KEY (key, frame)) WITHOUT ROWID;
INSERT OR IGNORE INTO {{0}}_rows SELECT CASE sha256 WHEN '' THEN source || char(10) || member ELSE sha256 END, frame, source,
    member, sha256, CASE decision WHEN '' THEN status ELSE decision END, score, p_value
    FROM {{0}}.scans WHERE status NOT IN ('{Status.DUPLICATE}', '{Status.NOT_SELECTED}')
"""  # noqa: S608 - constants only
#: View ``pairs`` over two attached ledgers with the columns ``COLUMNS``; a union, as older SQLite lacks FULL JOIN.
_PAIRS = f"""
{_ROWS.format("before")};{_ROWS.format("after")};
CREATE TEMP VIEW pairs AS
SELECT coalesce(a.source, b.source) AS source, coalesce(a.member, b.member) AS member, frame, b.sha256 AS sha256,
    b.state AS before, coalesce(a.state, '{ABSENT}') AS after, b.score AS score_before, a.score AS score_after,
    b.p_value AS p_before, a.p_value AS p_after
    FROM before_rows AS b LEFT JOIN after_rows AS a USING (key, frame)
UNION ALL
SELECT a.source, a.member, frame, a.sha256, '{ABSENT}', a.state, NULL, a.score, NULL, a.p_value
    FROM after_rows AS a LEFT JOIN before_rows AS b USING (key, frame) WHERE b.state IS NULL
"""  # noqa: S608


class RunPair:
    """The scans of two runs, matched by the SHA-256 of their files and their frame, or by name where there is no digest.

    Args:
        before: the folder of a run.
        after: the folder of another run.
    """

    def __init__(self, before: Path, after: Path) -> None:
        self._database = sqlite3.connect("", uri=True)
        for name, run in (("before", before), ("after", after)):
            uri = f"{(run / 'ledger.sqlite').absolute().as_uri()}?mode=ro"
            self._database.execute(f"ATTACH ? AS {name}", (uri,))
        for statement in _PAIRS.split(";"):
            self._database.execute(statement)

    def counts(self) -> dict[tuple[str, str], int]:
        """Scans by their decision or status before and after."""
        rows = self._database.execute("SELECT before, after, count(*) FROM pairs GROUP BY 1, 2 ORDER BY 1, 2")
        return {(before, after): count for before, after, count in rows}

    def changes(self) -> Iterator[tuple[Any, ...]]:
        """The scans whose decision or status changed, with the columns of ``COLUMNS``."""
        yield from self._database.execute("SELECT * FROM pairs WHERE before != after ORDER BY source, member, frame")

    def close(self) -> None:
        """Close both ledgers."""
        self._database.close()
