"""The engine for a Dask cluster, which reads and embeds while this process lists, judges and writes.

A file that crashes its worker is tried twice and then becomes a row, as with worker processes. Results are the same as in
one process: every batch holds the same images in the same order. ``medood[cluster]`` installs the dependencies.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medood.allocator import keep_freed_memory
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import Features, embed
from medood.errors import MedoodError, StoppedError
from medood.reasons import Reason
from medood.scans.scan import Refusal, Status, UnavailableError
from medood.scans.sources.source import Source
from medood.screening.execution.dask_future import DaskFuture
from medood.screening.execution.worker_pool import WAITING_BYTES, size_of
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

if TYPE_CHECKING:
    from medood.detection.detector import Detector
    from medood.screening.execution.base import Embedded

try:
    import dask
    import distributed
    from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin
except ImportError as error:
    raise MedoodError("--engine dask needs Dask, which is not installed. Install medood[cluster].") from error

#: Sources in flight per thread of the cluster.
_AHEAD = 4
#: Seconds between two counts of the cluster's threads.
_COUNTED = 5.0
#: Number of tries for a file whose worker dies.
_TRIES = 2
#: Number of tries for a batch; a batch is rarely the cause, it usually shared a worker with such a file.
_BATCH_TRIES = 6
_TICK = 0.2
#: Seconds between two polls of the workers' running tasks, and the time limit for their reply.
_LOOK, _SAID = 1.0, 5
#: Bytes of contents in flight per thread, for clusters with many threads.
_FOR_A_THREAD = 8 * 1024**2
#: Seconds to wait for a scheduler to answer.
_ANSWERS = 15
#: Settings of a local cluster: tasks of a dead worker return to this process, which retries them; a worker holds no more
#: tasks than it runs, so that no task fails because of another's file; a worker that is slow to start is waited for.
_LOCAL = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.deploy.lost-worker-timeout": "3650d",
}
_END = "the listing has ended"


class DaskEngine:
    """See :class:`medood.screening.execution.base.Engine`.

    Args:
        reading: how sources are read.
        detector: its network is sent to every worker once.
        workers: number of processes of the local cluster; unused with a ``scheduler``.
        timeout: time limit per source in seconds.
        scheduler: address of an existing cluster, ``tcp://HOST:PORT``; empty starts one on this machine, on loopback.

    Raises:
        MedoodError: the scheduler does not answer.
    """

    def __init__(self, reading: ReadSpec, detector: Detector, workers: int, timeout: float, scheduler: str) -> None:
        self._reading, self._timeout, self._scheduler = reading, timeout, scheduler
        self._stopped: Callable[[], bool] = lambda: False
        self._reads: list[DaskFuture] = []
        self._next_look = 0.0
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self._local: LocalCluster | None = None
        if not scheduler:
            dask.config.set(_LOCAL)
            self._local = LocalCluster(
                n_workers=workers or 1,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        try:
            self._client = Client(self._local or scheduler, timeout=_ANSWERS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise MedoodError(f"No Dask scheduler answers at {scheduler}: {error}. Give tcp://HOST:PORT.") from error
        model = _Model(detector.network, detector.copies)
        self.plugin = f"medood-{detector.sha256}"  # runs with other detectors may share the cluster
        given_up = time.monotonic() + _ANSWERS
        while True:
            try:
                self._client.register_plugin(model, name=self.plugin)
                break
            except OSError as error:  # a worker died just now
                if self._client.status != "running" or time.monotonic() > given_up:
                    self.close()
                    raise self.cluster_lost() from error
                time.sleep(_LOOK)
            except Exception as error:  # a missing dependency can raise anything
                self.close()
                raise self.worker_error(error) from error

    def read(self, listed: Iterator[NextSource], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """See :class:`medood.screening.execution.base.Engine`."""
        in_flight: deque[tuple[ListingPosition, Source | Refusal, DaskFuture | list[Result]]] = deque()
        more, threads, counted_at, source_bytes = True, 1, -_COUNTED, 0
        self._stopped = stopped
        while not stopped():
            if time.monotonic() > counted_at + _COUNTED:
                threads, counted_at = max(1, sum(self.ask(self._client.nthreads).values())), time.monotonic()
            room = max(WAITING_BYTES, threads * _FOR_A_THREAD)
            room -= sum(pending.size() for _, _, pending in in_flight if isinstance(pending, DaskFuture))
            while more and len(in_flight) < _AHEAD * threads and source_bytes < room:
                placed = next(listed, _END)
                if isinstance(placed, str):
                    more = False
                    break
                if placed is None:
                    break
                place, source = placed
                source_bytes += size_of(source)
                if isinstance(source, Refusal):
                    in_flight.append((place, source, read_results(source, self._reading)))
                else:
                    in_flight.append((place, source, self._submit_read(source)))
            if not in_flight:
                if not more:
                    return
                yield None
                time.sleep(_TICK)
                continue
            place, source, pending = in_flight.popleft()
            source_bytes -= size_of(source)
            results = pending if isinstance(pending, list) else self._wait_for(pending, source, stopped)
            if results is None:
                return
            yield place, results

    def embed(self, images: Tensor) -> Future[Embedded]:
        """See :class:`medood.screening.execution.base.Engine`."""
        return _Embedding(self, images)

    def close(self) -> None:
        """See :class:`medood.screening.execution.base.Engine`."""
        self._client.close(timeout=5)
        if self._local is not None:
            self._local.close(timeout=10)

    def ask(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method of the Dask client.

        Raises:
            MedoodError: the scheduler is gone.
        """
        if self._client.status != "running":
            raise self.cluster_lost()
        try:
            return call(*arguments, **options)
        except Exception as error:  # a client without a scheduler can raise anything
            raise self.cluster_lost() from error

    def submit(self, call: Callable[..., Any], *arguments: Any, priority: int = 0) -> DaskFuture:
        """Submit a call to the cluster."""
        task = self.ask(self._client.submit, call, *arguments, pure=False, priority=priority)
        return DaskFuture(task, self.cluster_lost, self.worker_error)

    def check_timeouts(self) -> None:
        """Check the scheduler, and give up files that exceed the time limit; called repeatedly while waiting.

        Raises:
            MedoodError: the scheduler is gone.
        """
        if self._client.status != "running":
            raise self.cluster_lost()
        if time.monotonic() < self._next_look:
            return
        reads = [future for future in self._reads if not future.wait(0)]
        try:
            running, now = self._running([str(future.task.key) for future in reads]), time.monotonic()
        except (OSError, KeyError):  # a worker was just lost, or a task has not reached the scheduler yet
            return
        for future in reads:
            # Only the time in which a worker runs the task counts.
            future.since = min(future.since, now) if str(future.task.key) in running else float("inf")
            if now - future.since > self._timeout:
                future.overdue = True
                self._give_up(future.task)
        self._next_look = time.monotonic() + _LOOK

    def _running(self, keys: list[str]) -> set[str]:
        """The keys of the reads that workers are running now; ``keys`` are in order of submission."""
        if not keys:
            return set()
        try:
            stacks = self._client.sync(self._client.scheduler.call_stack, keys=keys, callback_timeout=_SAID)
        except TimeoutError:  # a decoder that holds the GIL blocks the reply: assume the worker runs its first tasks
            threads, running = self.ask(self._client.nthreads), set[str]()
            for address, tasks in self.ask(self._client.processing).items():
                has = set(map(str, tasks))
                running.update([key for key in keys if key in has][: threads.get(address, 1)])
            return running
        return {str(key) for tasks in stacks.values() for key in tasks}

    def check_stopped(self) -> None:
        """Abort a stopped run that cannot finish its last batches.

        Raises:
            StoppedError: the run was stopped and the cluster has no worker.
        """
        if self._stopped() and not self.ask(self._client.nthreads):
            raise StoppedError(
                f"Stopped while the Dask cluster at {self._where} has no worker. Resume with the same command and --resume."
            )

    def _submit_read(self, source: Source) -> DaskFuture:
        future = self.submit(_read, source_to_bytes(source), self._reading)
        self._reads.append(future)
        return future

    def _wait_for(self, future: DaskFuture, source: Any, stopped: Callable[[], bool]) -> list[Result] | None:
        """Wait for the results of a source; a refusal if reading fails or times out, ``None`` if the run is stopped."""
        for tries_left in reversed(range(_TRIES)):
            while not (future.overdue or future.wait(_TICK)):
                if stopped():
                    return None
                self.check_timeouts()
            self._reads.remove(future)
            if future.overdue:
                return [Result(source.identity, Status.TIMED_OUT, Reason("timed_out", seconds=self._timeout))]
            try:
                return results_from_parts(iter(future.result()).__next__)
            except MedoodError:
                raise
            except Exception as error:  # the worker ended, memory ran out, or the reader raised
                if not tries_left:
                    why = Reason("reading_failed", tries=_TRIES)
                    if isinstance(error, KilledWorker):
                        why = Reason("machine_ended", tries=_TRIES)
                    return [Result(source.identity, Status.WORKER_DIED, why)]
            future = self._submit_read(source)
        return None

    def _give_up(self, task: Any) -> None:
        """Cancel a hanging task and restart its worker, because a thread cannot be killed."""
        processing = self.ask(self._client.processing)
        busy = [address for address, keys in processing.items() if task.key in map(str, keys)]
        self.ask(task.cancel, force=True)
        if busy:
            try:
                self._client.restart_workers(busy, raise_for_error=False)
            except KeyError:
                pass  # it has just ended on its own
            except ValueError:  # without a nanny it cannot be restarted; its other threads continue
                logging.getLogger(__name__).warning("a worker hangs on a file and has no nanny to restart it")
            except OSError as error:
                raise self.cluster_lost() from error

    def cluster_lost(self) -> MedoodError:
        """The error for a lost cluster."""
        return MedoodError(
            f"The Dask cluster at {self._where} is gone. Start it, then resume with the same command and --resume."
        )

    def worker_error(self, error: Exception) -> MedoodError:
        """The error for workers with a missing or mismatched installation."""
        return MedoodError(
            f"Workers of the Dask cluster at {self._where} cannot do the work ({type(error).__name__}: {error}). Install "
            "the same medood[cluster] there as here, then resume with the same command and --resume."
        )

    def workers_exhausted(self, error: Exception) -> MedoodError:
        """The error for a batch whose workers died at every try."""
        return MedoodError(
            f"Workers of the Dask cluster at {self._where} ended {_BATCH_TRIES} times while embedding the same images "
            f"({type(error).__name__}). Give them more memory, then resume with the same command and --resume."
        )

    @property
    def _where(self) -> str:
        return self._scheduler or "this machine"


