"""A Dask cluster reads and embeds; this process lists, judges and writes. ``medood[cluster]`` installs what it needs.

A file that takes its worker with it is tried twice and is a row then, as with worker processes; so is what was on a machine
that is lost too often. Results are the same as in one process: every batch holds the same pictures in the same order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medood.detection.features import Features, embed
from medood.detection.scores import TURNED
from medood.distillation.network import Network
from medood.errors import MedoodError
from medood.scans.scan import Refusal, Status, UnavailableError
from medood.screening.reading import (
    Listed,
    Place,
    Reading,
    Readout,
    Result,
    read_results,
    results_from_bytes,
    results_to_bytes,
    source_from_bytes,
    source_to_bytes,
)
from medood.screening.workers import WAITING_BYTES, size_of

if TYPE_CHECKING:
    from medood.detection.detector import Detector
    from medood.screening.engines import Embedded

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
#: How often a task may be on a worker that dies before it is given up.
_TRIES = 2
_TICK = 0.2
#: Seconds in which a scheduler has to answer.
_ANSWERS = 15
_PLUGIN = "medood"
_END = "the listing has ended"


class Cluster:
    """See :class:`medood.screening.engines.Engine`.

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
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self._local: LocalCluster | None = None
        if not scheduler:
            dask.config.set({"distributed.scheduler.allowed-failures": _TRIES - 1})
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
        for tries_left in reversed(range(_TRIES)):
            try:
                self._client.register_plugin(model, name=_PLUGIN)
                break
            except OSError as error:  # a worker died just now
                if not tries_left:
                    self.close()
                    raise self.gone() from error
            except Exception as error:  # what a worker lacks shows in many ways
                self.close()
                raise self.unable(error) from error

    def read(self, listed: Iterator[Listed], stopped: Callable[[], bool]) -> Iterator[Readout]:
        """See :class:`medood.screening.engines.Engine`."""
        on_the_way: deque[tuple[Place, Any, Any]] = deque()
        more, threads, counted, held = True, 1, -_COUNTED, 0
        self._stopped = stopped
        while not stopped():
            if time.monotonic() > counted + _COUNTED:
                threads, counted = max(1, sum(self._client.nthreads().values())), time.monotonic()
            while more and len(on_the_way) < _AHEAD * threads and held < WAITING_BYTES:
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
                    task = self._client.submit(_read, source_to_bytes(source), self._reading, pure=False)
                    on_the_way.append((place, source, _Coming(task, self)))
            if not on_the_way:
                if not more:
                    return
                yield None
                time.sleep(_TICK)
                continue
            place, source, task = on_the_way.popleft()
            held -= size_of(source)
            results = task if isinstance(task, list) else self._waited(task, source, stopped)
            if results is None:
                return
            yield place, results

    def embed(self, pictures: Tensor) -> Future[Embedded]:
        """See :class:`medood.screening.engines.Engine`."""
        task = self._client.submit(_embed, pictures.numpy(), pure=False, priority=10)
        return _Embedding(task, self)

    def close(self) -> None:
        """See :class:`medood.screening.engines.Engine`."""
        self._client.close(timeout=5)
        if self._local is not None:
            self._local.close(timeout=10)

    def _waited(self, coming: _Coming, source: Any, stopped: Callable[[], bool]) -> list[Result] | None:
        """What was read, once it is there; a refusal where it does not come; none where the run is asked to end."""
        since = float("inf")  # the clock runs once a worker reads it
        while not stopped():
            if not coming.there(_TICK):
                if since == float("inf") and self._client.call_stack([coming.task]):
                    since = time.monotonic()
                if time.monotonic() - since > self._timeout:
                    self._give_up(coming.task)
                    return [Result(source.identity, Status.TIMED_OUT, f"the file was not read within {self._timeout:g} s")]
                continue
            try:
                return results_from_bytes(coming.result())
            except KilledWorker:
                why = f"the machine or process that read this file ended, {_TRIES} times"
                return [Result(source.identity, Status.WORKER_DIED, why)]
            except MemoryError:
                return [Result(source.identity, Status.WORKER_DIED, "memory ran out where this file was read")]
        return None

    def check(self) -> None:
        """Find out that waiting is of no use.

        Raises:
            MedoodError: the scheduler is gone, or the run is asked to end and there is no worker to end it with.
        """
        if self._client.status != "running" or (self._stopped() and not self._client.nthreads()):
            raise self.gone()

    def _give_up(self, task: Any) -> None:
        """Take a task that hangs away, and its worker with it: a thread cannot be ended."""
        busy = [address for address, keys in self._client.processing().items() if task.key in map(str, keys)]
        task.cancel(force=True)
        if busy:
            try:
                self._client.restart_workers(busy, raise_for_error=False)
            except ValueError:  # without a nanny nobody can start it anew; its other threads go on
                logging.getLogger(__name__).warning("a worker hangs on a file and has no nanny to restart it")

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

    @property
    def _where(self) -> str:
        return self._scheduler or "this machine"


