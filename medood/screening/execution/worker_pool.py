"""The engine with worker processes that read. A worker that dies or hangs costs one row, never the run.

Each worker has its own pipe, so that killing it at any moment leaves no lock behind. Pipes carry only JSON and raw grey
levels: a worker compromised by a malicious file cannot send executable content.
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

from medood.reasons import Reason
from medood.scans.scan import Refusal, Status, UnavailableError
from medood.scans.sources.source import Source
from medood.screening.execution import fork_server
from medood.screening.execution.base import Embedded, Embedding, embed_batch, use_one_thread
from medood.screening.read_worker import (
    Readout,
    ReadSpec,
    Result,
    read_results,
    results_from_parts,
    results_to_parts,
    source_from_bytes,
    source_to_bytes,
)
from medood.screening.source_listing import ListingPosition, NextSource

#: Sources queued at a worker besides the one it reads, so that it never waits for the next.
_AHEAD = 3
#: Contents of more bytes are sent only to an idle worker; otherwise both ends of the pipe could block each other.
_SMALL = 16_384
#: Limits on what is held until its turn: bytes of results and of contents in flight, and number of sources.
WAITING_BYTES, _WAITING = 32 * 1024**2, 4096
#: Number of tries per source: a worker may die for another reason than its file.
_TRIES = 2
_TICK = 0.5
#: Function that reads a source and returns its results in order.
Read = Callable[[Source | Refusal, ReadSpec], list[Result]]


class _End:
    """Marks the end of the listing."""


_END = _End()
#: Replaces a source that has been read, so that its contents are freed.
_NOTHING = Source(Path())


@dataclass
class _Task:
    place: ListingPosition
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
    """Processes that read sources in parallel and return the results in listing order.

    Args:
        count: number of processes.
        reading: how sources are read.
        timeout: time limit per source in seconds.
        read: function that a worker calls for each source.
    """

    def __init__(self, count: int, reading: ReadSpec, timeout: float, read: Read = read_results) -> None:
        self._reading, self._timeout, self._read = reading, timeout, read
        self._context = fork_server.prepare()
        self._workers = [self._start_worker() for _ in range(count)]
        self._order: deque[_Task] = deque()  # in listing order, until yielded
        self._unsent: deque[_Task] = deque()
        self._held = 0
        self._waits = False  # for a new source

    def read(self, listed: Iterator[NextSource], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """Read every source and yield the results in the order of the sources.

        Args:
            listed: the sources.
            stopped: polled regularly; once it returns true, reading ends.

        Yields:
            position and results; ``None`` while everything is read and there is no new source.
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

    def _start_worker(self) -> _Worker:
        parent_pipe, child_pipe = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(child_pipe, self._reading, self._timeout, self._read), daemon=True
        )
        process.start()
        child_pipe.close()
        return _Worker(process, parent_pipe, since=time.monotonic())

    def _fill(self, listed: Iterator[NextSource]) -> bool:
        """Send sources to workers with room for more; return false once the listing has ended."""
        self._waits = False
        while self._unsent or (self._held < WAITING_BYTES and len(self._order) < _WAITING):
            if not self._unsent:
                placed = next(listed, _END)
                if isinstance(placed, _End):
                    return False
                if placed is None:
                    self._waits = True
                    return True
                task = _Task(*placed, size=size_of(placed[1]))
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
        with contextlib.suppress(OSError):  # a dead worker is detected when reading from it
            message, content = source_to_bytes(task.source)
            worker.pipe.send_bytes(message)
            if content is not None:
                worker.pipe.send_bytes(content)

    def _collect(self, seconds: float) -> None:
        """Collect results, waiting at most ``seconds``, and replace workers that died or hang."""
        pipes = {worker.pipe: worker for worker in self._workers if worker.tasks}
        for ready in wait(list(pipes), seconds):
            worker = pipes[ready]  # type: ignore[index]
            try:
                self._done(worker, results_from_parts(worker.pipe.recv_bytes))
            except (EOFError, OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError):
                worker.process.join(1)
                code = worker.process.exitcode
                reason = (
                    Reason("process_ended_signal", signal=_signal(-code), tries=_TRIES)
                    if code and code < 0
                    else Reason("process_ended_exit_code", code=str(code), tries=_TRIES)
                )
                self._replace(worker, Status.WORKER_DIED, reason, _TRIES)
        for worker in self._workers:
            if worker.tasks and time.monotonic() - worker.since > self._timeout:
                reason = Reason("timed_out", seconds=self._timeout)
                self._replace(worker, Status.TIMED_OUT, reason, 1)

    def _done(self, worker: _Worker, results: list[Result]) -> None:
        """Store the results of the worker's oldest source."""
        task = worker.tasks.popleft()
        size = sum(result.image.nelement() for result in results if result.image is not None)
        self._held += size - task.size
        task.results, task.size, task.source = results, size, _NOTHING
        worker.since = time.monotonic()

    def _replace(self, worker: _Worker, status: Status, reason: Reason, tries: int) -> None:
        """Replace a worker that died or hangs; the source it was reading is retried, or refused after ``tries`` tries."""
        worker.process.kill()
        with contextlib.suppress(OSError):
            worker.pipe.close()
        if worker.tasks:
            task = worker.tasks[0]
            task.tries += 1
            if task.tries >= tries:
                self._done(worker, [Result(task.source.identity, status, reason)])
        self._unsent.extendleft(reversed(worker.tasks))
        fresh = self._start_worker()
        worker.process, worker.pipe, worker.tasks = fresh.process, fresh.pipe, deque()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a signal without a name
        return str(number)


def size_of(source: Source | Refusal) -> int:
    """Size in bytes of the contents loaded in a source."""
    return len(source.content or b"") if isinstance(source, Source) else 0


def _work(pipe: Connection, reading: ReadSpec, timeout: float, read: Read) -> None:
    """Main loop of a worker, until its pipe is closed. An alarm ends a hung decoder even if the main process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # when memory runs out, the kernel kills a worker first
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
    """Reads in worker processes, embeds on threads of this process; see :class:`medood.screening.execution.base.Engine`."""

    def __init__(self, reading: ReadSpec, embedding: Embedding, workers: int, timeout: float) -> None:
        self._embedding = embedding
        self._workers = WorkerPool(workers, reading, timeout)
        self._threads = use_one_thread()
        self._pool = ThreadPoolExecutor(min(workers, self._threads), "embedding")

    def read(self, sources: Iterator[NextSource], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """Read every source; see the protocol."""
        return self._workers.read(sources, stopped)

    def embed(self, images: Tensor) -> Future[Embedded]:
        """Embed a batch on a thread; see the protocol."""
        return self._pool.submit(embed_batch, self._embedding, images)

    def close(self) -> None:
        """End the workers and restore torch's number of threads."""
        self._workers.close()
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)
