"""A DICOM storage provider (C-STORE SCP) that writes received objects to a watched folder, where they are screened.

Each object is written to the run's folder ``incoming`` and synced to disk before the success status is returned to the
sender. ``medood[pacs]`` installs the dependencies.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from medood.errors import MedoodError
from medood.output_folder import atomic_write, new_folder
from medood.progress import Progress
from medood.screening.finalize import Summary
from medood.screening.metrics import Metrics
from medood.screening.run import screen
from medood.screening.run_lock import locked
from medood.screening.run_options import RunOptions

#: Statuses of PS3.4 table B.2-1.
_STORED, _OUT_OF_RESOURCES, _CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000

#: Association rejection: permanent, by the service user, no reason given (PS3.8 section 9.3.4).
_NOT_YOU = (1, 1, 1)
#: Suffix of an object that is still being written.


@dataclass(frozen=True)
class ScpConfig:
    """Addresses, access rules and limits of the storage provider.

    Attributes:
        port: port of the storage provider; 0 picks a free one.
        bind: address to listen on.
        title: our application entity title; an association request that calls another title is rejected.
        callers: calling AE titles that are accepted; empty accepts all.
        peers: addresses that may connect; empty accepts all.
        associations: maximum number of simultaneous associations.
        largest: maximum size of an object in bytes.
        reserve: disk space to keep free, in bytes.
        health_port: port of the health page; ``None`` disables it, 0 picks a free one.
    """

    port: int
    bind: str = "127.0.0.1"
    title: str = "MEDOOD"
    callers: Sequence[str] = ()
    peers: Sequence[str] = ()
    associations: int = 10
    largest: int = 1024**3
    reserve: int = 1024**3
    health_port: int | None = None


@dataclass
class _Counts:
    stored: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, status: int) -> int:
        with self.lock:
            if status == _STORED:
                self.stored += 1
            else:
                self.refused += 1
        return status


def listen(
    scp: ScpConfig,
    detector: str | Path,
    out: Path,
    *,
    options: RunOptions,
    progress: Progress,
    on_open: Callable[[int, int], None] = lambda port, health: None,
    **settings: Any,
) -> Summary:
    """Receive DICOM objects and screen them until ``options.stopped`` returns true.

    Args:
        scp: addresses, access rules and limits.
        detector: as in :func:`medood.screening.run.screen`.
        out: the run's folder.
        options: as in :func:`medood.screening.run.screen`; ``watch`` and ``resume`` are always set.
        progress: progress display.
        opened: called with the two ports (0 for no health page) once the servers listen.
        options: further options of :func:`medood.screening.run.screen`.

    Raises:
        MedoodError: pynetdicom is missing, a port is in use, or the run cannot be resumed.
    """
    try:
        from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
        from pynetdicom.sop_class import Verification
    except ImportError as error:
        raise MedoodError("medood listen needs pynetdicom, which is not installed. Install medood[pacs].") from error
    with new_folder(out) as keep:
        incoming = out / "incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        with locked(out):
            for leftover in out.glob(".*.part"):  # left by a process killed while receiving
                leftover.unlink()
        counts = _Counts()
        try:
            entity = AE(scp.title)
            entity.require_calling_aet = list(scp.callers)
        except ValueError as error:
            raise MedoodError(f"--title and --caller must be 1 to 16 characters each: {error}.") from error
        entity.require_called_aet = True
        entity.maximum_associations = scp.associations
        entity.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)

        def store(event: Any) -> int:
            status = _store(event, incoming, scp)
            if status == _STORED:
                keep()
            return counts.note(status)

        def admit(event: Any) -> None:
            if scp.peers and event.assoc.requestor.address not in scp.peers:
                event.assoc.acse.send_reject(*_NOT_YOU)

        handlers = [(evt.EVT_C_STORE, store), (evt.EVT_REQUESTED, admit), (evt.EVT_C_ECHO, lambda event: _STORED)]
        try:
            server = entity.start_server((scp.bind, scp.port), block=False, evt_handlers=handlers)
        except (OSError, ValueError) as error:
            raise MedoodError(f"Cannot listen on {scp.bind}:{scp.port}: {error}.") from error
        health = None
        try:
            if scp.health_port is not None:
                health = _health(scp, incoming, counts, options.metrics)
            assert server is not None
            on_open(server.server_address[1], health.server_port if health else 0)
            return screen(
                [incoming], detector, out, options=replace(options, watch=True, resume=True), progress=progress, **settings
            )
        finally:
            entity.shutdown()
            if health is not None:
                health.shutdown()
                health.server_close()


def _store(event: Any, incoming: Path, scp: ScpConfig) -> int:
    """Store an object under the SHA-256 of its bytes, so that resending it overwrites the same file."""
    try:
        content = event.encoded_dataset()
    except Exception:  # malformed data can raise anything
        return _CANNOT_UNDERSTAND
    if len(content) > scp.largest or shutil.disk_usage(incoming).free < scp.reserve + len(content):
        return _OUT_OF_RESOURCES
    target = incoming / f"{hashlib.sha256(content).hexdigest()}.dcm"
    try:
        with atomic_write(target, beside=incoming.parent) as partial, partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        return _OUT_OF_RESOURCES
    with contextlib.suppress(OSError):  # not every file system supports syncing a folder
        folder = os.open(incoming, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return _STORED


def _health(scp: ScpConfig, incoming: Path, counts: _Counts, metrics: Metrics) -> ThreadingHTTPServer:
    """Start an HTTP server: ``/health`` returns 200, or 503 when disk space is short; ``/metrics`` returns the metrics."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            free = shutil.disk_usage(incoming).free
            body = {"stored": counts.stored, "refused": counts.refused, "free_bytes": free}
            if self.path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4", metrics.text())
            elif self.path == "/health":
                code, word = (200, "ok") if free > scp.reserve else (503, "no space")
                self._answer(code, "application/json", json.dumps({"status": word, **body}).encode())
            else:
                self._answer(404, "text/plain", b"/health or /metrics\n")

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    try:
        server = ThreadingHTTPServer((scp.bind, scp.health_port or 0), Handler)
    except OSError as error:
        raise MedoodError(f"Cannot listen on {scp.bind}:{scp.health_port}: {error.strerror}.") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
