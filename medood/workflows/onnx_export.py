"""Write a detector's networks, registration and appearance as one ONNX graph, and compare it with PyTorch."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medood.config.resources import find_detector
from medood.detection.calibration import Calibration
from medood.detection.detector import Detector
from medood.detection.detector_file import digest, digest_of
from medood.detection.detector_folder import TRAINING
from medood.detection.features import Features, orientation_entropies
from medood.detection.graph.files import DESCRIPTION, GRAPH
from medood.errors import MedoodError
from medood.output_folder import check_empty, new_folder
from medood.phantom.chest import frontal_chest
from medood.progress import Progress
from medood.scans.cache import build_cache
from medood.screening.execution.onnx_graph import session
from medood.workflows.training_data import to_input

SCHEMA_VERSION, OPSET = 1, 20
#: Largest number of images in a batch of the graph.
_MAX_BATCH = 4096
#: Images that a graph is compared on without an archive, and images compared at once.
_PHANTOMS, _BATCH = 16, 16
#: Rate of false alarms at which decisions are compared, and the largest difference of a score that rounding explains.
_RATE, _TOLERANCE = 0.05, 0.05


class _Graph(nn.Module):
    """From images to the parts of :class:`Features` that the detector has and, last, its score."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.network = detector.network
        self._detector = detector

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features, outputs = self.network.embed(images)
        members, lesions = self.network.other_parts(images)
        copies = self._detector.copies
        orientations = orientation_entropies(self.network, images) if copies["orientations"] else None
        rotation = self.network.turn_surprise(images) if copies["turns"] else None
        rows = Features(features, outputs, orientations, members, lesions, rotation)
        parts = {name: value for name, value in vars(rows).items() if value is not None}
        if self._detector.score_name != "combined":  # ONNX has no tail of the normal distribution
            parts["score"] = self._detector.score(rows)
        return parts


def write_graph(
    detector: str | Path,
    out: Path,
    *,
    calibration: str = TRAINING,
    check: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write ``detector.onnx``, and ``graph.json`` with the calibration, into a new folder.

    Args:
        detector: the detector's folder, or the name of a shipped one.
        out: the folder; it must not exist or be empty.
        calibration: name of the calibration to write.
        check: scans to compare the graph with PyTorch on; None takes simulated radiographs.
        progress: progress display; None is quiet.

    Returns:
        number of ``scans`` compared, ``largest_difference`` of a score and of the ``features``, and how many scans were
        ``decided_otherwise`` at 5 %.

    Raises:
        MedoodError: the detector is missing or damaged, the extra ``onnx`` is not installed, the folder is not empty, or the
            graph does not compute what PyTorch does.
    """
    progress = progress or Progress(quiet=True)
    check_empty(out)
    loaded = Detector.load(find_detector(detector), calibration)
    images = _images(loaded, check)
    with new_folder(out) as keep:
        progress.say("exporting, which takes about a minute")
        names = _export(loaded, out / GRAPH)
        checked = _compare(loaded, out / GRAPH, images, names, progress)
        described = {
            "schema_version": SCHEMA_VERSION,
            "detector_sha256": loaded.sha256,
            "graph_sha256": digest(out / GRAPH),
            "opset": OPSET,
            "input": ["images", ["N", loaded.preprocess.channels, *(loaded.preprocess.size,) * 2]],
            "outputs": names,
            "score": loaded.score_name,
            "preprocess": asdict(loaded.preprocess),
            "calibration": _described(loaded.calibration),
            "checked": checked,
            "versions": {name: version(name) for name in ("medood", "torch", "onnx", "onnxruntime")},
        }
        described["sha256"] = digest_of(described)
        (out / DESCRIPTION).write_text(json.dumps(described, indent=1, allow_nan=False) + "\n")
        keep()
    return checked


def _export(detector: Detector, path: Path) -> list[str]:
    """Write the graph; return the names of its outputs."""
    graph = _Graph(detector).eval()
    example = torch.rand(2, detector.preprocess.channels, *(detector.preprocess.size,) * 2)
    shapes = {"images": {0: torch.export.Dim("N", min=1, max=_MAX_BATCH)}}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            logging.getLogger("onnxscript").setLevel(logging.ERROR)
            names = list(graph(example))
            traced = torch.export.export(graph, (example,), dynamic_shapes=shapes, strict=False)
            torch.onnx.export(
                traced,
                (),
                path,
                input_names=["images"],
                output_names=names,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many exception types
        raise MedoodError(
            f"The network {detector.network.describe()} cannot be written as an ONNX graph: {str(error)[:200]}."
        ) from error
    return names


def _images(detector: Detector, check: Path | None) -> Tensor:
    """Images to compare on."""
    if check is None:
        size, channels = detector.preprocess.size, detector.preprocess.channels
        phantoms = [torch.from_numpy(frontal_chest(seed, size).image).float() for seed in range(_PHANTOMS)]
        return torch.stack(phantoms)[:, None].expand(-1, channels, -1, -1).clamp(0.0, 1.0).contiguous()
    with tempfile.TemporaryDirectory(prefix="medood-") as folder:
        cache = build_cache(check, Path(folder), detector.preprocess, detector.preprocess.size, key="--check")
        return to_input(np.array(cache.images))


def _compare(detector: Detector, path: Path, images: Tensor, names: list[str], progress: Progress) -> dict[str, Any]:
    running = session(path)
    differences, scores = [], []
    batches = torch.split(images, _BATCH)
    for batch in progress.track(iter(batches), len(batches), "comparing"):
        parts = dict(zip(names, running.run(names, {"images": batch.numpy()}), strict=True))
        own = parts.pop("score", None)
        rows = Features(**{name: torch.from_numpy(value) for name, value in parts.items()})
        expected = detector.embed(batch)
        pair = detector.raw_scores(expected), detector.raw_scores(rows)
        scores.append(pair)
        apart = [float((rows.features - expected.features).abs().max()), float(np.abs(pair[0] - pair[1]).max())]
        differences.append([*apart, 0.0 if own is None else float(np.abs(own - pair[1]).max())])
    of_features, of_scores, of_own = (max(column) for column in zip(*differences, strict=True))
    if not max(of_scores, of_own) <= _TOLERANCE:
        raise MedoodError(
            f"The graph's scores differ from PyTorch's by up to {max(of_scores, of_own):.3g} on {len(images)} images; it "
            "was not kept. Other versions of the packages of medood[onnx] may do better; medood doctor names those here."
        )
    strata = [""] * len(images)
    flagged = [detector.calibration.p_values(np.concatenate(side), strata) <= _RATE for side in zip(*scores, strict=True)]
    return {
        "scans": len(images),
        "largest_difference": of_scores,
        "features": of_features,
        "decided_otherwise": int((flagged[0] != flagged[1]).sum()),
    }


def _described(calibration: Calibration) -> dict[str, Any]:
    return {
        "name": calibration.name,
        "sha256": calibration.sha256,
        "by": list(calibration.by),
        "strata": list(calibration.strata),
        "scores": [float(value) if np.isfinite(value) else None for value in calibration.scores],
    }
