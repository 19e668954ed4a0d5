"""Frozen encoders from a local folder: timm's own layout, and that of DINOv2 in Hugging Face's transformers (RAD-DINO)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from medood.config.schema import ModelConfig, PreprocessConfig
from medood.detection.detector_file import TensorFile
from medood.detection.ensemble import EnsembleNetwork
from medood.distillation.network import REFUSED_ARGUMENTS
from medood.errors import MedoodError
from medood.evaluation.scan_features import Embedder
from medood.scans.transforms import network_input, preprocessing

#: Mean and standard deviation of ImageNet, for folders that state none.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MAX_JSON, _LARGEST = 1_000_000, 2048
_REMEDY = "Expected config.json and model.safetensors, as timm or transformers save them."
#: Parts of transformers' names for the weights of DINOv2, and timm's.
_RENAMED = (
    (r"^embeddings\.(cls_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
)
#: Beginnings of the names of classifiers' weights, which an encoder does without.
_HEADS = ("head.", "classifier.", "fc.")
_QUERY = re.compile(r"^encoder\.layer\.(\d+)\.attention\.attention\.query\.(weight|bias)$")


@dataclass(frozen=True)
class _Description:
    """How an encoder is built and what it sees."""

    backbone: nn.Module
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 8 <= self.side <= _LARGEST:
            raise ValueError(f"an input of {self.side} pixels; expected 8 to {_LARGEST}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and spread {self.std} of three colours")


class _Normalised(nn.Module):
    """A backbone of three channels behind one that centres and scales images otherwise: it sees its own mean and spread."""

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.mean = nn.Buffer(torch.tensor(mean).view(1, -1, 1, 1))
        self.std = nn.Buffer(torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Features ``[N, D]`` of ``[N, 1 or 3, S, S]`` images as :func:`backbone_features` scales them."""
        unit = (images * 0.25 + 0.5).expand(-1, 3, -1, -1)
        features: Tensor = self.backbone((unit - self.mean) / self.std)
        return features


@dataclass(frozen=True)
class _Parts:
    """What :class:`EnsembleNetwork` takes of a network."""

    config: ModelConfig
    size: int
    backbone: nn.Module
    head: nn.Module = field(default_factory=nn.Identity)
    rotation: None = None


def local_encoder(folder: Path, preprocess: PreprocessConfig) -> Embedder:
    """A frozen encoder with the weights in a folder; nothing is unpickled or downloaded.

    Args:
        folder: holds ``config.json`` and ``model.safetensors``: timm's, or those of a DINOv2 model of transformers, whose
            feature is the class token after the last layer norm.
        preprocess: the detector's preprocessing; the encoder's own side in pixels, mean and spread replace the detector's.

    Raises:
        MedoodError: a file is missing, or describes no encoder that can be built.
    """
    weights = TensorFile(folder / "model.safetensors", _REMEDY)
    config = _json(folder / "config.json")
    is_dinov2 = str(config.get("model_type", "")).startswith("dinov2")
    try:
        with torch.device("meta"):
            expected = _described(folder, config, is_dinov2).backbone.state_dict()
            stored = {name: torch.empty(shape) for name, shape in weights.shapes.items()}
        _check_alike(folder, expected, _renamed(stored, expected, is_dinov2))  # before anything is allocated
        described = _described(folder, config, is_dinov2)
    except MedoodError:
        raise
    except Exception as error:  # timm raises many exception types for invalid arguments
        raise MedoodError(
            f"{folder / 'config.json'} describes no encoder that can be built: {str(error)[:200]}. {_REMEDY}"
        ) from error
    described.backbone.load_state_dict(_renamed(weights.tensors(), expected, is_dinov2))
    backbone = _Normalised(described.backbone, described.mean, described.std)
    network = EnsembleNetwork(_Parts(ModelConfig(), described.side, backbone)).eval().requires_grad_(False)
    chain = preprocessing(PreprocessConfig(size=described.side, fit=preprocess.fit, channels=preprocess.channels))
    return Embedder(lambda scan: network_input(scan, chain), network, {"orientations": False})


