"""Choose which frames, pages or slices of a file become scans."""

from __future__ import annotations

import re

from medood.reasons import Reason
from medood.scans.scan import RefusedError, Status


def wanted_frames(choice: str, count: int, limit: int) -> range:
    """Return the chosen frame numbers, from 0, in ascending order.

    Args:
        choice: ``all``, ``first``, ``middle`` or ``every N`` (the first, and every Nth after it).
        count: number of frames in the file.
        limit: largest number of scans from one file.

    Raises:
        ValueError: the choice is none of these.
        RefusedError: it selects more frames than the limit.
    """
    frames = _choose(choice, count)
    if len(frames) > limit:
        raise RefusedError(
            Status.TOO_LARGE,
            Reason("frames_over_limit", count=len(frames), limit=limit),
        )
    return frames


def _choose(choice: str, count: int) -> range:
    if choice == "all":
        return range(count)
    if choice == "first":
        return range(min(1, count))
    if choice == "middle":
        return range(count // 2, min(count // 2 + 1, count))
    step = re.fullmatch(r"every ([1-9][0-9]{0,8})", choice)
    if step is None:
        raise ValueError(f"frames is {choice!r}; expected all, first, middle or every N, such as every 10")
    return range(0, count, int(step[1]))
