"""The detector and its folder: two safetensors files, and a JSON file that records every setting that affects decisions."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from medood.config.resources import find_detector
from medood.config.schema import ModelConfig, PreprocessConfig
from medood.detection.appearance import Appearance
from medood.detection.calibration import Calibration
from medood.detection.conformal import Decision
from medood.detection.detector_file import Shape, TensorFile, digest, digest_of, read_json
from medood.detection.detector_folder import CALIBRATIONS, DESCRIPTION, PARTS, TRAINING, DetectorMetadata, check_detector
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import Features, embed
from medood.detection.knn import nearest_rows
from medood.detection.lesions.network import LesionNetwork
from medood.detection.scores import COMBINED, ORIENTATION_SCORES, SCORES, TURN_SCORES, Fitted, fitted_shapes
from medood.distillation.network import Network
from medood.errors import MedoodError
from medood.scans.scan import Scan
from medood.scans.transforms import network_input, preprocessing

SCHEMA_VERSION = 4
_PLACES = "places"
_REMEDY = "Copy the detector again."


@dataclass(frozen=True)
class Verdict:
    """Score and decision for one scan.

    Attributes:
        score: raw score, higher is more out-of-distribution.
        p_value: split-conformal, small when out-of-distribution.
        decision: the decision at the stated false-alarm rate.
        nearest: cosines with the nearest in-distribution scans, in descending order.
        nearest_keys: their scan keys.
        stratum: calibration stratum of the scan; empty if the calibration has no strata.
        calibrated: whether that stratum was calibrated; if not, the largest p-value over all strata is used.
        finding: what is wrong with the scan, see :mod:`medood.evidence.fault_names`, which sets it.
    """

    score: float
    p_value: float
    decision: Decision
    nearest: list[float]
    nearest_keys: list[str]
    stratum: str = ""
    calibrated: bool = True
    finding: str = ""


@dataclass(frozen=True)
class LearnedScans:
    """All scans that a detector was built from, except its calibration set: training and development scans.

    Attributes:
        keys: ``[L, 32]`` uint8, their SHA-256.
        hashes: ``[L, 32]`` uint8, see :mod:`medood.detection.perceptual_hash`.
    """

    keys: Tensor
    hashes: Tensor


@dataclass
class Detector:
    """Network, bank, fitted scores and calibration: everything needed to decide on a scan.

    Attributes:
        network: teacher backbone and head, in evaluation mode.
        model: how the network is built.
        preprocess: preprocessing from a scan to the network's input.
        score_name: name of the deciding score, one of ``SCORES``.
        bank: ``[M, D]`` in-distribution features.
        bank_keys: ``[M, 32]`` uint8, the SHA-256 of the scans behind the rows.
        learned: every scan that was learned from, including those left out of a reduced bank.
        fitted: fitted tensors of each score.
        calibration: scores of in-distribution scans that new scans are judged against.
        places: tensors fitted by :mod:`medood.evidence.padim`, and the scales of its maps; empty if the detector has none.
        metadata: data fingerprint, configuration and training figures.
        sha256: digest of ``detector.json``, which records the digests of the parts; empty until saved.
    """

    network: EnsembleNetwork
    model: ModelConfig
    preprocess: PreprocessConfig
    score_name: str
    bank: Tensor
    bank_keys: Tensor
    learned: LearnedScans
    fitted: dict[str, Fitted]
    calibration: Calibration
    places: dict[str, Tensor] = field(default_factory=dict)
    metadata: DetectorMetadata = field(default_factory=DetectorMetadata)
    sha256: str = ""

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)
        self.chain = preprocessing(self.preprocess)

    def prepare(self, scan: Scan) -> Tensor:
        """The network's input for a scan: float32 ``[1, S, S]``."""
        return network_input(scan, self.chain)

    def embed(self, images: Tensor) -> Features:
        """Features of ``[N, 1, S, S]`` images from :meth:`prepare`, as the deciding score needs them."""
        return embed(self.network, images, **self.copies)

    @property
    def copies(self) -> dict[str, bool]:
        """Which turned copies the deciding score needs: the keywords of :func:`medood.detection.features.embed`."""
        return {"orientations": self.score_name in ORIENTATION_SCORES, "turns": self.score_name in TURN_SCORES}

    def score(self, rows: Features, name: str = "") -> Tensor:
        """Raw scores ``[N]`` by the deciding score, or ``name`` of ``SCORES`` if given; differentiable if the rows are."""
        name = name or self.score_name
        return SCORES[name].score(rows, self.bank, self.fitted[name])

    def raw_scores(self, rows: Features, name: str = "") -> npt.NDArray[np.float64]:
        """Raw scores ``[N]`` in float64 by the deciding score, or by ``name`` of ``SCORES`` if given.

        NaN becomes infinity, so that a scan without finite features counts as out-of-distribution.
        """
        raw = self.score(rows, name)
        return np.asarray(torch.nan_to_num(raw, nan=float("inf"), posinf=float("inf")).double().numpy())

    def score_samples(self, images: Tensor | npt.NDArray[np.float32] | Sequence[Scan]) -> npt.NDArray[np.float64]:
        """Scores ``[N]``, higher is more out-of-distribution (scikit-learn's method of this name has the opposite sign).

        Args:
            images: scans, or float32 ``[N, 1, S, S]`` images in [0, 1] as :meth:`prepare` returns them.
        """
        return self.raw_scores(self.embed(self._batch(images)))

    def p_values(
        self, images: Tensor | npt.NDArray[np.float32] | Sequence[Scan], strata: Sequence[str] | None = None
    ) -> npt.NDArray[np.float64]:
        """Conformal p-values ``[N]``, small when out-of-distribution.

        Args:
            images: as for :meth:`score_samples`.
            strata: ``[N]`` strata, where the calibration has them; see :func:`medood.detection.calibration.stratum`.
        """
        scores = self.score_samples(images)
        return self.calibration.p_values(scores, strata or [""] * len(scores))

    def predict(
        self,
        images: Tensor | npt.NDArray[np.float32] | Sequence[Scan],
        fpr: float = 0.05,
        strata: Sequence[str] | None = None,
    ) -> npt.NDArray[np.int64]:
        """1 for in-distribution and -1 for out-of-distribution images ``[N]``, as scikit-learn's outlier detectors return.

        Args:
            images: as for :meth:`score_samples`.
            fpr: false-alarm rate.
            strata: as for :meth:`p_values`.

        Raises:
            MedoodError: the calibration set is too small for this rate.
        """
        self.calibration.check(fpr)
        return np.where(self.p_values(images, strata) <= fpr, -1, 1)

    def _batch(self, images: Tensor | npt.NDArray[np.float32] | Sequence[Scan]) -> Tensor:
        if isinstance(images, Tensor):
            return images
        if isinstance(images, np.ndarray):
            return torch.from_numpy(images)
        return torch.stack([self.prepare(scan) for scan in images])

    def judge(self, rows: Features, fpr: float, strata: Sequence[str] | None = None, neighbours: int = 5) -> list[Verdict]:
        """Score embedded images and decide on each.

        Args:
            rows: features of the images, from :func:`medood.detection.features.embed`.
            fpr: share of in-distribution scans that may be flagged.
            strata: ``[N]`` names from :func:`medood.detection.calibration.stratum`; required if the calibration has strata.
            neighbours: number of nearest in-distribution scans to list.
        """
        scores = self.raw_scores(rows)
        strata = strata or [""] * len(rows)
        stratum_counts = self.calibration.counts()
        p = self.calibration.p_values(scores, strata)
        cosines, places = nearest_rows(rows.features, self.bank, neighbours)
        finite = rows.features.isfinite().all(dim=1)
        keys = [[bytes(self.bank_keys[i].tolist()).hex() for i in row] for row in places]
        return [
            Verdict(
                float(scores[i]),
                float(p[i]),
                Decision.OUT_OF_DISTRIBUTION if p[i] <= fpr else Decision.IN_DISTRIBUTION,
                [float(c) for c in cosines[i]] if finite[i] else [],
                keys[i] if finite[i] else [],
                strata[i],
                strata[i] in stratum_counts,
            )
            for i in range(len(rows))
        ]

    def save(self, folder: Path) -> None:
        """Write the folder, the calibration last: a detector without one is unfinished."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: _pack(value.cpu()) for name, value in self.network.state_dict().items()}
        save_file(weights, folder / PARTS[0])
        fitted = {f"{name}/{key}": _pack(v) for name, values in self.fitted.items() for key, v in values.items()}
        for path, value in list(fitted.items()):  # a part of combined that is also stored as a score of its own
            key = path.partition("/")[2]
            if torch.equal(value, fitted.get(key.replace(".", "/", 1), torch.zeros(0))):
                del fitted[path]
        fitted |= {f"{_PLACES}/{key}": _pack(value) for key, value in self.places.items()}
        bank = {"features": _pack(self.bank), "keys": self.bank_keys.contiguous()}
        learned = {"learned_keys": self.learned.keys.contiguous(), "learned_hashes": self.learned.hashes.contiguous()}
        save_file({**bank, **learned, **fitted}, folder / PARTS[1])
        description = {
            "schema_version": SCHEMA_VERSION,
            "preprocess": asdict(self.preprocess),
            "model": asdict(self.model),
            "appearance": self.network.appearance is not None,
            "members": [member.to_dict() for member in self.network.members if isinstance(member, EnsembleNetwork)],
            "score": self.score_name,
            "parts": {name: digest(folder / name) for name in PARTS},
            "versions": _versions(),
            **{name: value for name, value in asdict(self.metadata).items() if value},
        }
        if self.network.lesions is not None:
            description["lesions"] = {"size": self.network.lesions.size}
        description["sha256"] = digest_of(description)
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, allow_nan=False) + "\n")
        self.sha256 = description["sha256"]
        self.calibration = self.calibration.save(folder / CALIBRATIONS, self.sha256)

    @classmethod
    def load(cls, folder: str | Path, calibration: str = TRAINING) -> Detector:
        """Read a detector's folder and check every digest.

        Args:
            folder: the detector's folder, or the name of a shipped one.
            calibration: name of the calibration to decide with.

        Raises:
            MedoodError: the folder is missing or unfinished, a file has changed, or the schema version differs.
        """
        folder = find_detector(folder)
        description = _read_json(folder)
        model = ModelConfig(**description["model"] | {"weights": "", "pretrained": False})  # the weights are in the folder
        preprocessing_keys = description["preprocess"]
        if "crop" in preprocessing_keys:  # a single share in detectors of earlier versions
            preprocessing_keys["crops"] = [preprocessing_keys.pop("crop")]
        preprocess = PreprocessConfig(**preprocessing_keys)
        network = _read_network(folder, description, model, preprocess)
        dimensions = int(network.backbone.num_features)
        heads = 1 + len(network.members) + (network.appearance is not None)
        bank, fitted = _read_bank(folder, description["score"], dimensions, heads)
        return cls(
            network=network,
            model=model,
            preprocess=preprocess,
            score_name=description["score"],
            bank=bank["features"],
            bank_keys=bank["keys"],
            learned=LearnedScans(bank["learned_keys"], bank["learned_hashes"]),
            places=fitted.pop(_PLACES),
            fitted=fitted,
            calibration=Calibration.load(folder / CALIBRATIONS, calibration, description["sha256"], dimensions),
            metadata=DetectorMetadata.from_dict(description),
            sha256=description["sha256"],
        )


def _read_json(folder: Path) -> dict[str, Any]:
    check_detector(folder)
    description = read_json(folder / DESCRIPTION, "detector.schema.json", _REMEDY)
    for name in PARTS:
        if digest(folder / name) != description["parts"][name]:
            raise MedoodError(f"{folder / name} was changed after it was written (its SHA-256 differs). {_REMEDY}")
    return description


def _read_network(
    folder: Path, description: dict[str, Any], model: ModelConfig, preprocess: PreprocessConfig
) -> EnsembleNetwork:
    """Build the described network and load its weights; memory is allocated only after their shapes are checked."""

    channels = preprocess.channels

    def built() -> EnsembleNetwork:
        network = EnsembleNetwork(Network(model, model.size or preprocess.size, channels=channels), preprocess.crops)
        for member in description.get("members", []):
            settings = ModelConfig(**member["model"] | {"weights": "", "pretrained": False})
            other = Network(settings, member["size"], channels=channels)
            network.members.append(EnsembleNetwork(other, member["crops"]))
        if description.get("lesions"):
            network.lesions = LesionNetwork(model, description["lesions"]["size"])
        if description.get("appearance", False):
            network.appearance = Appearance()
        return network

    weights = TensorFile(folder / PARTS[0], _REMEDY)
    try:
        with torch.device("meta"):
            expected = built().state_dict()
    except Exception as error:  # timm raises many exception types for invalid arguments
        details = f": {error}" if isinstance(error, MedoodError) else ""
        raise MedoodError(
            f"{folder / DESCRIPTION} describes a network that cannot be built{details[:400]}. {_REMEDY}"
        ) from error
    weights.check_like(expected)
    network = built()
    network.load_state_dict(weights.tensors())
    return network


def _read_bank(folder: Path, score: str, dimensions: int, heads: int) -> tuple[dict[str, Tensor], dict[str, Fitted]]:
    """The bank's own tensors, and the fitted tensors of scores and maps by score and name."""
    file = TensorFile(folder / PARTS[1], _REMEDY)
    file.check("features", (None, dimensions))
    file.check("keys", (file.shapes["features"][0], 32), is_bytes=True)
    file.check("learned_keys", (None, 32), is_bytes=True)
    file.check("learned_hashes", (file.shapes["learned_keys"][0], 32), is_bytes=True)
    shapes = fitted_shapes(dimensions, heads) | {_PLACES: _place_shapes(file)}
    for path in file.shapes.keys() - {"features", "keys", "learned_keys", "learned_hashes"}:
        name, _, key = path.partition("/")
        if key not in shapes.get(name, {}):
            raise file.error(f"{path[:120]} is not expected")
        file.check(path, shapes[name][key])
    bank = file.tensors()
    fitted: dict[str, Fitted] = {name: {} for name in shapes}
    for path, value in bank.items():
        name, slash, key = path.partition("/")
        if slash:
            fitted[name][key] = value
            if key.endswith(("spread", "_scale")) and not (value > 0).all():
                raise file.error(f"{path} must be above 0")
    for name in COMBINED:
        fitted["combined"] = {f"{name}.{key}": value for key, value in fitted[name].items()} | fitted["combined"]
    missing = sorted(shapes[score].keys() - fitted[score].keys())
    if missing or (score == "ensemble" and heads == 1):
        raise file.error(f"data of the score {score} are missing ({', '.join(missing) or 'members'})")
    if fitted[_PLACES] and fitted[_PLACES].keys() != shapes[_PLACES].keys():
        raise file.error("data of the map of unusual places are missing")
    return bank, fitted


def _place_shapes(file: TensorFile) -> dict[str, Shape]:
    """Shapes of the tensors fitted by :mod:`medood.evidence.padim`: L places on a square grid, features of d channels."""
    mean = file.shapes.get(f"{_PLACES}/mean", (0, 0))
    places, channels = mean if len(mean) == 2 and math.isqrt(mean[0]) ** 2 == mean[0] else (0, 0)
    return {
        "mean": (places, channels),
        "whitening": (places, channels, channels),
        "center": (places,),
        "spread": (places,),
        "places_scale": (),
        "both_scale": (),
    }


def _pack(value: Tensor) -> Tensor:
    """The tensor as float16 if that is lossless (see ``detector.half``), otherwise unchanged."""
    packed = value.half() if value.dtype == torch.float32 else value
    return (packed if torch.equal(packed.to(value.dtype), value) else value).contiguous()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("medood", "torch", "timm", "monai", "pydicom", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
