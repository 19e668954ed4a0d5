"""Worker processes that read. One that dies or hangs costs one row, never the run.

Each worker has a pipe of its own, so that killing one at any moment leaves no lock behind. What crosses a pipe is JSON and
raw grey levels: a worker that a damaged file has taken over can send nothing that runs.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medood.detection.detector import Detector
from medood.scans.scan import Refusal, Status, UnavailableError
from medood.scans.sources.source import Source
from medood.screening.execution import fork_server
from medood.screening.execution.base import Embedded, embed_batch, use_one_thread
from medood.screening.read_worker import (
    Listed,
    Place,
    Reading,
    Readout,
    Result,
    read_results,
    results_from_parts,
    results_to_parts,
    source_from_bytes,
    source_to_bytes,
)

#: Sources that a worker has beside the one it reads, so that it never waits for the next.
_AHEAD = 3
#: Contents that are sent whole wait until their worker has nothing else: both ends might wait for each other otherwise.
_SMALL = 16_384
#: Bytes of what is read, and of contents on the way, that wait for their turn; and sources.
WAITING_BYTES, _WAITING = 32 * 1024**2, 4096
#: How often a source is tried: a worker may die of something else than its file.
_TRIES = 2
_TICK = 0.5
#: What reads a source: all that is read of it, in order.
Read = Callable[[Source | Refusal, Reading], list[Result]]


class _End:
    """That the listing has ended."""


_END = _End()
#: In the place of a source that has been read, so that its contents are let go.
_NOTHING = Source(Path())


@dataclass
class _Task:
    place: Place
    source: Source | Refusal
    tries: int = 0
    results: list[Result] | None = None
    size: int = 0


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    tasks: deque[_Task] = field(default_factory=deque)
    since: float = 0.0


class WorkerPool:
    """Processes that read sources, several at once, and hand on what they read in the order of the listing.

    Args:
        count: number of processes.
        reading: how they read.
        timeout: seconds that one source may take.
        read: what a worker does with a source.
    """

    def __init__(self, count: int, reading: Reading, timeout: float, read: Read = read_results) -> None:
        self._reading, self._timeout, self._read = reading, timeout, read
        self._context = fork_server.prepare()
        self._workers = [self._started() for _ in range(count)]
        self._order: deque[_Task] = deque()  # in the order of the listing, until they are handed on
        self._unsent: deque[_Task] = deque()
        self._held = 0
        self._waits = False  # for a source to come

    def read(self, listed: Iterator[Listed], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """Read every source; what is read comes out in their order.

        Args:
            listed: the sources.
            stopped: asked now and then; where it says yes, reading ends.

        Yields:
            place and results; none where all is read and there is no other source at present.
        """
        more = True
        while not stopped():
            if more or self._unsent:
                more = self._fill(listed) and more
            self._collect(_TICK if self._order and self._order[0].results is None else 0)
            while self._order and self._order[0].results is not None:
                task = self._order.popleft()
                self._held -= task.size
                assert task.results is not None
                yield task.place, task.results
            if not more and not self._order:
                return
            if self._waits and not self._order:
                yield None
                time.sleep(_TICK)

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.process.kill()
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(5)

    def _started(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._reading, self._timeout, self._read), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, since=time.monotonic())

    def _fill(self, listed: Iterator[Listed]) -> bool:
        """Give the workers what they have room for; false where the listing has ended."""
        self._waits = False
        while self._unsent or (self._held < WAITING_BYTES and len(self._order) < _WAITING):
            if not self._unsent:
                found = next(listed, _END)
                if isinstance(found, _End):
                    return False
                if found is None:
                    self._waits = True
                    return True
                task = _Task(*found, size=size_of(found[1]))
                self._order.append(task)
                self._held += task.size
                if isinstance(task.source, Refusal):
                    task.results = read_results(task.source, self._reading)
                    continue
                self._unsent.append(task)
            worker = min(self._workers, key=lambda worker: len(worker.tasks))
            if len(worker.tasks) > (0 if size_of(self._unsent[0].source) > _SMALL else _AHEAD):
                return True
            self._send(worker, self._unsent.popleft())
        return True

    def _send(self, worker: _Worker, task: _Task) -> None:
        if not worker.tasks:
            worker.since = time.monotonic()
        worker.tasks.append(task)
        with contextlib.suppress(OSError):  # it has died, which reading from it will show
            message, content = source_to_bytes(task.source)
            worker.pipe.send_bytes(message)
            if content is not None:
                worker.pipe.send_bytes(content)

    def _collect(self, seconds: float) -> None:
        """Take what workers have read, if need be after waiting for it, and replace those that died or hang."""
        pipes = {worker.pipe: worker for worker in self._workers if worker.tasks}
        for ready in wait(list(pipes), seconds):
            worker = pipes[ready]  # type: ignore[index]
            try:
                self._done(worker, results_from_parts(worker.pipe.recv_bytes))
            except (EOFError, OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError):
                worker.process.join(1)
                code = worker.process.exitcode
                how = f"signal {_signal(-code)}" if code and code < 0 else f"exit code {code}"
                why = f"the process that read this file ended ({how}), {_TRIES} times"
                self._replace(worker, Status.WORKER_DIED, why, _TRIES)
        for worker in self._workers:
            if worker.tasks and time.monotonic() - worker.since > self._timeout:
                why = f"the file was not read within {self._timeout:g} s"
                self._replace(worker, Status.TIMED_OUT, why, 1)

    def _done(self, worker: _Worker, results: list[Result]) -> None:
        """The oldest of the worker's sources has been read."""
        task = worker.tasks.popleft()
        size = sum(result.picture.nelement() for result in results if result.picture is not None)
        self._held += size - task.size
        task.results, task.size, task.source = results, size, _NOTHING
        worker.since = time.monotonic()

    def _replace(self, worker: _Worker, status: Status, reason: str, tries: int) -> None:
        """Put a new process in the place of one that died or hangs; the source that it read is tried again, or refused."""
        worker.process.kill()
        with contextlib.suppress(OSError):
            worker.pipe.close()
        if worker.tasks:
            task = worker.tasks[0]
            task.tries += 1
            if task.tries >= tries:
                self._done(worker, [Result(task.source.identity, status, reason)])
        self._unsent.extendleft(reversed(worker.tasks))
        fresh = self._started()
        worker.process, worker.pipe, worker.tasks = fresh.process, fresh.pipe, deque()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one without a name
        return str(number)


