"""A calibration: scores of in-distribution scans against which new scans are judged, optionally by stratum."""

from __future__ import annotations

import hashlib
import json
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
from medood.detection.detector_folder import check_calibration
from medood.errors import MedoodError

SCHEMA_VERSION = 1
_UNSTATED = "not stated"
_REMEDY = "Calibrate again."
#: Maximum length of a stratum's name, in characters.
_LONGEST = 1024


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out in-distribution scans, used neither for training nor for choosing the score.

    Attributes:
        name: name of the calibration; ``training`` is the one made by training.
        scores: ``[n]``, higher is more out-of-distribution.
        features: ``[n, D]``, for tests on a whole archive.
        hashes: ``[n, 32]`` uint8, see :mod:`medood.detection.perceptual_hash`.
        keys_sha256: SHA-256 over the sorted scan keys.
        by: DICOM attributes that divide the scans into strata; empty for a single stratum.
        strata: ``[n]`` stratum names of the scans, see :func:`stratum`; empty for a single stratum.
        left_out: number of source files without a score, by status.
        sha256: digest of the written file; empty until saved.
        keys: ``[n, 32]`` uint8, the SHA-256 of the scans; empty in calibrations of earlier versions.
        made: day on which ``medood calibrate`` made it, in ISO 8601; empty for a detector's own, whose bytes do not
            depend on the day.
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
    made: str = ""

    def counts(self) -> dict[str, int]:
        """Number of scans per stratum, largest first; one unnamed stratum if there are no strata."""
        if not self.by:
            return {"": len(self.scores)}
        names, numbers = np.unique(np.array(self.strata), return_counts=True)
        return {str(names[i]): int(numbers[i]) for i in np.argsort(-numbers, kind="stable")}

    def check(self, fpr: float) -> None:
        """Reject a false-alarm rate that is too low for the smallest stratum.

        Raises:
            MedoodError: see :func:`medood.detection.conformal.check_rate`.
        """
        check_rate(fpr, min(self.counts().values()))

    def scores_of(self, stratum: str) -> Vector:
        """The scores of one stratum; empty if the stratum is unknown."""
        if not self.by:
            return self.scores
        return np.asarray(self.scores[np.array(self.strata) == stratum])

    def p_values(self, scores: Vector, strata: Sequence[str]) -> Vector:
        """Split-conformal p-values ``[N]``, within each scan's stratum (Mondrian).

        A scan of an uncalibrated stratum gets the largest p-value over all strata: the guarantee then holds if the scan
        is exchangeable with the scans of any one of them.

        Source: Vovk, Gammerman and Shafer, 2005, on Mondrian conformal predictors.
        """
        if not self.by:
            return p_values(scores, self.scores)
        by_stratum = {name: p_values(scores, self.scores_of(name)) for name in self.counts()}
        strictest = np.max(list(by_stratum.values()), axis=0)
        return np.array([by_stratum.get(name, strictest)[i] for i, name in enumerate(strata)])

    def to_dict(self) -> dict[str, Any]:
        """Summary of the calibration for ledgers and reports."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "scans": len(self.scores),
            "keys_sha256": self.keys_sha256,
            "made": self.made,
            "by": list(self.by),
            "strata": self.counts() if self.by else {},
        }

    def save(self, folder: Path, detector_sha256: str) -> Calibration:
        """Write ``NAME.safetensors`` and ``NAME.json`` into a folder; return the calibration with its digest."""
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
            # JSON has no infinity, the score of a scan whose features are not finite.
            "scores": [float(v) if np.isfinite(v) else None for v in self.scores],
            "keys_sha256": self.keys_sha256,
            "left_out": dict(self.left_out or {}),
            "features_sha256": digest(part),
            **({"made": self.made} if self.made else {}),
        }
        body["sha256"] = digest_of(body)
        (folder / f"{self.name}.json").write_text(json.dumps(body, indent=1, allow_nan=False) + "\n")
        return Calibration(**{**vars(self), "sha256": body["sha256"]})

    @classmethod
    def load(cls, folder: Path, name: str, detector_sha256: str, dimensions: int) -> Calibration:
        """Read a calibration, check its digests, and check that its parts match.

        Args:
            folder: the detector's folder of calibrations.
            name: name of the calibration.
            detector_sha256: SHA-256 of the detector.
            dimensions: number of feature dimensions.

        Raises:
            MedoodError: the calibration does not exist, is damaged, or belongs to another detector.
        """
        check_calibration(folder.parent, name)
        path, part = folder / f"{name}.json", folder / f"{name}.safetensors"
        body = read_json(path, "calibration.schema.json", _REMEDY)
        if digest(part) != body["features_sha256"]:
            raise MedoodError(f"{part} was changed after it was written (its SHA-256 differs). {_REMEDY}")
        if body["detector_sha256"] != detector_sha256:
            raise MedoodError(f"{path} was made for another detector. Calibrate this one.")
        scores, strata, by = body["scores"], body["strata"], body["by"]
        if not all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in scores):
            raise MedoodError(f"{path} holds scores that are not numbers. {_REMEDY}")
        if len(strata) != (len(scores) if by else 0) or not all(isinstance(v, str) and len(v) <= _LONGEST for v in strata):
            raise MedoodError(f"{path} does not name one stratum per score. {_REMEDY}")
        file = TensorFile(part, _REMEDY)
        has_keys = "keys" in file.shapes
        file.check_names({"features", "hashes"} | ({"keys"} if has_keys else set()))
        file.check("features", (len(scores), dimensions))
        file.check("hashes", (len(scores), 32), is_bytes=True)
        if has_keys:
            file.check("keys", (len(scores), 32), is_bytes=True)
        tensors = file.tensors(finite=False)
        has_score = torch.tensor([v is not None for v in scores])  # without a score, the features are not finite either
        if not torch.isfinite(tensors["features"][has_score]).all():
            raise file.error("features of a scan that has a score are not finite")
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
            body.get("made", ""),
        )


def stratum(attributes: Mapping[str, str], by: Sequence[str]) -> str:
    """Name of a stratum: the values of the given attributes, joined; a missing value becomes ``not stated``."""
    return " | ".join(attributes.get(name) or _UNSTATED for name in by)


def fingerprint(keys: Sequence[str]) -> str:
    """SHA-256 over the sorted scan keys: the same for the same scans, regardless of file names."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()


def digests(keys: Sequence[str]) -> npt.NDArray[np.uint8]:
    """The SHA-256 in each scan key, as bytes: ``[N, 32]``."""
    return np.stack([np.frombuffer(bytes.fromhex(key.split(":")[0]), dtype=np.uint8) for key in keys])


def empty(dimensions: int) -> Calibration:
    """A calibration without scans, with which a detector cannot decide."""
    return Calibration("none", np.zeros(0), torch.zeros((0, dimensions)), torch.zeros((0, 32), dtype=torch.uint8), "")
