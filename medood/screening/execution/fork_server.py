"""Where worker processes come from: a process of its own that has imported what they need, once."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext


def prepare() -> ForkServerContext:
    """Have that process begin, or take it as it is; it imports while this one goes on, and leaves Ctrl-C to it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medood.screening.read_worker"])
    resource_tracker.ensure_running()  # which would let SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context
