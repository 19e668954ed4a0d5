"""A Dask cluster reads and embeds; this process lists, judges and writes. ``medood[cluster]`` installs what it needs.

A file that takes its worker with it is tried twice and is a row then, as with worker processes. Results are the same as in
one process: every batch holds the same pictures in the same order.
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

from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import Features, embed
from medood.detection.scores import TURNED
from medood.errors import MedoodError, StoppedError
from medood.scans.scan import Refusal, Status, UnavailableError
from medood.scans.sources.source import Source
from medood.screening.execution.dask_future import DaskFuture
from medood.screening.execution.worker_pool import WAITING_BYTES, size_of
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

if TYPE_CHECKING:
    from medood.detection.detector import Detector
    from medood.screening.execution.base import Embedded

try:
    import dask
    import distributed
    from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin
except ImportError as error:
    raise MedoodError("--engine dask needs Dask, which is not installed. Install medood[cluster].") from error

#: Sources on the way for each thread of the cluster.
_AHEAD = 4
#: Seconds after which the cluster's threads are counted anew.
_COUNTED = 5.0
#: How often a file may be on a worker that dies before it is given up.
_TRIES = 2
#: The same of a batch, which is seldom to blame: it was beside such a file.
_BATCH_TRIES = 6
_TICK = 0.2
#: Seconds between two looks at what workers are at, and in which they have to say it.
_LOOK, _SAID = 1.0, 5
#: Bytes of contents on the way for each thread of the cluster, where it has many.
_FOR_A_THREAD = 8 * 1024**2
#: Seconds in which a scheduler has to answer.
_ANSWERS = 15
#: A cluster on this machine: what was on a worker that dies comes back to be tried anew; a worker has no more tasks than it
#: runs, so that none dies for another's file; and one that needs long to start is waited for.
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
        detector: its network goes to every worker, once.
        workers: processes of a cluster on this machine, where there is no ``scheduler``.
        timeout: seconds that one source may take.
        scheduler: address of an existing cluster, ``tcp://HOST:PORT``; empty starts one on this machine, on loopback.

    Raises:
        MedoodError: the scheduler does not answer.
    """

    def __init__(self, reading: Reading, detector: Detector, workers: int, timeout: float, scheduler: str) -> None:
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
        model = _Model(detector.network, detector.score_name in TURNED)
        self.plugin = f"medood-{detector.sha256}"  # runs with other detectors may be on the same cluster
        given_up = time.monotonic() + _ANSWERS
        while True:
            try:
                self._client.register_plugin(model, name=self.plugin)
                break
            except OSError as error:  # a worker died just now
                if self._client.status != "running" or time.monotonic() > given_up:
                    self.close()
                    raise self.gone() from error
                time.sleep(_LOOK)
            except Exception as error:  # what a worker lacks shows in many ways
                self.close()
                raise self.unable(error) from error

    def read(self, listed: Iterator[Listed], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """See :class:`medood.screening.execution.base.Engine`."""
        on_the_way: deque[tuple[Place, Source | Refusal, DaskFuture | list[Result]]] = deque()
        more, threads, counted, held = True, 1, -_COUNTED, 0
        self._stopped = stopped
        while not stopped():
            if time.monotonic() > counted + _COUNTED:
                threads, counted = max(1, sum(self.ask(self._client.nthreads).values())), time.monotonic()
            room = max(WAITING_BYTES, threads * _FOR_A_THREAD)
            room -= sum(coming.size() for _, _, coming in on_the_way if isinstance(coming, DaskFuture))
            while more and len(on_the_way) < _AHEAD * threads and held < room:
                found = next(listed, _END)
                if isinstance(found, str):
                    more = False
                    break
                if found is None:
                    break
                place, source = found
                held += size_of(source)
                if isinstance(source, Refusal):
                    on_the_way.append((place, source, read_results(source, self._reading)))
                else:
                    on_the_way.append((place, source, self._begun(source)))
            if not on_the_way:
                if not more:
                    return
                yield None
                time.sleep(_TICK)
                continue
            place, source, coming = on_the_way.popleft()
            held -= size_of(source)
            results = coming if isinstance(coming, list) else self._waited(coming, source, stopped)
            if results is None:
                return
            yield place, results

    def embed(self, pictures: Tensor) -> Future[Embedded]:
        """See :class:`medood.screening.execution.base.Engine`."""
        return _Embedding(self, pictures)

    def close(self) -> None:
        """See :class:`medood.screening.execution.base.Engine`."""
        self._client.close(timeout=5)
        if self._local is not None:
            self._local.close(timeout=10)

    def ask(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call the client.

        Raises:
            MedoodError: the scheduler is gone.
        """
        if self._client.status != "running":
            raise self.gone()
        try:
            return call(*arguments, **options)
        except Exception as error:  # a client without a scheduler fails in many ways
            raise self.gone() from error

    def submit(self, call: Callable[..., Any], *arguments: Any, priority: int = 0) -> DaskFuture:
        """Have a worker call something."""
        task = self.ask(self._client.submit, call, *arguments, pure=False, priority=priority)
        return DaskFuture(task, self.gone, self.unable)

    def look(self) -> None:
        """Find that waiting is of no use, and give up the files that workers hang on: called while anything is waited for.

        Raises:
            MedoodError: the scheduler is gone.
        """
        if self._client.status != "running":
            raise self.gone()
        if time.monotonic() < self._next_look:
            return
        reads = [coming for coming in self._reads if not coming.wait(0)]
        try:
            running, now = self._running([str(coming.task.key) for coming in reads]), time.monotonic()
        except (OSError, KeyError):  # a worker is lost just now, or a task has not come to the scheduler yet
            return
        for coming in reads:
            # The clock runs while a worker reads it.
            coming.since = min(coming.since, now) if str(coming.task.key) in running else float("inf")
            if now - coming.since > self._timeout:
                coming.overdue = True
                self._give_up(coming.task)
        self._next_look = time.monotonic() + _LOOK

    def _running(self, keys: list[str]) -> set[str]:
        """Which of these reads, first come first, workers are at."""
        if not keys:
            return set()
        try:
            stacks = self._client.sync(self._client.scheduler.call_stack, keys=keys, callback_timeout=_SAID)
        except TimeoutError:  # a decoder that keeps Python's lock keeps its worker from saying so: it is at the first it has
            threads, running = self.ask(self._client.nthreads), set[str]()
            for address, found in self.ask(self._client.processing).items():
                has = set(map(str, found))
                running.update([key for key in keys if key in has][: threads.get(address, 1)])
            return running
        return {str(key) for found in stacks.values() for key in found}

    def leave(self) -> None:
        """Find that what was asked to end cannot.

        Raises:
            StoppedError: there is no worker to end it with.
        """
        if self._stopped() and not self.ask(self._client.nthreads):
            raise StoppedError(
                f"Asked to end while the Dask cluster at {self._where} has no worker. Go on with the same command and "
                "--resume."
            )

    def _begun(self, source: Source) -> DaskFuture:
        coming = self.submit(_read, source_to_bytes(source), self._reading)
        self._reads.append(coming)
        return coming

    def _waited(self, coming: DaskFuture, source: Any, stopped: Callable[[], bool]) -> list[Result] | None:
        """What was read, once it is there; a refusal where it does not come; none where the run is asked to end."""
        for tries_left in reversed(range(_TRIES)):
            while not (coming.overdue or coming.wait(_TICK)):
                if stopped():
                    return None
                self.look()
            self._reads.remove(coming)
            if coming.overdue:
                return [Result(source.identity, Status.TIMED_OUT, f"the file was not read within {self._timeout:g} s")]
            try:
                return results_from_parts(iter(coming.result()).__next__)
            except MedoodError:
                raise
            except Exception as error:  # its worker ended, memory has run out, or the reader has a fault
                if not tries_left:
                    why = f"reading this file failed {_TRIES} times: its worker ended, ran out of memory or raised an error"
                    if isinstance(error, KilledWorker):
                        why = f"the machine or process that read this file ended, {_TRIES} times"
                    return [Result(source.identity, Status.WORKER_DIED, why)]
            coming = self._begun(source)
        return None

    def _give_up(self, task: Any) -> None:
        """Take a task that hangs away, and its worker with it: a thread cannot be ended."""
        processing = self.ask(self._client.processing)
        busy = [address for address, keys in processing.items() if task.key in map(str, keys)]
        self.ask(task.cancel, force=True)
        if busy:
            try:
                self._client.restart_workers(busy, raise_for_error=False)
            except KeyError:
                pass  # it has just ended by itself
            except ValueError:  # without a nanny nobody can start it anew; its other threads go on
                logging.getLogger(__name__).warning("a worker hangs on a file and has no nanny to restart it")
            except OSError as error:
                raise self.gone() from error

    def gone(self) -> MedoodError:
        """What is said where the cluster is gone."""
        return MedoodError(
            f"The Dask cluster at {self._where} is gone. Start it, then go on with the same command and --resume."
        )

    def unable(self, error: Exception) -> MedoodError:
        """What is said where its workers lack something."""
        return MedoodError(
            f"Workers of the Dask cluster at {self._where} cannot do the work ({type(error).__name__}: {error}). Install "
            "the same medood[cluster] there as here, then go on with the same command and --resume."
        )

    def worn(self, error: Exception) -> MedoodError:
        """What is said where workers end at every try of a batch."""
        return MedoodError(
            f"Workers of the Dask cluster at {self._where} ended {_BATCH_TRIES} times as they embedded the same pictures "
            f"({type(error).__name__}). Give them more memory, then go on with the same command and --resume."
        )

    @property
    def _where(self) -> str:
        return self._scheduler or "this machine"


class _Embedding(Future["Embedded"]):
    """A batch on the cluster."""

    def __init__(self, cluster: DaskEngine, pictures: Tensor) -> None:
        super().__init__()
        self._cluster, self._pictures = cluster, pictures
        self._coming = self._begun()

    def _begun(self) -> DaskFuture:
        return self._cluster.submit(_embed, self._cluster.plugin, self._pictures.numpy(), priority=10)

    def done(self) -> bool:
        return self._coming.wait(0)

    def result(self, timeout: float | None = None) -> Embedded:
        for tries_left in reversed(range(_BATCH_TRIES)):
            while not self._coming.wait(_TICK):
                self._cluster.look()
                self._cluster.leave()
            try:
                *arrays, seconds = self._coming.result()
                break
            except (KilledWorker, MemoryError) as error:
                if not tries_left:
                    raise self._cluster.worn(error) from error
                self._coming = self._begun()
        features, outputs, *more = (None if array is None else torch.from_numpy(array.copy()) for array in arrays)
        assert features is not None
        assert outputs is not None
        return Features(features, outputs, *more), seconds


class _Model(WorkerPlugin):  # type: ignore[misc]  # Dask is untyped
    """The network on a worker."""

    def __init__(self, network: EnsembleNetwork, turned: bool) -> None:
        self.network, self.turned = network, turned


def _read(source: tuple[bytes, bytes | None], reading: Reading) -> list[bytes]:
    message, content = source
    try:
        return list(results_to_parts(read_results(source_from_bytes(message, lambda: content), reading)))
    except UnavailableError as error:
        return list(results_to_parts(error))


def _embed(plugin: str, pictures: Any) -> Any:
    model = distributed.get_worker().plugins[plugin]
    started = time.perf_counter()
    torch.set_num_threads(1)  # as in every engine
    rows = embed(model.network, torch.from_numpy(pictures.copy()), turned=model.turned)
    arrays = [None if row is None else row.numpy() for row in (rows.features, rows.outputs, rows.turned, rows.members)]
    return (*arrays, time.perf_counter() - started)