def _renamed(tensors: dict[str, Tensor], expected: dict[str, Tensor], is_dinov2: bool) -> dict[str, Tensor]:
    """Weights under timm's names, without a classifier's."""
    tensors = _from_dinov2(tensors) if is_dinov2 else tensors
    return {name: value for name, value in tensors.items() if name in expected or not name.startswith(_HEADS)}


def _check_alike(folder: Path, expected: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    differing = [name for name, value in expected.items() if name not in tensors or tensors[name].shape != value.shape]
    differing += sorted(tensors.keys() - expected.keys())
    if differing:
        raise MedoodError(f"{folder}: the weights do not fit config.json, such as {differing[0][:120]}. {_REMEDY}")


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise MedoodError(f"{path} is missing or damaged. {_REMEDY}") from error
    return content


def _described(folder: Path, config: dict[str, Any], is_dinov2: bool) -> _Description:
    return _dinov2(folder, config) if is_dinov2 else _timm(config)


def _timm(config: dict[str, Any]) -> _Description:
    name, settings = str(config["architecture"]), dict(config.get("pretrained_cfg") or config)
    arguments = dict(config.get("model_args") or {})
    if not re.fullmatch(r"[A-Za-z0-9_]+", name) or any(key.startswith(REFUSED_ARGUMENTS) for key in arguments):
        raise ValueError(f"architecture {name[:60]!r} with {sorted(arguments)}")
    arguments |= {"in_chans": 3, "num_classes": 0}
    side = int(settings.get("input_size", [3, 224, 224])[-1])
    backbone = timm.create_model(name, pretrained=False, **arguments)
    return _Description(backbone, side, _numbers(settings.get("mean", _MEAN)), _numbers(settings.get("std", _STD)))


def _dinov2(folder: Path, config: dict[str, Any]) -> _Description:
    if config.get("use_swiglu_ffn"):
        raise ValueError("SwiGLU layers (the giant model) are not supported")
    backbone = VisionTransformer(
        img_size=int(config["image_size"]),
        patch_size=int(config["patch_size"]),
        num_classes=0,
        embed_dim=int(config["hidden_size"]),
        depth=int(config["num_hidden_layers"]),
        num_heads=int(config["num_attention_heads"]),
        mlp_ratio=float(config.get("mlp_ratio", 4)),
        qkv_bias=bool(config.get("qkv_bias", True)),
        init_values=1e-5,
        reg_tokens=int(config.get("num_register_tokens", 0)),
        no_embed_class=bool(config.get("num_register_tokens", 0)),
        dynamic_img_size=True,
    )
    seen = folder / "preprocessor_config.json"
    settings = _json(seen) if seen.is_file() else {}
    crop = settings.get("crop_size") or {}
    side = int(crop.get("height", config["image_size"]) if isinstance(crop, dict) else crop)
    side -= side % int(config["patch_size"])
    means, stds = settings.get("image_mean", _MEAN), settings.get("image_std", _STD)
    return _Description(backbone, side, _numbers(means), _numbers(stds))


def _numbers(values: Any) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    return numbers * 3 if len(numbers) == 1 else numbers


def _from_dinov2(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under timm's names; queries, keys and values become one matrix."""
    plain = {re.sub(r"^(dinov2|model|encoder\.dinov2)\.", "", name): value for name, value in tensors.items()}
    renamed = {}
    for name, value in plain.items():
        if query := _QUERY.match(name):
            parts = [plain[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            renamed[f"blocks.{query[1]}.attn.qkv.{query[2]}"] = torch.cat(parts)
        elif ".attention.attention." not in name and name != "embeddings.mask_token":
            for pattern, replacement in _RENAMED:
                name, count = re.subn(pattern, replacement, name)
                if count:
                    break
            renamed[name] = value
    if "reg_token" in renamed:  # timm adds no position to the class token then, so it is added here
        places = renamed["pos_embed"]
        renamed |= {"cls_token": renamed["cls_token"] + places[:, :1], "pos_embed": places[:, 1:]}
    return renamed
