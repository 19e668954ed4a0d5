"""A detector is a folder: two safetensors files, and one JSON file that states everything that decides."""

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

from medood.config.resources import find_detector, shipped_detectors
from medood.config.schema import ModelConfig, PreprocessConfig
from medood.detection.appearance import Appearance
from medood.detection.calibration import Calibration
from medood.detection.detector_file import Shape, TensorFile, digest, digest_of, read_json
from medood.detection.detector_folder import CALIBRATIONS, DESCRIPTION, PARTS, TRAINING
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import Features, embed
from medood.detection.knn import nearest_rows
from medood.detection.scores import COMBINED, SCORES, TURNED, Fitted, fitted_shapes
from medood.distillation.network import Network
from medood.errors import MedoodError
from medood.scans.scan import Scan
from medood.scans.transforms import network_input, preprocessing

SCHEMA_VERSION = 4
_PLACES = "places"
_AGAIN = "Copy the detector again."


@dataclass(frozen=True)
class Verdict:
    """What was decided of one scan.

    Attributes:
        score: raw score, higher is more out-of-distribution.
        p_value: split-conformal, small when out-of-distribution.
        decision: ``in_distribution`` or ``out_of_distribution`` at the stated false-alarm rate.
        nearest: cosines of the nearest in-distribution scans, falling.
        nearest_keys: their scan keys.
        stratum: of the calibration it was judged by; empty where there are none.
        calibrated: whether that stratum was calibrated; if not, the strictest one judged.
    """

    score: float
    p_value: float
    decision: str
    nearest: list[float]
    nearest_keys: list[str]
    stratum: str = ""
    calibrated: bool = True


@dataclass(frozen=True)
class Learned:
    """All scans that chose anything of a detector but its calibration: training and development scans.

    Attributes:
        keys: ``[L, 32]`` uint8, their SHA-256.
        hashes: ``[L, 32]`` uint8, see :mod:`medood.detection.perceptual_hash`.
    """

    keys: Tensor
    hashes: Tensor


