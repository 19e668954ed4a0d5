"""Features from a detector's ONNX graph instead of its PyTorch networks; ONNX Runtime computes them."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medood.detection.detector_file import digest, read_json
from medood.detection.features import Features
from medood.detection.graph.files import DESCRIPTION, GRAPH, check_graph
from medood.errors import MedoodError

#: Largest graph that is loaded, in bytes; a shipped detector's has 36 million.
_LARGEST = 2 * 1024**3
_REMEDY = "Write the graph again with medood onnx."


class OnnxGraph:
    """The graph in a folder that ``medood onnx`` wrote.

    Each call computes on one thread, as :mod:`medood.screening.execution.base` asks for; calls may overlap.

    Args:
        folder: the folder.
        detector_sha256: digest of the detector that it has to belong to.

    Attributes:
        name: runtime, its version and the graph's digest, for the record of a run.

    Raises:
        MedoodError: the graph is missing, changed, or of another detector, or ONNX Runtime is missing or refuses it.
    """

    def __init__(self, folder: Path, detector_sha256: str) -> None:
        check_graph(folder)
        described = read_json(folder / DESCRIPTION, "graph.schema.json", _REMEDY)
        if described["detector_sha256"] != detector_sha256:
            raise MedoodError(f"{folder} holds the graph of another detector. {_REMEDY}")
        path = folder / GRAPH
        if path.stat().st_size > _LARGEST:
            raise MedoodError(f"{path} has more than {_LARGEST:,} bytes, which is no graph of medood's. {_REMEDY}")
        if digest(path) != described["graph_sha256"]:
            raise MedoodError(f"{path} was changed after it was written (its SHA-256 differs). {_REMEDY}")
        self._names = [name for name in described["outputs"] if name != "score"]
        self._session = session(path)
        self.name = f"onnxruntime {version('onnxruntime')}, graph {described['graph_sha256']}"

    def embed(self, images: Tensor) -> Features:
        """Features of ``[N, C, S, S]`` images in [0, 1], as :meth:`medood.detection.detector.Detector.embed` gives them."""
        values = self._session.run(self._names, {"images": images.numpy()})
        return Features(**{name: torch.from_numpy(value) for name, value in zip(self._names, values, strict=True)})


def session(path: Path) -> Any:
    """An ONNX Runtime session of one thread.

    Raises:
        MedoodError: ONNX Runtime refuses the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception types are private
        raise MedoodError(f"{path}: ONNX Runtime refuses the graph: {str(error)[:200]}. {_REMEDY}") from error
