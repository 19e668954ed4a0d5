"""A GPU stream on which the next step's views are made while the networks compute this step's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import torch
from torch import Tensor


class SideStream:
    """Work beside the current stream of a GPU; on another device there is none, and ``exists`` is False.

    Args:
        device: device of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def exists(self) -> bool:
        """Whether there is such a stream."""
        return self._stream is not None

    def work(self) -> contextlib.AbstractContextManager[object]:
        """What is launched within goes to the side stream."""
        return torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext()

    def hand_over(self, tensors: Iterable[Tensor]) -> None:
        """Let the current stream wait for the work, and keep the memory of its results until the current stream is done."""
        if self._stream is None:
            return
        current = torch.cuda.current_stream(self._stream.device)
        current.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(current)
