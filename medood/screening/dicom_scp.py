"""A DICOM storage provider (C-STORE SCP) in front of a watched folder: what arrives is kept, screened and in the ledger.

Each object becomes a file of the run's folder ``incoming``, on the disk and not in its cache alone, before its sender is
told that it is stored. ``medood[pacs]`` installs what it needs.
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
from medood.output_folder import new_folder
from medood.progress import Progress
from medood.screening.finalize import Summary
from medood.screening.metrics import Metrics
from medood.screening.run import Work, screen
from medood.screening.run_lock import locked

#: Statuses of PS3.4 table B.2-1.
_STORED, _OUT_OF_RESOURCES, _CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000

#: Permanent, by the service user, no reason given (PS3.8 section 9.3.4).
_NOT_YOU = (1, 1, 1)
#: How an object ends that is not whole yet.
_PARTIAL = ".part"


@dataclass(frozen=True)
class Doors:
    """Who may store, and how much.

    Attributes:
        port: of the storage provider; 0 takes a free one.
        bind: the one address that is listened on.
        title: our application entity title; whoever calls another one is refused.
        callers: titles that may call; empty is all.
        peers: addresses that may connect; empty is all.
        associations: at once.
        largest: bytes of an object.
        reserve: bytes that stay free on the disk.
        health_port: of the health page; none has none, 0 takes a free one.
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
    doors: Doors,
    detector: str | Path,
    out: Path,
    *,
    work: Work,
    progress: Progress,
    opened: Callable[[int, int], None] = lambda port, health: None,
    **options: Any,
) -> Summary:
    """Take objects in and screen them, until ``work.stopped`` says yes.

    Args:
        doors: who may store, and how much.
        detector: as in :func:`medood.screening.run.screen`.
        out: the run's folder.
        work: as there; ``watch`` and ``resume`` are set.
        progress: where to draw.
        opened: called with the ports, once both listen.
        options: of :func:`medood.screening.run.screen`.

    Raises:
        MedoodError: pynetdicom is missing, a port is taken, or the run cannot go on.
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
            for left in out.glob(f".*{_PARTIAL}"):  # of a process that was killed as an object came
                left.unlink()
        counts = _Counts()
        try:
            entity = AE(doors.title)
            entity.require_calling_aet = list(doors.callers)
        except ValueError as error:
            raise MedoodError(f"--title and --caller are 1 to 16 characters each: {error}.") from error
        entity.require_called_aet = True
        entity.maximum_associations = doors.associations
        entity.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)

        def store(event: Any) -> int:
            status = _stored(event, incoming, doors)
            if status == _STORED:
                keep()
            return counts.note(status)

        def admit(event: Any) -> None:
            if doors.peers and event.assoc.requestor.address not in doors.peers:
                event.assoc.acse.send_reject(*_NOT_YOU)

        handlers = [(evt.EVT_C_STORE, store), (evt.EVT_REQUESTED, admit), (evt.EVT_C_ECHO, lambda event: _STORED)]
        try:
            server = entity.start_server((doors.bind, doors.port), block=False, evt_handlers=handlers)
        except (OSError, ValueError) as error:
            raise MedoodError(f"{doors.bind}:{doors.port} cannot be listened on: {error}.") from error
        health = None
        try:
            if doors.health_port is not None:
                health = _health(doors, incoming, counts, work.metrics)
            assert server is not None
            opened(server.server_address[1], health.server_port if health else 0)
            return screen(
                [incoming], detector, out, work=replace(work, watch=True, resume=True), progress=progress, **options
            )
        finally:
            entity.shutdown()
            if health is not None:
                health.shutdown()
                health.server_close()


def _stored(event: Any, incoming: Path, doors: Doors) -> int:
    """Keep an object under the digest of its bytes: the same object sent again is the same file."""
    try:
        content = event.encoded_dataset()
    except Exception:  # the sender's data may be wrong in any way
        return _CANNOT_UNDERSTAND
    if len(content) > doors.largest or shutil.disk_usage(incoming).free < doors.reserve + len(content):
        return _OUT_OF_RESOURCES
    target = incoming / f"{hashlib.sha256(content).hexdigest()}.dcm"
    partial = incoming.parent / f".{target.name}.{threading.get_ident()}{_PARTIAL}"
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
    except OSError:
        partial.unlink(missing_ok=True)
        return _OUT_OF_RESOURCES
    with contextlib.suppress(OSError):  # not every file system can
        folder = os.open(incoming, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return _STORED


def _health(doors: Doors, incoming: Path, counts: _Counts, metrics: Metrics) -> ThreadingHTTPServer:
    """A page that says whether objects are taken (200) or not for want of space (503), and one with the run's figures."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            free = shutil.disk_usage(incoming).free
            told = {"stored": counts.stored, "refused": counts.refused, "free_bytes": free}
            if self.path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4", metrics.text())
            elif self.path == "/health":
                code, word = (200, "ok") if free > doors.reserve else (503, "no space")
                self._answer(code, "application/json", json.dumps({"status": word, **told}).encode())
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
        server = ThreadingHTTPServer((doors.bind, doors.health_port or 0), Handler)
    except OSError as error:
        raise MedoodError(f"{doors.bind}:{doors.health_port} cannot be listened on: {error.strerror}.") from error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
