"""Checkpoints: one safetensors file each, written atomically; state other than tensors is JSON in its header."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from medood.errors import MedoodError
from medood.output_folder import atomic_write

KEPT = 2
#: Seconds below which a checkpoint is always due at the end of an epoch.
_QUICK = 0.2


class CheckpointInterval:
    """Says when the next checkpoint is due, so that writing large ones takes at most a twentieth of the time."""

    def __init__(self) -> None:
        self._ended, self._seconds = -math.inf, 0.0

    def is_due(self) -> bool:
        """Whether enough time has passed since the last one."""
        return self._seconds < _QUICK or time.monotonic() - self._ended >= 20.0 * self._seconds

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Write one within."""
        started = time.monotonic()
        yield
        self._ended = time.monotonic()
        self._seconds = self._ended - started


def save_checkpoint(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write ``step-NNNNNNNN.safetensors`` atomically and remove all but the newest two.

    Raises:
        MedoodError: the disk is full or the folder cannot be written.
    """
    target = folder / f"step-{step:08d}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        with atomic_write(target) as partial:
            save_file(plain, partial, metadata={"state": json.dumps(state)})
    except (OSError, SafetensorError) as error:
        raise MedoodError(f"The checkpoint {target} cannot be written: {error}. Free some space, then --resume.") from error
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEPT]:
        old.unlink()
    return target


def load_newest(folder: Path) -> tuple[tuple[dict[str, Tensor], dict[str, Any]] | None, list[Path]]:
    """Load the newest intact checkpoint.

    Returns:
        tensors and state, or None if there is no intact checkpoint; and the damaged files that were skipped.
    """
    damaged: list[Path] = []
    for path in sorted(folder.glob("step-*.safetensors"), reverse=True):
        try:
            with safe_open(path, framework="pt") as stream:
                state = json.loads(stream.metadata()["state"])
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
                return (tensors, state), damaged
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            damaged.append(path)
    return None, damaged


def remove_checkpoints(folder: Path) -> None:
    """Remove every checkpoint of an earlier run."""
    for path in folder.glob("step-*.safetensors"):
        path.unlink()


def module_tensors(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Copy of the module's state, with names under ``prefix.``."""
    return {
        f"{prefix}.{name}": value.clone(memory_format=torch.contiguous_format) for name, value in module.state_dict().items()
    }


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as ``optimizer.<parameter>.<name>`` tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{i}.{name}": torch.as_tensor(value).contiguous()
        for i, part in state.items()
        for name, value in part.items()
    }


def load_module(prefix: str, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the state saved under ``prefix.`` into a module."""
    cut = len(prefix) + 1
    module.load_state_dict({name[cut:]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")})


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load the state saved by :func:`optimizer_tensors` into an optimiser; its parameter groups are unchanged."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
