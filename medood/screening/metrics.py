"""Monitoring of a run: metrics for Prometheus and events as JSON lines, without names of files or patients."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, write_to_textfile

from medood.detection.conformal import Decision
from medood.errors import MedoodError
from medood.screening.ledger.database import Row

if TYPE_CHECKING:
    from medood.screening.throughput import Throughput

#: Minimum interval between two writes of the metrics file, in seconds.
_EVERY = 5.0


class Metrics:
    """Metrics and events of one run.

    Args:
        figures: metrics file in Prometheus text format, replaced atomically every few seconds; ``None`` writes none.
        events: file to which events are appended as JSON lines; ``None`` writes none.
    """

    def __init__(self, figures: Path | None = None, events: Path | None = None) -> None:
        self._figures, self._events, self._written = figures, events, 0.0
        self._registry = CollectorRegistry()
        self._rows = Counter("medood_rows", "Rows written", ["status", "decision"], registry=self._registry)
        self._seconds = Counter("medood_seconds", "Seconds spent, over all processes", ["stage"], registry=self._registry)
        self._waiting = Gauge("medood_waiting_share", "Share of time spent waiting", ["stage"], registry=self._registry)
        self._rate = Gauge(
            "medood_scans_per_second", "Scans per second since the run started or resumed", registry=self._registry
        )
        self._last = Gauge("medood_last_row_timestamp_seconds", "Time of the last rows written", registry=self._registry)

    def check(self) -> None:
        """Check early that the folders of both files exist.

        Raises:
            MedoodError: a folder is missing.
        """
        for option, file in (("--metrics", self._figures), ("--log", self._events)):
            if file is not None and not file.parent.is_dir():
                raise MedoodError(f"{option} {file} cannot be written: there is no folder {file.parent}.")

    def rows(self, rows: Sequence[Row], throughput: Throughput) -> None:
        """Record committed rows."""
        for row in rows:
            self._rows.labels(row.status, row.decision).inc()
            self._seconds.labels("read").inc(row.read_seconds)
            self._seconds.labels("network").inc(row.score_seconds)
        for stage, share in throughput.shares().items():
            self._waiting.labels(stage).set(share)
        self._rate.set(throughput.rate())
        self._last.set(time.time())
        faults = sum(row.status in ("worker_died", "timed_out") for row in rows)
        flagged = sum(row.decision == Decision.OUT_OF_DISTRIBUTION for row in rows)
        self.event("rows", count=len(rows), flagged=flagged, faults=faults, scans_per_second=round(throughput.rate(), 2))
        if time.monotonic() > self._written + _EVERY:
            self.write()

    def event(self, name: str, **figures: float | str) -> None:
        """Append an event to the log.

        Raises:
            MedoodError: the file cannot be written.
        """
        if self._events is None:
            return
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": name, **figures})
        try:
            with self._events.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise MedoodError(f"--log {self._events} cannot be written: {error.strerror or error}.") from error

    def write(self) -> None:
        """Write the metrics file.

        Raises:
            MedoodError: the file cannot be written.
        """
        self._written = time.monotonic()
        if self._figures is None:
            return
        try:
            write_to_textfile(str(self._figures), self._registry)
        except OSError as error:
            raise MedoodError(f"--metrics {self._figures} cannot be written: {error.strerror or error}.") from error

    def text(self) -> bytes:
        """The metrics in Prometheus text format."""
        return bytes(generate_latest(self._registry))
