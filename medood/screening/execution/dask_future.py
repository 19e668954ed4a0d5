"""The result of a Dask task, gathered as soon as it is done."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from typing import Any

from medood.errors import MedoodError

#: Errors caused by a worker's incomplete installation. Nothing is unpickled here; Dask does that itself.
_LACKING = (ImportError, AttributeError, pickle.PickleError, RuntimeError)


class DaskFuture:
    """The result of a Dask task. If a worker is lost after it finished a task, another worker repeats the task.

    Args:
        task: the Dask future.
        on_lost: creates the error for a lost cluster.
        on_unable: creates the error for a worker with an incomplete installation.

    Attributes:
        task: the Dask future.
        since: when a worker started the task, on the monotonic clock; infinite until then.
        overdue: whether the task exceeded the time limit and was given up.
    """

    def __init__(self, task: Any, on_lost: Callable[[], MedoodError], on_unable: Callable[[Exception], MedoodError]) -> None:
        self.task, self._on_lost, self._on_unable = task, on_lost, on_unable
        self.since, self.overdue = float("inf"), False
        # Dask's own wait with a timeout can fail if the result arrives at that moment.
        self._future = asyncio.run_coroutine_threadsafe(_gather(task), task.client.loop.asyncio_loop)

    def wait(self, seconds: float) -> bool:
        """Wait for at most ``seconds``; return whether the task has ended, successfully or not."""
        return bool(wait([self._future], seconds).done)

    def size(self) -> int:
        """Size of the result; 0 while there is none."""
        if not self.wait(0) or self._future.cancelled() or self._future.exception():
            return 0
        return len(self._future.result())

    def result(self) -> Any:
        """Wait for the result.

        Raises:
            KilledWorker: too many workers died while running the task.
            MedoodError: the cluster is gone, or a worker's installation is incomplete.
        """
        try:
            return self._future.result()
        except (CancelledError, OSError) as error:
            raise self._on_lost() from error
        except _LACKING as error:
            raise self._on_unable(error) from error


async def _gather(task: Any) -> Any:
    return await task.client.gather(task, asynchronous=True)