def size_of(source: Source | Refusal) -> int:
    """Bytes of contents that a source carries with it."""
    return len(source.content or b"") if isinstance(source, Source) else 0


def _work(pipe: Connection, reading: Reading, timeout: float, read: Read) -> None:
    """What a worker does until its pipe is closed. Where its main process is gone, an alarm ends even a hung decoder."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says when to end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, a worker goes first
    with contextlib.suppress(EOFError, OSError):
        while True:
            source = source_from_bytes(pipe.recv_bytes(), pipe.recv_bytes)
            signal.setitimer(signal.ITIMER_REAL, timeout + _TICK * 20)
            results: list[Result] | UnavailableError
            try:
                results = read(source, reading)
            except UnavailableError as error:
                results = error
            signal.setitimer(signal.ITIMER_REAL, 0)
            for part in results_to_parts(results):
                pipe.send_bytes(part)


class WorkerPoolEngine:
    """Worker processes read; as many threads of this process embed. See :class:`medood.screening.execution.base.Engine`."""

    def __init__(self, reading: Reading, detector: Detector, workers: int, timeout: float) -> None:
        self._detector = detector
        self._workers = WorkerPool(workers, reading, timeout)
        self._threads = use_one_thread()
        self._pool = ThreadPoolExecutor(min(workers, self._threads), "embedding")

    def read(self, sources: Iterator[Listed], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """Read every source; see the protocol."""
        return self._workers.read(sources, stopped)

    def embed(self, images: Tensor) -> Future[Embedded]:
        """Embed a batch on a thread; see the protocol."""
        return self._pool.submit(embed_batch, self._detector, images)

    def close(self) -> None:
        """End the workers and give torch its threads back."""
        self._workers.close()
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)