@dataclass
class Detector:
    """Everything that decides.

    Attributes:
        network: teacher backbone and head, in evaluation mode.
        model: how the network is built.
        preprocess: from a scan to the network's input.
        score_name: the one of ``SCORES`` that decides.
        bank: ``[M, D]`` in-distribution features.
        bank_keys: ``[M, 32]`` uint8, the SHA-256 of the scans behind the rows.
        learned: every scan that was learned from, those that a reduced bank left out among them.
        fitted: what each score learned from the bank.
        calibration: scores of in-distribution scans that everything is judged against.
        places: what :mod:`medood.evidence.padim` learned, and the scales of its maps; empty where a detector has none.
        facts: data fingerprint, configuration, training figures; goes into ``detector.json`` as it is.
        sha256: digest of ``detector.json``, which names the digests of the parts; empty until saved.
    """

    network: EnsembleNetwork
    model: ModelConfig
    preprocess: PreprocessConfig
    score_name: str
    bank: Tensor
    bank_keys: Tensor
    learned: Learned
    fitted: dict[str, Fitted]
    calibration: Calibration
    places: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        self.network.eval().requires_grad_(False)
        self.chain = preprocessing(self.preprocess)

    def prepare(self, scan: Scan) -> Tensor:
        """The network's input for a scan: float32 ``[1, S, S]``."""
        return network_input(scan, self.chain)

    def embed(self, pictures: Tensor) -> Features:
        """What its score needs to know of ``[N, 1, S, S]`` pictures as :meth:`prepare` gives them."""
        return embed(self.network, pictures, turned=self.score_name in TURNED)

    def score(self, rows: Features, name: str = "") -> Tensor:
        """Raw scores ``[N]``, of another of ``SCORES`` where it is named; differentiable where the rows are."""
        name = name or self.score_name
        return SCORES[name].score(rows, self.bank, self.fitted[name])

    def raw_scores(self, rows: Features, name: str = "") -> npt.NDArray[np.float64]:
        """Raw scores ``[N]`` in float64, of another of ``SCORES`` where it is named.

        What the network cannot place does not belong: a score that is not a number is infinity.
        """
        raw = self.score(rows, name)
        return np.asarray(torch.nan_to_num(raw, nan=float("inf"), posinf=float("inf")).double().numpy())

    def judge(self, rows: Features, fpr: float, strata: Sequence[str] | None = None, neighbours: int = 5) -> list[Verdict]:
        """Score and decide for embedded pictures.

        Args:
            rows: what :func:`medood.detection.features.embed` says of the pictures.
            fpr: share of in-distribution scans that may be flagged.
            strata: ``[N]``, as :func:`medood.detection.calibration.stratum` names them; needed where there are strata.
            neighbours: number of nearest in-distribution scans to name.
        """
        scores = self.raw_scores(rows)
        strata = strata or [""] * len(rows)
        known = self.calibration.counts()
        p = self.calibration.p_values(scores, strata)
        cosines, places = nearest_rows(rows.features, self.bank, neighbours)
        finite = rows.features.isfinite().all(dim=1)
        keys = [[bytes(self.bank_keys[i].tolist()).hex() for i in row] for row in places]
        return [
            Verdict(
                float(scores[i]),
                float(p[i]),
                "out_of_distribution" if p[i] <= fpr else "in_distribution",
                [float(c) for c in cosines[i]] if finite[i] else [],
                keys[i] if finite[i] else [],
                strata[i],
                strata[i] in known,
            )
            for i in range(len(rows))
        ]

    def save(self, folder: Path) -> None:
        """Write the folder; the calibration last, so that a detector without one is known to be unfinished."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: _packed(value.cpu()) for name, value in self.network.state_dict().items()}
        save_file(weights, folder / PARTS[0])
        fitted = {f"{name}/{key}": _packed(v) for name, values in self.fitted.items() for key, v in values.items()}
        for path, value in list(fitted.items()):  # a part of combined that lies there as a score of its own
            key = path.partition("/")[2]
            if torch.equal(value, fitted.get(key.replace(".", "/", 1), torch.zeros(0))):
                del fitted[path]
        fitted |= {f"{_PLACES}/{key}": _packed(value) for key, value in self.places.items()}
        bank = {"features": _packed(self.bank), "keys": self.bank_keys.contiguous()}
        learned = {"learned_keys": self.learned.keys.contiguous(), "learned_hashes": self.learned.hashes.contiguous()}
        save_file({**bank, **learned, **fitted}, folder / PARTS[1])
        stated = {
            "schema_version": SCHEMA_VERSION,
            "preprocess": asdict(self.preprocess),
            "model": asdict(self.model),
            "appearance": self.network.appearance is not None,
            "members": [member.to_dict() for member in self.network.members if isinstance(member, EnsembleNetwork)],
            "score": self.score_name,
            "parts": {name: digest(folder / name) for name in PARTS},
            "versions": _versions(),
            **self.facts,
        }
        stated["sha256"] = digest_of(stated)
        (folder / DESCRIPTION).write_text(json.dumps(stated, indent=1, allow_nan=False) + "\n")
        self.sha256 = stated["sha256"]
        self.calibration = self.calibration.save(folder / CALIBRATIONS, self.sha256)

    @classmethod
    def load(cls, folder: str | Path, calibration: str = TRAINING) -> Detector:
        """Read a folder and check every digest.

        Args:
            folder: the detector's folder, or the name of a shipped one.
            calibration: name of the calibration to decide with.

        Raises:
            MedoodError: the folder is missing or unfinished, a byte has changed, or the schema is of another version.
        """
        folder = find_detector(folder)
        stated = _read_json(folder)
        model = ModelConfig(**stated["model"] | {"weights": "", "pretrained": False})  # they are in the folder
        seen = stated["preprocess"]
        if "crop" in seen:  # one share, in detectors of earlier versions
            seen["crops"] = [seen.pop("crop")]
        preprocess = PreprocessConfig(**seen)
        network = _read_network(folder, stated, model, preprocess)
        dimensions, heads = int(network.backbone.num_features), 1 + len(network.members) + (network.appearance is not None)
        bank, fitted = _read_bank(folder, stated["score"], dimensions, heads)
        known = {"schema_version", "preprocess", "model", "appearance", "members", "score", "cam_scale", "parts", "sha256"}
        return cls(
            network=network,
            model=model,
            preprocess=preprocess,
            score_name=stated["score"],
            bank=bank["features"],
            bank_keys=bank["keys"],
            learned=Learned(bank["learned_keys"], bank["learned_hashes"]),
            places=fitted.pop(_PLACES),
            fitted=fitted,
            calibration=Calibration.load(folder / CALIBRATIONS, calibration, stated["sha256"], dimensions),
            facts={name: value for name, value in stated.items() if name not in known | {"versions"}},
            sha256=stated["sha256"],
        )


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        names = shipped_detectors()
        raise MedoodError(
            f"{folder} is not a detector: it holds no detector.json. Give the folder that train wrote"
            f"{', or one of the shipped detectors: ' + ', '.join(names) if names else ''}."
        )
    stated = read_json(path, "detector.schema.json", _AGAIN)
    for name in PARTS:
        if not (folder / name).is_file():
            raise MedoodError(f"{folder / name} is missing. Copy the whole detector folder.")
        if digest(folder / name) != stated["parts"][name]:
            raise MedoodError(f"{folder / name} was changed after it was written (its SHA-256 differs). {_AGAIN}")
    return stated


def _read_network(folder: Path, stated: dict[str, Any], model: ModelConfig, preprocess: PreprocessConfig) -> EnsembleNetwork:
    """The network that a description implies, with its weights; it takes memory once the weights are known to fit."""

    def built() -> EnsembleNetwork:
        network = EnsembleNetwork(Network(model, preprocess.size), preprocess.crops)
        for member in stated.get("members", []):
            other = Network(ModelConfig(**member["model"] | {"weights": "", "pretrained": False}), member["size"])
            network.members.append(EnsembleNetwork(other, member["crops"]))
        if stated.get("appearance", False):
            network.appearance = Appearance()
        return network

    weights = TensorFile(folder / PARTS[0], _AGAIN)
    try:
        with torch.device("meta"):
            wanted = built().state_dict()
    except Exception as error:  # timm raises many kinds for arguments that make no network
        why = f": {error}" if isinstance(error, MedoodError) else ""
        raise MedoodError(f"{folder / DESCRIPTION} describes a network that cannot be built{why[:400]}. {_AGAIN}") from error
    weights.check_like(wanted)
    network = built()
    network.load_state_dict(weights.tensors())
    return network


def _read_bank(folder: Path, score: str, dimensions: int, heads: int) -> tuple[dict[str, Tensor], dict[str, Fitted]]:
    """The bank's own tensors, and those that scores and maps learned from it, by score and name."""
    file = TensorFile(folder / PARTS[1], _AGAIN)
    file.check("features", (None, dimensions))
    file.check("keys", (file.shapes["features"][0], 32), is_bytes=True)
    file.check("learned_keys", (None, 32), is_bytes=True)
    file.check("learned_hashes", (file.shapes["learned_keys"][0], 32), is_bytes=True)
    shapes = fitted_shapes(dimensions, heads) | {_PLACES: _place_shapes(file)}
    for path in file.shapes.keys() - {"features", "keys", "learned_keys", "learned_hashes"}:
        name, _, key = path.partition("/")
        if key not in shapes.get(name, {}):
            raise file.error(f"{path[:120]} fits nowhere")
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
        raise file.error(f"what the score {score} needs is missing ({', '.join(missing) or 'members'})")
    if fitted[_PLACES] and fitted[_PLACES].keys() != shapes[_PLACES].keys():
        raise file.error("a part of what the map of unusual places needs is missing")
    return bank, fitted


def _place_shapes(file: TensorFile) -> dict[str, Shape]:
    """What :mod:`medood.evidence.padim` learns: for L places on a square grid, features of d channels."""
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


def _packed(value: Tensor) -> Tensor:
    """As float16 where that loses nothing (see ``detector.half``), else as it is."""
    packed = value.half() if value.dtype == torch.float32 else value
    return (packed if torch.equal(packed.to(value.dtype), value) else value).contiguous()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("medood", "torch", "timm", "monai", "pydicom", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
