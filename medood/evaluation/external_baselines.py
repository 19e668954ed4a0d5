"""Detectors of other libraries on the same features, for comparison in the same benchmark."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medood.config.schema import ModelConfig, PreprocessConfig
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.knn import largest_cosine
from medood.distillation.network import Network
from medood.errors import MedoodError
from medood.evaluation.scan_features import Embedder
from medood.scans.transforms import network_input, preprocessing

Matrix = npt.NDArray[np.float64]
#: Scores ``[N, D]`` features; higher is more out-of-distribution.
Scorer = Callable[[Tensor], Matrix]

#: Module and arguments of each peer's class. No other classes are ever imported.
_SKLEARN: dict[str, tuple[str, dict[str, Any]]] = {
    "EllipticEnvelope": ("sklearn.covariance", {"support_fraction": 0.9, "random_state": 0}),
    "IsolationForest": ("sklearn.ensemble", {"random_state": 0}),
    "LocalOutlierFactor": ("sklearn.neighbors", {"novelty": True}),
    "OneClassSVM": ("sklearn.svm", {}),
}
_PYTORCH_OOD: dict[str, dict[str, Any]] = {
    "KNN": {"encoder": None},
    "Mahalanobis": {"encoder": None},
    "GMM": {"encoder": None},
}
PEERS = tuple(f"sklearn:{name}" for name in _SKLEARN) + tuple(f"pytorch-ood:{name}" for name in _PYTORCH_OOD)


def fit_peer(name: str, features: Tensor) -> Scorer:
    """Fit another library's detector on in-distribution features.

    Args:
        name: one of ``PEERS``.
        features: ``[M, D]``, L2-normalised.

    Raises:
        MedoodError: the name is unknown, or its library is not installed.
    """
    if name not in PEERS:
        nearest = difflib.get_close_matches(name, PEERS, n=1, cutoff=0.0)[0]
        raise MedoodError(f"--external is {name!r}. Did you mean {nearest!r}? Known: {', '.join(PEERS)}.")
    library, _, kind = name.partition(":")
    if library == "sklearn":
        module, arguments = _SKLEARN[kind]
        fitted = getattr(importlib.import_module(module), kind)(**arguments).fit(features.double().numpy())
        return lambda rows: np.asarray(-fitted.score_samples(rows.double().numpy()), dtype=np.float64)
    try:
        detectors = importlib.import_module("pytorch_ood.detector")
    except ImportError as error:
        raise MedoodError(f"--external {name} needs pytorch-ood: install medood with the extra 'peers'.") from error
    detector = getattr(detectors, kind)(**_PYTORCH_OOD[kind])
    detector.fit_features(features, torch.zeros(len(features), dtype=torch.int64))
    return lambda rows: np.asarray(detector.predict_features(rows).double().numpy())


def nearest_to(bank: Tensor) -> Scorer:
    """Minus the cosine to the nearest row of a bank."""
    return lambda rows: np.asarray(-largest_cosine(rows, bank).double().numpy())


def frozen_backbone(name: str, weights: Path, preprocess: PreprocessConfig) -> Embedder:
    """A frozen timm backbone with weights from a local safetensors file.

    Args:
        name: timm's name of the backbone.
        weights: safetensors file for one input channel.
        preprocess: preprocessing from a scan to the backbone's input.

    Raises:
        MedoodError: the file does not match the backbone.
    """
    if not weights.is_file():
        raise MedoodError(f"--backbone-weights: {weights} does not exist. Give a safetensors file for {name}.")
    model = ModelConfig(name, {}, 0.0, 8, 8, 8, str(weights))
    network = EnsembleNetwork(Network(model, preprocess.size, channels=preprocess.channels)).eval().requires_grad_(False)
    chain = preprocessing(preprocess)
    return Embedder(lambda scan: network_input(scan, chain), network, {"orientations": False})
