"""Where worker processes come from: a process of its own that has imported what they need, once."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext


def prepare() -> ForkServerContext:
    """Have that process begin, or take it as it is; it imports while this one goes on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medood.screening.reading"])
    forkserver.ensure_running()
    return context
