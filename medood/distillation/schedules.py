"""Schedules over a run, as stateless functions of the step."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """Half a cosine from ``first`` at step 0 to ``last`` at step ``steps - 1``."""
    share = min(step / max(steps - 1, 1), 1.0)
    return last + 0.5 * (first - last) * (1.0 + math.cos(math.pi * share))


def linear(step: int, steps: int, first: float, last: float) -> float:
    """A straight line from ``first`` at step 0 to ``last`` at step ``steps``, then ``last``."""
    share = min(step / steps, 1.0) if steps > 0 else 1.0
    return first + (last - first) * share


def warmup_cosine(step: int, steps: int, warmup: int, peak: float, last: float) -> float:
    """A linear rise from ``peak / warmup`` to ``peak`` over ``warmup`` steps, then half a cosine to ``last``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return cosine(step - warmup, steps - warmup, peak, last)
