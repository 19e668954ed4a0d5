"""A calibration: the scores of in-distribution scans that everything is judged against, by strata where asked for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from medood.detection.conformal import Vector, check_rate, p_values
from medood.detection.detector_file import TensorFile, digest, digest_of, read_json
from medood.errors import MedoodError

SCHEMA_VERSION = 1
_UNSTATED = "not stated"
_AGAIN = "Calibrate again."
#: Longest name of a stratum.
_LONGEST = 1024


@dataclass(frozen=True)
class Calibration:
    """Scores of in-distribution scans that chose nothing.

    Attributes:
        name: what it is called; ``training`` is the one made with the detector.
        scores: ``[n]``, higher is more out-of-distribution.
        features: ``[n, D]``, for tests on an archive as a whole.
        hashes: ``[n, 32]`` uint8, see :mod:`medood.detection.perceptual_hash`.
        keys_sha256: SHA-256 over the sorted scan keys.
        by: DICOM attributes that part the scans into strata; empty is one stratum.
        strata: ``[n]`` strata of the scans, as :func:`stratum` names them; empty where there is one.
        left_out: files of the source that gave no score, by status.
        sha256: digest of the written file; empty until saved.
        keys: ``[n, 32]`` uint8, the SHA-256 of the scans; none in calibrations of earlier versions.
    """

    name: str
    scores: Vector
    features: Tensor
    hashes: Tensor
    keys_sha256: str
    by: tuple[str, ...] = ()
    strata: tuple[str, ...] = ()
    left_out: Mapping[str, int] | None = None
    sha256: str = ""
    keys: Tensor = field(default_factory=lambda: torch.zeros((0, 32), dtype=torch.uint8))

    def counts(self) -> dict[str, int]:
        """Scans by stratum, the most frequent first; one nameless stratum where there are none."""
        if not self.by:
            return {"": len(self.scores)}
        names, numbers = np.unique(np.array(self.strata), return_counts=True)
        return {str(names[i]): int(numbers[i]) for i in np.argsort(-numbers, kind="stable")}

    def check(self, fpr: float) -> None:
        """Refuse a rate that the smallest stratum cannot reach.

        Raises:
            MedoodError: see :func:`medood.detection.conformal.check_rate`.
        """
        check_rate(fpr, min(self.counts().values()))

    def scores_of(self, stratum: str) -> Vector:
        """The scores of one stratum, none where it is unknown."""
        if not self.by:
            return self.scores
        return np.asarray(self.scores[np.array(self.strata) == stratum])

    def p_values(self, scores: Vector, strata: Sequence[str]) -> Vector:
        """Split-conformal p-values ``[N]``, within each scan's stratum (Mondrian).

        A scan of a stratum that was not calibrated gets the largest of all strata's p-values: the guarantee then holds
        where the scan is like the scans of any one of them.

        Source: Vovk, Gammerman and Shafer, 2005, on Mondrian conformal predictors.
        """
        if not self.by:
            return p_values(scores, self.scores)
        by_stratum = {name: p_values(scores, self.scores_of(name)) for name in self.counts()}
        strictest = np.max(list(by_stratum.values()), axis=0)
        return np.array([by_stratum.get(name, strictest)[i] for i, name in enumerate(strata)])

    def stated(self) -> dict[str, Any]:
        """What a ledger and a report say of it."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "scans": len(self.scores),
            "keys_sha256": self.keys_sha256,
            "by": list(self.by),
            "strata": self.counts() if self.by else {},
        }

    def save(self, folder: Path, detector_sha256: str) -> Calibration:
        """Write ``NAME.safetensors`` and ``NAME.json`` into a folder; returns the calibration with its digest."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{self.name}.safetensors"
        tensors = {"features": self.features, "hashes": self.hashes} | ({"keys": self.keys} if len(self.keys) else {})
        save_file({name: value.contiguous() for name, value in tensors.items()}, part)
        body = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "detector_sha256": detector_sha256,
            "by": list(self.by),
            "strata": list(self.strata),
            # JSON has no infinity, which a scan that the network cannot place has.
            "scores": [float(v) if np.isfinite(v) else None for v in self.scores],
            "keys_sha256": self.keys_sha256,
            "left_out": dict(self.left_out or {}),
            "features_sha256": digest(part),
        }
        body["sha256"] = digest_of(body)
        (folder / f"{self.name}.json").write_text(json.dumps(body, indent=1, allow_nan=False) + "\n")
        return Calibration(**{**vars(self), "sha256": body["sha256"]})

    @classmethod
    def load(cls, folder: Path, name: str, detector_sha256: str, dimensions: int) -> Calibration:
        """Read a calibration and check its digests, and that its parts fit each other.

        Args:
            folder: the detector's folder of calibrations.
            name: of the calibration.
            detector_sha256: of the detector.
            dimensions: of its features.

        Raises:
            MedoodError: there is none of this name, it is damaged, or it belongs to another detector.
        """
        check_name(name)
        path, part = folder / f"{name}.json", folder / f"{name}.safetensors"
        known = ", ".join(sorted(item.stem for item in folder.glob("*.json"))) or "none"
        if not path.is_file() or not part.is_file():
            raise MedoodError(f"The detector has no calibration {name!r}; it has: {known}. Make one with medood calibrate.")
        body = read_json(path, "calibration.schema.json", _AGAIN)
        if digest(part) != body["features_sha256"]:
            raise MedoodError(f"{part} was changed after it was written (its SHA-256 differs). {_AGAIN}")
        if body["detector_sha256"] != detector_sha256:
            raise MedoodError(f"{path} was made for another detector. Calibrate this one.")
        scores, strata, by = body["scores"], body["strata"], body["by"]
        if not all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in scores):
            raise MedoodError(f"{path} holds scores that are no numbers. {_AGAIN}")
        if len(strata) != (len(scores) if by else 0) or not all(isinstance(v, str) and len(v) <= _LONGEST for v in strata):
            raise MedoodError(f"{path} does not name one stratum a score. {_AGAIN}")
        file = TensorFile(part, _AGAIN)
        has_keys = "keys" in file.shapes
        file.check_names({"features", "hashes"} | ({"keys"} if has_keys else set()))
        file.check("features", (len(scores), dimensions))
        file.check("hashes", (len(scores), 32), is_bytes=True)
        if has_keys:
            file.check("keys", (len(scores), 32), is_bytes=True)
        tensors = file.tensors(finite=False)
        placed = torch.tensor([v is not None for v in scores])  # what the network cannot place has no features either
        if not torch.isfinite(tensors["features"][placed]).all():
            raise file.error("features of a scan that has a score are no finite numbers")
        return cls(
            body["name"],
            np.array([np.inf if v is None else v for v in scores], dtype=np.float64),
            tensors["features"],
            tensors["hashes"],
            body["keys_sha256"],
            tuple(by),
            tuple(strata),
            body["left_out"],
            body["sha256"],
            tensors["keys"] if has_keys else torch.zeros((0, 32), dtype=torch.uint8),
        )


def stratum(attributes: Mapping[str, str], by: Sequence[str]) -> str:
    """The values of some attributes as one name; what a scan does not state is ``not stated``."""
    return " | ".join(attributes.get(name) or _UNSTATED for name in by)


def fingerprint(keys: Sequence[str]) -> str:
    """SHA-256 over the sorted scan keys: equal for equal scans, whatever their names."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def digests(keys: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The SHA-256 in each scan key, as bytes: ``[N, 32]``."""
    return np.stack([np.frombuffer(bytes.fromhex(key.split(":")[0]), dtype=np.uint8) for key in keys])


def check_name(name: str) -> None:
    """Refuse what would not be a plain file name.

    Raises:
        MedoodError: it holds anything but letters, digits, ``_`` and ``-``.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise MedoodError(f"The name of a calibration is {name!r}; expected up to 64 letters, digits, _ and -.")


def empty(dimensions: int) -> Calibration:
    """A calibration without scans: nothing can be decided with it."""
    return Calibration("none", np.zeros(0), torch.zeros((0, dimensions)), torch.zeros((0, 32), dtype=torch.uint8), "")
