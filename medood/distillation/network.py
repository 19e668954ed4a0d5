"""Backbone (timm) and projection head."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import timm
import torch
import torch.nn.functional as functional
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import is_model_in_modules
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from medood.config.schema import ModelConfig
from medood.errors import MedoodError

#: Factor by which a ViT's initial position embedding exceeds timm's: on radiographs, position carries most of the meaning,
#: and in a short run the embedding does not grow by itself (without it, the AUROC on permuted patches stayed at chance).
_POSITION_GAIN = 10.0


#: Number of quarter turns that the rotation head tells apart, none included.
TURNS = 4
#: timm arguments that would load weights from elsewhere, or that medood sets itself.
REFUSED_ARGUMENTS = ("pretrained", "checkpoint", "cache_dir", "in_chans", "num_classes")


class Head(nn.Module):
    """The projection head of the paper: a three-layer MLP, L2 normalisation, and a last layer of unit-norm prototypes.

    Args:
        in_dim: width of the backbone's feature.
        hidden_dim: width of the two hidden layers.
        bottleneck_dim: width of the normalised vector.
        out_dim: number of prototypes K.
    """

    def __init__(self, in_dim: int, hidden_dim: int, bottleneck_dim: int, out_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        self.prototypes = nn.Linear(bottleneck_dim, out_dim, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Cosines ``[N, K]`` in [-1, 1] of ``[N, in_dim]`` features with the prototypes."""
        direction = functional.normalize(self.mlp(features), dim=-1)
        return functional.linear(direction, functional.normalize(self.prototypes.weight, dim=-1))