class _Coming:
    """The result of a task, on its way here. A worker that is lost once the task is done has it done anew elsewhere."""

    def __init__(self, task: Any, cluster: Cluster) -> None:
        self.task, self._cluster = task, cluster
        # Dask's own wait with a time limit can fail when the result comes just then.
        self._future = asyncio.run_coroutine_threadsafe(_gathered(task), task.client.loop.asyncio_loop)

    def there(self, seconds: float) -> bool:
        """Whether it is there, or will not come, after waiting for it.

        Raises:
            MedoodError: waiting is of no use.
        """
        if not wait([self._future], seconds).done:
            self._cluster.check()
            return False
        return True

    def result(self) -> Any:
        """What came.

        Raises:
            KilledWorker: it has taken too many workers with it.
            MemoryError: a worker had too little.
            MedoodError: the cluster is gone, or cannot do it.
        """
        try:
            return self._future.result()
        except (KilledWorker, MemoryError):
            raise
        except (CancelledError, OSError) as error:
            raise self._cluster.gone() from error
        except Exception as error:  # what a worker lacks shows in many ways
            raise self._cluster.unable(error) from error


async def _gathered(task: Any) -> Any:
    return await task.client.gather(task, asynchronous=True)


class _Embedding(Future["Embedded"]):
    """A batch on the cluster."""

    def __init__(self, task: Any, cluster: Cluster) -> None:
        super().__init__()
        self._coming, self._cluster = _Coming(task, cluster), cluster

    def done(self) -> bool:
        return self._coming.there(0)

    def result(self, timeout: float | None = None) -> Embedded:
        while not self._coming.there(_TICK):
            pass
        try:
            features, outputs, turned, seconds = self._coming.result()
        except (KilledWorker, MemoryError) as error:
            raise self._cluster.gone() from error
        rows = [None if array is None else torch.from_numpy(array.copy()) for array in (features, outputs, turned)]
        assert rows[0] is not None
        assert rows[1] is not None
        return Features(rows[0], rows[1], rows[2]), seconds


class _Model(WorkerPlugin):  # type: ignore[misc]  # Dask is untyped
    """The network on a worker."""

    def __init__(self, network: Network, turned: bool) -> None:
        self.network, self.turned = network, turned


def _read(source: bytes, reading: Reading) -> bytes:
    try:
        return results_to_bytes(read_results(source_from_bytes(source), reading))
    except UnavailableError as error:
        return results_to_bytes(error)


def _embed(pictures: Any) -> Any:
    model = distributed.get_worker().plugins[_PLUGIN]
    started = time.perf_counter()
    torch.set_num_threads(1)  # as in every engine
    rows = embed(model.network, torch.from_numpy(pictures.copy()), turned=model.turned)
    arrays = [None if row is None else row.numpy() for row in (rows.features, rows.outputs, rows.turned)]
    return (*arrays, time.perf_counter() - started)
