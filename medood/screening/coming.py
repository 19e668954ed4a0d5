"""The result of a Dask task, on its way here."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import CancelledError, wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medood.screening.cluster import Cluster

#: How a worker shows that it lacks what the work needs. Errors alone: nothing is unpickled here, Dask does that itself.
_LACKING = (ImportError, AttributeError, pickle.PickleError, RuntimeError)


class Coming:
    """The result of a task, on its way here. A worker that is lost once the task is done has it done anew elsewhere.

    Attributes:
        task: Dask's.
        since: when a worker began it, by the clock; infinite where none is at it.
        overdue: it was given up.
    """

    def __init__(self, task: Any, cluster: Cluster) -> None:
        self.task, self._cluster = task, cluster
        self.since, self.overdue = float("inf"), False
        # Dask's own wait with a time limit can fail when the result comes just then.
        self._future = asyncio.run_coroutine_threadsafe(_gathered(task), task.client.loop.asyncio_loop)

    def there(self, seconds: float) -> bool:
        """Whether it is there, or will not come, after waiting for it."""
        return bool(wait([self._future], seconds).done)

    def size(self) -> int:
        """Bytes of what lies here of a file that was read; 0 until it does."""
        if not self.there(0) or self._future.cancelled() or self._future.exception():
            return 0
        return len(self._future.result())

    def result(self) -> Any:
        """What came.

        Raises:
            KilledWorker: it has taken too many workers with it.
            MedoodError: the cluster is gone, or lacks something.
        """
        try:
            return self._future.result()
        except (CancelledError, OSError) as error:
            raise self._cluster.gone() from error
        except _LACKING as error:
            raise self._cluster.unable(error) from error


async def _gathered(task: Any) -> Any:
    return await task.client.gather(task, asynchronous=True)