class _Embedding(Future["Embedded"]):
    """Future of a batch that the cluster embeds."""

    def __init__(self, cluster: DaskEngine, images: Tensor) -> None:
        super().__init__()
        self._cluster, self._pictures = cluster, images
        self._coming = self._submit_read()

    def _submit_read(self) -> DaskFuture:
        return self._cluster.submit(_embed, self._cluster.plugin, self._pictures.numpy(), priority=10)

    def done(self) -> bool:
        return self._coming.wait(0)

    def result(self, timeout: float | None = None) -> Embedded:
        for tries_left in reversed(range(_BATCH_TRIES)):
            while not self._coming.wait(_TICK):
                self._cluster.check_timeouts()
                self._cluster.check_stopped()
            try:
                *arrays, seconds = self._coming.result()
                break
            except (KilledWorker, MemoryError) as error:
                if not tries_left:
                    raise self._cluster.workers_exhausted(error) from error
                self._coming = self._submit_read()
        features, outputs, *more = (None if array is None else torch.from_numpy(array.copy()) for array in arrays)
        assert features is not None
        assert outputs is not None
        return Features(features, outputs, *more), seconds


class _Model(WorkerPlugin):  # type: ignore[misc]  # Dask is untyped
    """Worker plugin that holds the network."""

    def __init__(self, network: EnsembleNetwork, copies: dict[str, bool]) -> None:
        self.network, self.copies = network, copies


def _read(source: tuple[bytes, bytes | None], reading: ReadSpec) -> list[bytes]:
    message, content = source
    try:
        return list(results_to_parts(read_results(source_from_bytes(message, lambda: content), reading)))
    except UnavailableError as error:
        return list(results_to_parts(error))


def _embed(plugin: str, images: Any) -> Any:
    model = distributed.get_worker().plugins[plugin]
    started = time.perf_counter()
    torch.set_num_threads(1)  # as in every engine
    keep_freed_memory()
    rows = embed(model.network, torch.from_numpy(images.copy()), **model.copies)
    arrays = [None if row is None else row.numpy() for row in vars(rows).values()]
    return (*arrays, time.perf_counter() - started)
