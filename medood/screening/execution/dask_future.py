"""The result of a Dask task, gathered as soon as it is done."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from typing import Any

from medood.errors import MedoodError

#: Errors that mean that a worker lacks what the work needs. Nothing is unpickled here: Dask does that itself.
_LACKING = (ImportError, AttributeError, pickle.PickleError, RuntimeError)


class DaskFuture:
    """The result of a task. Where a worker is lost after it finished a task, another worker does the task again.

    Args:
        task: Dask's.
        on_lost: makes the error for a cluster that is gone.
        on_unable: makes the error for a worker that lacks something.

    Attributes:
        task: as given.
        since: when a worker began the task, by the monotonic clock; infinite while none has.
        overdue: whether the task was given up.
    """

    def __init__(self, task: Any, on_lost: Callable[[], MedoodError], on_unable: Callable[[Exception], MedoodError]) -> None:
        self.task, self._on_lost, self._on_unable = task, on_lost, on_unable
        self.since, self.overdue = float("inf"), False
        # Dask's own wait with a time limit can fail when the result comes just then.
        self._future = asyncio.run_coroutine_threadsafe(_gather(task), task.client.loop.asyncio_loop)

    def wait(self, seconds: float) -> bool:
        """Wait for at most ``seconds``; whether the task has ended, with a result or without."""
        return bool(wait([self._future], seconds).done)

    def size(self) -> int:
        """Bytes of the result; 0 while there is none."""
        if not self.wait(0) or self._future.cancelled() or self._future.exception():
            return 0
        return len(self._future.result())

    def result(self) -> Any:
        """Wait for the result.

        Raises:
            KilledWorker: the task has ended too many workers.
            MedoodError: the cluster is gone, or lacks something.
        """
        try:
            return self._future.result()
        except (CancelledError, OSError) as error:
            raise self._on_lost() from error
        except _LACKING as error:
            raise self._on_unable(error) from error


async def _gather(task: Any) -> Any:
    return await task.client.gather(task, asynchronous=True)
