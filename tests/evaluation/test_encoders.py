"""Frozen encoders from a local folder. The two in fixtures/dinov2 were written, with random weights, by transformers 5.24,
as were the class tokens that they give for the example images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from medood.config.schema import PreprocessConfig
from medood.errors import MedoodError
from medood.evaluation.encoders import local_encoder
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from tests.conftest import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "dinov2"


@pytest.mark.parametrize("name", ["plain", "registers"])
def test_dinov2_gives_the_class_tokens_of_transformers(name: str) -> None:
    example = load_file(FIXTURES / name / "example.safetensors")
    encoder = local_encoder(FIXTURES / name, PreprocessConfig())
    torch.testing.assert_close(
        encoder.network.embed(example["images"])[0], normalize(example["class_tokens"], dim=1), atol=2e-5, rtol=0
    )


def test_timm_sees_its_own_size_mean_and_spread(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("resnet10t", num_classes=7).eval()
    save_file(backbone.state_dict(), tmp_path / "model.safetensors")
    settings = {"input_size": [3, 64, 64], "mean": [0.3, 0.4, 0.5], "std": [0.1, 0.2, 0.3]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "pretrained_cfg": settings}))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(tmp_path / "a.png")
    (scan,) = (item for item in read_scans(tmp_path / "a.png") if isinstance(item, Scan))
    encoder = local_encoder(tmp_path, PreprocessConfig(size=24))
    image = encoder.prepare(scan)
    assert image.shape == (1, 64, 64)
    colours = (image.expand(3, -1, -1) - torch.tensor(settings["mean"]).view(3, 1, 1)) / torch.tensor(settings["std"]).view(
        3, 1, 1
    )
    with torch.no_grad():
        expected = backbone.forward_head(backbone.forward_features(colours[None]), pre_logits=True)
    torch.testing.assert_close(encoder.network.embed(image[None])[0], normalize(expected, dim=1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"hidden_size": 24}, "do not fit"),
        ({"num_attention_heads": 3}, "can be built"),
        ({"use_swiglu_ffn": True}, "SwiGLU"),
        ({"image_size": None}, "can be built"),
        ({"patch_size": 0}, "can be built"),
        ({"hidden_size": 2_000_000}, "do not fit"),
        ({"image_size": 70_000}, "can be built"),
        ({"model_type": "vit", "architecture": "resnet10t", "pretrained_cfg": {"input_size": []}}, "can be built"),
        ({"model_type": "vit", "architecture": "resnet10t", "pretrained_cfg": {"std": [0, 1, 1]}}, "can be built"),
        ({"model_type": "vit"}, "can be built"),
        ({"model_type": "vit", "architecture": "hf-hub:someone/model"}, "can be built"),
        ({"model_type": "vit", "architecture": "resnet10t", "model_args": {"checkpoint_path": "x"}}, "can be built"),
    ],
)
def test_a_folder_that_is_none_is_refused(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    folder = shutil.copytree(FIXTURES / "plain", tmp_path / "encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(MedoodError, match=problem):
        local_encoder(folder, PreprocessConfig())


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(FIXTURES / "plain", tmp_path / "encoder")
    (folder / name).unlink()
    with pytest.raises(MedoodError, match=name):
        local_encoder(folder, PreprocessConfig())
