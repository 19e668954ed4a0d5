"""A detector's files, read as if a stranger had written them: digests, schema, and the shape of every tensor are held
against each other before anything large is allocated, and what is not finite is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jsonschema import Draft202012Validator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medood.errors import MedoodError

#: Largest JSON file that is read: a calibration holds a number a scan.
_MOST_JSON = 64 * 1024**2
#: Data types of safetensors that a tensor may have, by what it is in memory.
_FLOATS, _BYTES = frozenset({"F16", "F32", "BF16"}), frozenset({"U8"})
#: The shape that a tensor must have; none where a side may have any length of at least 1.
Shape = tuple[int | None, ...]


def read_json(path: Path, schema: str, again: str) -> dict[str, Any]:
    """The contents of a JSON file whose ``sha256`` is that of the rest.

    Args:
        path: of the file.
        schema: name of the JSON Schema beside this module.
        again: what to do where it cannot be used, as a sentence.

    Raises:
        MedoodError: it is too large, damaged, changed, or not of the schema.
    """
    try:
        if path.stat().st_size > _MOST_JSON:
            raise MedoodError(f"{path} has more than {_MOST_JSON:,} bytes, which is no file of medood's. {again}")
        stated = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused, parse_float=_finite)
        if not isinstance(stated, dict):
            raise TypeError
        body = {name: value for name, value in stated.items() if name != "sha256"}
        is_whole = digest_of(body) == stated["sha256"]
    except MedoodError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedoodError(f"{path} is damaged: it is not the JSON that medood wrote. {again}") from error
    if not is_whole:
        raise MedoodError(f"{path} was changed after it was written (its SHA-256 differs). {again}")
    wrong = next(_validator(schema).iter_errors(stated), None)
    if wrong is not None:
        where = ".".join(map(str, wrong.absolute_path)) or "the file"
        expected = f"{wrong.validator} {json.dumps(wrong.validator_value)[:120]}"
        raise MedoodError(f"{path} cannot be used: {where[:120]} is not as medood writes it (expected: {expected}). {again}")
    return stated


def digest_of(body: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((files("medood.detection") / schema).read_text(encoding="utf-8")))


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return number


class TensorFile:
    """The header of a safetensors file, and its tensors where they are asked for.

    Args:
        path: of the file.
        again: what to do where it cannot be used, as a sentence.

    Attributes:
        shapes: of the tensors by name.

    Raises:
        MedoodError: it is no safetensors file.
    """

    def __init__(self, path: Path, again: str) -> None:
        self._path, self._again = path, again
        self._kinds: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        try:
            with safe_open(path, framework="pt") as stream:
                for name in stream.keys():  # noqa: SIM118
                    part = stream.get_slice(name)
                    self.shapes[name], self._kinds[name] = tuple(part.get_shape()), str(part.get_dtype())
        except (OSError, SafetensorError) as error:
            raise MedoodError(f"{path} cannot be read: it is damaged or no safetensors file. {again}") from error

    def check(self, name: str, shape: Shape, *, is_bytes: bool = False) -> None:
        """Hold a tensor's header against what it must be.

        Raises:
            MedoodError: it is missing, or of another shape or type.
        """
        found = self.shapes.get(name)
        if found is None:
            raise self.error(f"{name} is missing")
        fits = len(found) == len(shape) and all(n >= 1 if m is None else n == m for n, m in zip(found, shape, strict=True))
        if not fits:
            wanted = " x ".join("any" if n is None else str(n) for n in shape) or "one number"
            raise self.error(f"{name} has the shape {' x '.join(map(str, found)) or 'of one number'}; expected {wanted}")
        if self._kinds[name] not in (_BYTES if is_bytes else _FLOATS):
            raise self.error(f"{name} is of the type {self._kinds[name]}")

    def check_names(self, names: set[str]) -> None:
        """Refuse tensors that are not of these names.

        Raises:
            MedoodError: there is one.
        """
        surplus = self.shapes.keys() - names
        if surplus:
            raise self.error(f"{min(surplus)[:120]} fits nowhere")

    def check_like(self, wanted: Mapping[str, Tensor]) -> None:
        """Hold all tensors against others, which may be without memory (``meta``).

        Raises:
            MedoodError: one is missing, too many, or of another shape or type.
        """
        self.check_names(set(wanted))
        for name, tensor in wanted.items():
            if tensor.is_floating_point():
                self.check(name, tuple(tensor.shape))
            elif self.shapes.get(name) != tuple(tensor.shape):
                raise self.error(f"{name} is missing or of another shape than {tuple(tensor.shape)}")

    def tensors(self, *, finite: bool = True) -> dict[str, Tensor]:
        """All tensors, floats as float32.

        Args:
            finite: refuse what is no finite number.

        Raises:
            MedoodError: they cannot be read, or hold what is no finite number.
        """
        try:
            with safe_open(self._path, framework="pt") as stream:
                found = {name: stream.get_tensor(name) for name in self.shapes}
        except (OSError, SafetensorError) as error:
            raise MedoodError(f"{self._path} cannot be read: it is damaged. {self._again}") from error
        for name, value in found.items():
            if value.is_floating_point():
                if finite and not torch.isfinite(value).all():
                    raise self.error(f"{name} holds what is no finite number")
                found[name] = value.float()
        return found

    def error(self, what: str) -> MedoodError:
        """An error about this file."""
        return MedoodError(f"{self._path} does not fit its description: {what}. {self._again}")
