"""File names in the folder of a detector's ONNX graph, and its check before a run; does not import torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from medood.errors import MedoodError

GRAPH, DESCRIPTION = "detector.onnx", "graph.json"


def check_graph(folder: Path) -> None:
    """Check that a graph can be run; its files are not read.

    Raises:
        MedoodError: the folder holds no graph, or ONNX Runtime is not installed.
    """
    for name in (GRAPH, DESCRIPTION):
        if not (folder / name).is_file():
            raise MedoodError(f"{folder} holds no {name}. Give the folder that medood onnx wrote.")
    if importlib.util.find_spec("onnxruntime") is None:
        raise MedoodError("A graph needs ONNX Runtime: pip install 'medood[onnx]'. Without --graph PyTorch scores.")