class Network(nn.Module):
    """Backbone and head, and the rotation head if the configuration has one.

    Args:
        config: the model's part of the configuration.
        size: side of the network's input.
        drop_path: rate of stochastic depth; 0 for a teacher.
        channels: 1 for grey images, 3 for colour.

    Attributes:
        config: as given.
        size: as given.

    Raises:
        MedoodError: timm does not know the backbone or its arguments.
    """

    def __init__(self, config: ModelConfig, size: int, drop_path: float = 0.0, channels: int = 1) -> None:
        super().__init__()
        self.config, self.size = config, size
        refused = [name for name in config.arguments if name.startswith(REFUSED_ARGUMENTS)]
        if refused or not config.backbone.replace("_", "").replace(".", "").isalnum():
            raise MedoodError(
                f"model.backbone is {config.backbone!r} with {sorted(config.arguments)}: expected a plain timm name and "
                f"none of the arguments {', '.join(REFUSED_ARGUMENTS)}; weights come from training or a detector only."
            )
        arguments: dict[str, Any] = {"in_chans": channels, "num_classes": 0, **config.arguments}
        if drop_path > 0:
            arguments["drop_path_rate"] = drop_path
        try:
            if is_model_in_modules(config.backbone, ("vision_transformer",)):
                arguments = {"img_size": size, "dynamic_img_size": True, **arguments}
            self.backbone = timm.create_model(config.backbone, pretrained=False, **arguments)
        except (RuntimeError, TypeError, KeyError, ValueError, AssertionError) as error:
            nearest = ", ".join(timm.list_models(f"*{config.backbone.split('_')[0]}*")[:5])
            raise MedoodError(
                f"model.backbone: timm cannot build {config.backbone!r} with {config.arguments}: {error}. "
                f"Names that look alike: {nearest or 'none'}."
            ) from error
        if config.weights or config.pretrained:
            load_backbone(self.backbone, config, arguments)
        elif getattr(self.backbone, "pos_embed", None) is not None:
            with torch.no_grad():
                self.backbone.pos_embed.mul_(_POSITION_GAIN)
        width = int(self.backbone.num_features)
        self.head = Head(width, config.hidden_dim, config.bottleneck_dim, config.out_dim)
        self.rotation = nn.Linear(width, TURNS) if config.rotation_head else None
        if config.weights:
            load_head(self.head, config)

    def forward(self, batches: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Features, head outputs and logits of turns of batches of views, one batch per size; one call, for data-parallel
        training. Only the first batch, of large views, has logits of turns, and only with a rotation head."""
        rows = list[tuple[Tensor, Tensor, Tensor | None]]()
        for batch in batches:
            features = self.features(batch)
            turns = self.rotation(features) if self.rotation is not None and not rows else None
            rows.append((features, self.head(features), turns))
        return rows

    def features(self, images: Tensor) -> Tensor:
        """Backbone features ``[N, D]`` of ``[N, 1, S, S]`` images in [0, 1]."""
        return backbone_features(self.backbone, images)


def backbone_features(backbone: nn.Module, images: Tensor) -> Tensor:
    """Backbone features ``[N, D]`` of ``[N, 1, S, S]`` images in [0, 1], which are centred and scaled first.

    Otherwise the grey level common to all images drowns their differences, and training stays at the uniform loss.
    """
    with _attention(images):
        features: Tensor = backbone((images - 0.5) / 0.25)
    return features


def _attention(images: Tensor) -> AbstractContextManager[None]:
    """Attention as plain matrix products where bf16 is trained on a CPU.

    The gradient of PyTorch's fused attention takes eight times as long there as in float32.
    """
    if images.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled():
        plain: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
        return plain
    return nullcontext()


def load_backbone(backbone: nn.Module, config: ModelConfig, arguments: dict[str, Any]) -> None:
    """Initialise the backbone from a local safetensors file, or from the weights that timm publishes.

    Raises:
        MedoodError: the file does not match, or the weights cannot be downloaded; the message names the file to copy.
    """
    try:
        if config.weights:
            tensors = load_file(config.weights)
            tensors = {
                name.removeprefix("backbone."): value
                for name, value in tensors.items()
                if not name.startswith(("head.", "members.", "lesions.", "appearance.", "rotation."))
            }
            missing, unexpected = backbone.load_state_dict(tensors, strict=False)
            if missing or unexpected:
                raise ValueError(f"{len(missing)} weights are missing and {len(unexpected)} are not expected")
            return
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise MedoodError(f"model.weights: {config.weights} does not fit {config.backbone}: {str(error)[:300]}.") from error
    try:
        published = timm.create_model(config.backbone, pretrained=True, **arguments)
    except Exception as error:  # a missing connection raises many exception types
        where = getattr(timm.models.get_pretrained_cfg(config.backbone), "hf_hub_id", None) or config.backbone
        raise MedoodError(
            f"model.pretrained: the weights of {config.backbone} could not be fetched ({type(error).__name__}). On a "
            f"machine with internet access, fetch model.safetensors of {where} from timm's hub, copy it here, and set "
            "model.weights=THAT_FILE model.pretrained=false."
        ) from error
    backbone.load_state_dict(published.state_dict())


def load_head(head: Head, config: ModelConfig) -> None:
    """Initialise the head from ``model.weights`` if the file has one, as a detector's ``network.safetensors`` does.

    Raises:
        MedoodError: the shapes differ.
    """
    tensors = {name: value for name, value in load_file(config.weights).items() if name.startswith("head.")}
    if not tensors:
        return
    try:
        head.load_state_dict({name.removeprefix("head."): value for name, value in tensors.items()})
    except RuntimeError as error:
        raise MedoodError(
            f"model.weights: the head in {config.weights} has other widths. Set model.hidden_dim, model.bottleneck_dim and "
            f"model.out_dim as that detector's detector.json states them: {str(error)[:300]}."
        ) from error


def student_and_teacher(config: ModelConfig, size: int, channels: int = 1) -> tuple[Network, Network]:
    """A student, and a teacher with the same weights, no stochastic depth and no gradient."""
    student = Network(config, size, config.drop_path, channels)
    teacher = Network(config, size, channels=channels)
    teacher.load_state_dict(copy.deepcopy(student.state_dict()))
    teacher.requires_grad_(False).eval()
    return student, teacher


@torch.no_grad()
def check_bfloat16(network: Network, channels: int, sides: Iterable[int]) -> None:
    """Refuse bf16 on a CPU for views that shrink to a single pixel before a strided convolution.

    The gradient of a 3 x 3 convolution of stride 2 over one pixel is wrong in PyTorch 2.15 (oneDNN). It depends on memory
    that was never written, so that a training differs from run to run, or ends in NaN.

    Args:
        network: the student.
        channels: channels of an image.
        sides: sides of the views in pixels.

    Raises:
        MedoodError: a view is too small.
    """
    single: list[str] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        if inputs[0].shape[-1] == 1 and module.kernel_size[0] > 1 and module.stride[0] > 1:
            single.append(str(inputs[0].shape[1]))

    convolutions = [module for module in network.backbone.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_pre_hook(look) for module in convolutions]
    was_training = network.training
    network.eval()
    try:
        for side in sides:
            network.features(torch.zeros(1, channels, side, side))
            if single:
                raise MedoodError(
                    f"train.precision is bf16-mixed, but a view of {side} px shrinks to one pixel before a convolution, "
                    "whose gradient is wrong in bf16 on a CPU. Use train.precision=32-true, or larger views."
                )
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """EMA of the weights: ``teacher = momentum * teacher + (1 - momentum) * student``; buffers are copied."""
    average = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
    average(list(teacher.parameters()), [value.detach() for value in student.parameters()], 0)
    for teacher_buffer, student_buffer in zip(teacher.buffers(), student.buffers(), strict=True):
        teacher_buffer.copy_(student_buffer)
