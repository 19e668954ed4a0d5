"""Read a detector's files as untrusted input: digests, schema and the shape of every tensor are checked before anything
large is allocated, and values that are not finite are rejected."""

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

#: Maximum size of a JSON file in bytes; a calibration holds one number per scan.
_MAX_JSON = 64 * 1024**2
#: Accepted safetensors data types of float tensors and of byte tensors.
_FLOATS, _BYTES = frozenset({"F16", "F32", "BF16"}), frozenset({"U8"})
#: Required shape of a tensor; None stands for any length of at least 1.
Shape = tuple[int | None, ...]


def read_json(path: Path, schema: str, remedy: str) -> dict[str, Any]:
    """Read a JSON file and check it against its own ``sha256`` and its schema.

    Args:
        path: path of the file.
        schema: name of the JSON Schema beside this module.
        remedy: sentence for error messages on what the user can do.

    Raises:
        MedoodError: the file is too large, damaged, changed, or does not match the schema.
    """
    try:
        if path.stat().st_size > _MAX_JSON:
            raise MedoodError(f"{path} has more than {_MAX_JSON:,} bytes, which is no file of medood's. {remedy}")
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
        if not isinstance(content, dict):
            raise TypeError
        body = {name: value for name, value in content.items() if name != "sha256"}
        is_whole = digest_of(body) == content["sha256"]
    except MedoodError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MedoodError(f"{path} is damaged: it is not the JSON that medood wrote. {remedy}") from error
    if not is_whole:
        raise MedoodError(f"{path} was changed after it was written (its SHA-256 differs). {remedy}")
    wrong = next(_validator(schema).iter_errors(content), None)
    if wrong is not None:
        where = ".".join(map(str, wrong.absolute_path)) or "the file"
        expected = f"{wrong.validator} {json.dumps(wrong.validator_value)[:120]}"
        raise MedoodError(f"{path} cannot be used: {where[:120]} is invalid (expected: {expected}). {remedy}")
    return content


def digest_of(body: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((files("medood.detection") / schema).read_text(encoding="utf-8")))


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return number


class TensorFile:
    """A safetensors file whose header is read at once and whose tensors are read on request.

    Args:
        path: path of the file.
        remedy: sentence for error messages on what the user can do.

    Attributes:
        shapes: shape of each tensor by name.

    Raises:
        MedoodError: the file is not a safetensors file.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self._path, self._again = path, remedy
        self._kinds: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        try:
            with safe_open(path, framework="pt") as stream:
                for name in stream.keys():  # noqa: SIM118
                    part = stream.get_slice(name)
                    self.shapes[name], self._kinds[name] = tuple(part.get_shape()), str(part.get_dtype())
        except (OSError, SafetensorError) as error:
            raise MedoodError(f"{path} cannot be read: it is damaged or not a safetensors file. {remedy}") from error

    def check(self, name: str, shape: Shape, *, is_bytes: bool = False) -> None:
        """Check the shape and type of a tensor in the header.

        Raises:
            MedoodError: the tensor is missing or has another shape or type.
        """
        actual = self.shapes.get(name)
        if actual is None:
            raise self.error(f"{name} is missing")
        fits = len(actual) == len(shape) and all(n >= 1 if m is None else n == m for n, m in zip(actual, shape, strict=True))
        if not fits:
            expected = " x ".join("any" if n is None else str(n) for n in shape) or "one number"
            raise self.error(f"{name} has the shape {' x '.join(map(str, actual)) or 'of one number'}; expected {expected}")
        if self._kinds[name] not in (_BYTES if is_bytes else _FLOATS):
            raise self.error(f"{name} has the type {self._kinds[name]}")

    def check_names(self, names: set[str]) -> None:
        """Reject tensors with other names.

        Raises:
            MedoodError: the file holds such a tensor.
        """
        surplus = self.shapes.keys() - names
        if surplus:
            raise self.error(f"{min(surplus)[:120]} is not expected")

    def check_like(self, expected: Mapping[str, Tensor]) -> None:
        """Check that all tensors match the expected ones, which may be on the ``meta`` device.

        Raises:
            MedoodError: a tensor is missing, unexpected, or has another shape or type.
        """
        self.check_names(set(expected))
        for name, tensor in expected.items():
            if tensor.is_floating_point():
                self.check(name, tuple(tensor.shape))
            elif self.shapes.get(name) != tuple(tensor.shape):
                raise self.error(f"{name} is missing or does not have the shape {tuple(tensor.shape)}")

    def tensors(self, *, finite: bool = True) -> dict[str, Tensor]:
        """All tensors, floats as float32.

        Args:
            finite: reject values that are not finite.

        Raises:
            MedoodError: the tensors cannot be read, or a value is not finite.
        """
        try:
            with safe_open(self._path, framework="pt") as stream:
                tensors = {name: stream.get_tensor(name) for name in self.shapes}
        except (OSError, SafetensorError) as error:
            raise MedoodError(f"{self._path} cannot be read: it is damaged. {self._again}") from error
        for name, value in tensors.items():
            if value.is_floating_point():
                if finite and not torch.isfinite(value).all():
                    raise self.error(f"{name} holds values that are not finite")
                tensors[name] = value.float()
        return tensors

    def error(self, problem: str) -> MedoodError:
        """An error about this file."""
        return MedoodError(f"{self._path} does not fit its description: {problem}. {self._again}")
