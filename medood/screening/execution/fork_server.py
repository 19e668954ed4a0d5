"""The fork server from which workers are started: a process that has imported their modules once."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext


def prepare() -> ForkServerContext:
    """Start the fork server unless it is running. It imports in the background and ignores Ctrl-C."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medood.screening.read_worker"])
    resource_tracker.ensure_running()  # first, because starting it later would unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context
