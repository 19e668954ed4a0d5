"""A detector as an ONNX graph: it computes what PyTorch does, belongs to its detector, and screens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

from medood.detection.detector import Detector
from medood.detection.detector_file import digest_of
from medood.detection.graph.operators import equalized_levels, resampling_weights
from medood.detection.registration import equalize_histogram
from medood.errors import MedoodError
from medood.screening.execution.onnx_graph import OnnxGraph
from medood.screening.ledger.database import Ledger
from medood.screening.run import screen
from medood.screening.run_options import RunOptions
from medood.workflows.onnx_export import write_graph
from medood.workflows.train import train
from tests.conftest import tiny_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def short_search() -> Iterator[None]:
    """Registration with two of its six step sizes, in PyTorch and graph alike: exporting takes as long as the search is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medood.detection.registration._STEPS", (0.06, 0.03))
        yield


@pytest.fixture(scope="module")
def whole_detector(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with every part: registration, appearance, lesion network."""
    overrides = (
        "model.backbone=convnext_atto",
        "views.local_count=0",
        "model.arguments={dims: [8, 8, 8, 8], depths: [1, 1, 1, 1]}",
        "detector.appearance=true",
        "lesions.epochs=1",
        "lesions.size=64",
        "lesions.batch_size=4",
        "lesions.mixture={nodules: 1}",
        "detector.score=lesions",
    )
    return train(tiny_config(phantom_folder, tmp_path_factory.mktemp("whole"), *overrides))


@pytest.fixture(scope="module")
def graph(whole_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("graph") / "graph"
    checked = write_graph(whole_detector, folder)
    assert checked["scans"] == 16
    assert checked["largest_difference"] < 1e-3
    assert checked["decided_otherwise"] == 0
    return folder


@pytest.mark.parametrize(("source", "side"), [(224, 128), (224, 48), (48, 64), (40, 40), (37, 11)])
def test_resampling_weights_are_pytorchs(source: int, side: int) -> None:
    images = torch.rand(2, 1, source, source, generator=torch.Generator().manual_seed(0))
    weights = torch.from_numpy(resampling_weights(source, side))
    expected = functional.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(weights @ images @ weights.T, expected, atol=1e-6, rtol=0)


def test_levels_of_a_graph_are_those_of_equalisation() -> None:
    images = torch.rand(3, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    images[1] = 0.25
    images[2, :, :20] = 1.0
    torch.testing.assert_close(equalized_levels(images), equalize_histogram(images), atol=0, rtol=0)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_graph_computes_the_detectors_features_for_any_batch(whole_detector: Path, graph: Path, count: int) -> None:
    detector = Detector.load(whole_detector)
    images = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(count))
    rows, expected = OnnxGraph(graph, detector.sha256).embed(images), detector.embed(images)
    for name, value in vars(expected).items():
        found = getattr(rows, name)
        assert (found is None) == (value is None)
        if value is not None:
            torch.testing.assert_close(found, value, atol=2e-3, rtol=1e-3)
    described = json.loads((graph / "graph.json").read_text())
    score = onnxruntime.InferenceSession(graph / "detector.onnx").run(["score"], {"images": images.numpy()})[0]
    np.testing.assert_allclose(score, detector.score_samples(images), atol=2e-3)
    assert described["calibration"]["scores"] == pytest.approx(detector.calibration.scores.tolist())


@pytest.mark.parametrize("score", ["soft_nearest_centered", "rotation", "combined"])
def test_every_kind_of_score(phantom_folder: Path, tmp_path: Path, score: str) -> None:
    overrides = (f"detector.score={score}", "negatives.mixture={rot: 1}", "model.rotation_head=true", "train.epochs=1")
    folder = train(tiny_config(phantom_folder, tmp_path / "detector", *overrides))
    write_graph(folder, tmp_path / "graph", check=phantom_folder)
    described = json.loads((tmp_path / "graph" / "graph.json").read_text())
    assert ("score" in described["outputs"]) == (score != "combined")
    assert described["checked"]["largest_difference"] < 1e-3
    detector, images = Detector.load(folder), torch.rand(3, 1, 32, 32)
    rows = OnnxGraph(tmp_path / "graph", detector.sha256).embed(images)
    np.testing.assert_allclose(detector.raw_scores(rows), detector.score_samples(images), atol=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_with_a_graph_decides_alike_and_says_so(
    whole_detector: Path, graph: Path, phantom_folder: Path, tmp_path: Path, workers: int
) -> None:
    for name, folder in (("torch", None), ("graph", graph)):
        screen([phantom_folder], whole_detector, tmp_path / name, fpr=0.2, options=RunOptions(workers, graph=folder))
    plain, other = (list(Ledger(tmp_path / name).rows()) for name in ("torch", "graph"))
    threshold = Ledger(tmp_path / "torch").metadata().threshold
    assert threshold is not None
    clear = [abs((row.score or 0.0) - threshold) > 2e-3 for row in plain]  # a calibration scan is its own threshold
    assert sum(clear) >= len(plain) - 1
    assert [row.source for row in plain] == [row.source for row in other]
    pairs = [(a.decision, b.decision) for a, b, is_clear in zip(plain, other, clear, strict=True) if is_clear]
    assert all(a == b for a, b in pairs)
    np.testing.assert_allclose([row.score for row in plain], [row.score for row in other], atol=2e-3)  # type: ignore[misc]
    assert Ledger(tmp_path / "torch").metadata().runtime is None
    runtime = Ledger(tmp_path / "graph").metadata().runtime or ""
    assert runtime.startswith(f"onnxruntime {onnxruntime.__version__}, graph ")


def test_a_run_is_not_resumed_with_another_runtime(
    whole_detector: Path, graph: Path, phantom_folder: Path, tmp_path: Path
) -> None:
    stopped: list[int] = []

    def stop() -> bool:
        stopped.append(1)
        return len(stopped) > 2

    with pytest.raises(MedoodError, match="Stopped"):
        screen([phantom_folder], whole_detector, tmp_path / "run", fpr=0.2, options=RunOptions(stopped=stop))
    with pytest.raises(MedoodError, match="different runtime"):
        screen([phantom_folder], whole_detector, tmp_path / "run", fpr=0.2, options=RunOptions(resume=True, graph=graph))


def test_a_graph_that_does_not_belong_is_refused(graph: Path, whole_detector: Path, tmp_path: Path) -> None:
    sha256 = Detector.load(whole_detector).sha256
    with pytest.raises(MedoodError, match="of another detector"):
        OnnxGraph(graph, "0" * 64)
    with pytest.raises(MedoodError, match="holds no detector"):
        OnnxGraph(tmp_path, sha256)
    content, described = (graph / "detector.onnx").read_bytes(), json.loads((graph / "graph.json").read_text())
    (tmp_path / "graph.json").write_text(json.dumps(described))
    (tmp_path / "detector.onnx").write_bytes(content[:-1] + b"\0")
    with pytest.raises(MedoodError, match="was changed after it was written"):
        OnnxGraph(tmp_path, sha256)
    (tmp_path / "detector.onnx").write_bytes(b"no graph")
    body = {name: value for name, value in described.items() if name != "sha256"}
    body["graph_sha256"] = hashlib.sha256(b"no graph").hexdigest()
    (tmp_path / "graph.json").write_text(json.dumps(body | {"sha256": digest_of(body)}))
    with pytest.raises(MedoodError, match="refuses the graph"):
        OnnxGraph(tmp_path, sha256)
    body["outputs"] = ["features", "anything"]
    (tmp_path / "graph.json").write_text(json.dumps(body | {"sha256": digest_of(body)}))
    with pytest.raises(MedoodError, match="cannot be used"):
        OnnxGraph(tmp_path, sha256)


def test_a_folder_in_use_is_not_written_to(whole_detector: Path, tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(MedoodError, match="not an empty folder"):
        write_graph(whole_detector, tmp_path)


def test_a_graph_that_computes_something_else_is_not_kept(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medood.workflows.onnx_export._TOLERANCE", -1.0)
    with pytest.raises(MedoodError, match="differ from PyTorch"):
        write_graph(tiny_detector, tmp_path / "graph")
    assert not (tmp_path / "graph").exists()
