"""Train the lesion network. Every random number derives from (seed, step): a resumed run equals an uninterrupted one."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from medood.config.schema import RunConfig
from medood.detection.lesions.faults import plant_faults
from medood.detection.lesions.network import LesionNetwork
from medood.detection.lesions.views import LesionViews, lesion_views
from medood.detection.registration import Registration
from medood.distillation.checkpoint import (
    CheckpointInterval,
    load_module,
    load_newest,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    remove_checkpoints,
    save_checkpoint,
)
from medood.distillation.collapse import CollapseError
from medood.distillation.multi_crop import ImageArray, mix_seed
from medood.distillation.network import update_teacher
from medood.distillation.schedules import warmup_cosine
from medood.distillation.side_stream import SideStream
from medood.errors import MedoodError
from medood.negatives.mixture import Mixture

#: Weight of a place that is lesion, and of the losses over whole radiographs.
_LESION_WEIGHT, _WHOLE_WEIGHT, _FAULT_WEIGHT = 4.0, 0.3, 0.3
_WEIGHT_DECAY, _GRADIENT_CLIP, _WARMUP = 0.05, 3.0, 200
#: Stream of random numbers of this training; the trainer of self-distillation uses 1 to 3.
_STREAM = 4


def lesion_loss(outputs: tuple[Tensor, Tensor, Tensor], views: LesionViews) -> Tensor:
    """Cross-entropy of places, radiographs and faults with what was planted; lesions count where there is no fault."""
    places, wholes, faults = outputs
    weight = torch.tensor(_LESION_WEIGHT, device=places.device)
    sound = (views.fault == 0).float()
    share = sound / sound.sum().clamp(min=1.0)
    local = functional.binary_cross_entropy_with_logits(places, views.cells, pos_weight=weight, reduction="none")
    whole = functional.binary_cross_entropy_with_logits(wholes, views.present, reduction="none")
    lesions = (share * (local.mean(dim=(1, 2)) + _WHOLE_WEIGHT * whole)).sum()
    return lesions + _FAULT_WEIGHT * functional.cross_entropy(faults, views.fault)


class LesionTrainer:
    """Trains a lesion network on healthy radiographs and what is planted in them.

    Args:
        config: configuration of the run.
        backbone: state of the trained backbone to start from.
        images: uint8 ``[N, S, S]`` training images.
        registration: finds the frame of an image.
        folder: where checkpoints go.
        device: device to train on.
        precision: ``32-true`` or ``bf16-mixed``.
        data_sha256: digest that identifies the images; a run can only be resumed on the same ones.
    """

    def __init__(
        self,
        config: RunConfig,
        backbone: dict[str, Tensor],
        images: ImageArray,
        registration: Registration,
        folder: Path,
        device: str,
        precision: str,
        data_sha256: str,
    ) -> None:
        settings = config.lesions
        self._settings, self._seed = settings, config.train.seed
        self._images, self._folder, self._device = images, folder, torch.device(device)
        self._registration = copy.deepcopy(registration).to(self._device)
        self._autocast = precision == "bf16-mixed"
        self._beside = SideStream(self._device)
        self._interval = CheckpointInterval()
        self._mixture = Mixture(settings.mixture) if settings.epochs else None
        self._faults = Mixture(settings.faults) if settings.epochs and settings.faults else None
        torch.manual_seed(mix_seed(self._seed, _STREAM))
        self.network = LesionNetwork(config.model, settings.size)
        if settings.weights:
            _load(self.network, settings.weights)
        else:
            self.network.backbone.load_state_dict(backbone)
        self.network.to(self._device).train()
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        decayed = [value for value in self.network.parameters() if value.ndim > 1]
        plain = [value for value in self.network.parameters() if value.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": _WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
        self._batch = min(settings.batch_size, len(images))
        self.steps_per_epoch = len(images) // self._batch
        self.steps, self.next_step = settings.epochs * self.steps_per_epoch, 0
        with torch.no_grad():
            sample = self.network(torch.zeros(1, 1, settings.size, settings.size, device=self._device))
        self._cell = settings.size // sample[0].shape[-1]
        start = hashlib.sha256()
        for value in self.network.state_dict().values():
            start.update(value.cpu().contiguous().numpy().tobytes())
        described = [data_sha256, start.hexdigest(), asdict(settings), config.model.backbone, self._seed]
        self._identity = hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def resume(self) -> list[Path]:
        """Resume from the newest intact checkpoint, if there is one; return the damaged ones that were skipped.

        Raises:
            MedoodError: it belongs to another run.
        """
        loaded, damaged = load_newest(self._folder)
        if loaded is None:
            return damaged
        tensors, state = loaded
        if state["identity"] != self._identity:
            raise MedoodError(
                f"The checkpoint in {self._folder} belongs to a run of another configuration or other images. Resume with "
                "the same ones, or train anew without --resume."
            )
        load_module("network", self.network, tensors)
        load_module("average", self.average, tensors)
        load_optimizer(self._optimizer, tensors)
        self.next_step = int(state["step"])
        return damaged

    def fit(self, on_step: Callable[[float], None] | None = None) -> LesionNetwork:
        """Train to the end.

        Args:
            on_step: called after each step with its loss.

        Returns:
            the average of the weights over the last steps, on the CPU.

        Raises:
            CollapseError: the loss is not a number.
        """
        if self.next_step == 0:
            remove_checkpoints(self._folder)
        views = self._views(self.next_step) if self.next_step < self.steps else None
        for step in range(self.next_step, self.steps):
            assert views is not None
            loss = self._take_step(step, views)
            with self._beside.work():
                views = self._views(step + 1) if step + 1 < self.steps else None
            self._beside.hand_over(vars(views).values() if views else ())
            if not math.isfinite(float(loss)):  # waits for the device
                raise CollapseError(
                    f"The lesion network's loss is not a number at step {step}. Lower lesions.learning_rate."
                )
            if on_step:
                on_step(float(loss))
            is_last = step + 1 == self.steps
            if (step + 1) % self.steps_per_epoch == 0 and (is_last or self._interval.is_due()):
                with self._interval.timed():
                    self._save(step + 1)
        return self.average.cpu()

    def _take_step(self, step: int, views: LesionViews) -> Tensor:
        settings = self._settings
        for group in self._optimizer.param_groups:
            group["lr"] = warmup_cosine(step, self.steps, min(_WARMUP, self.steps // 10), settings.learning_rate, 0.0)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            outputs = self.network(views.frames)
        loss = lesion_loss(outputs, views)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), _GRADIENT_CLIP)
        self._optimizer.step()
        update_teacher(self.average, self.network, min(settings.momentum, (step + 1) / (step + 10)))
        return loss.detach()

    @torch.no_grad()
    def _views(self, step: int) -> LesionViews:
        epoch, index = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self._seed, _STREAM, epoch]).permutation(len(self._images))
        rows = np.sort(order[index * self._batch : (index + 1) * self._batch])
        images = torch.from_numpy(self._images[rows]).to(self._device).float().div_(255.0)[:, None]
        generator = Generator().manual_seed(mix_seed(self._seed, _STREAM, step, 0))
        settings, fault = self._settings, torch.zeros(len(rows), dtype=torch.int64)
        if self._faults is not None:
            images, fault = plant_faults(images, self._faults, settings.faulty, generator)
        assert self._mixture is not None
        places = self._registration.places(images)
        return lesion_views(images, fault, places, self._mixture, settings.healthy, settings.size, self._cell, generator)

    def _save(self, step: int) -> None:
        tensors = {
            **module_tensors("network", self.network),
            **module_tensors("average", self.average),
            **optimizer_tensors(self._optimizer),
        }
        save_checkpoint(self._folder, step, tensors, {"step": step, "identity": self._identity})


def _load(network: LesionNetwork, path: str) -> None:
    """Load the weights of a lesion network, alone or in a detector's ``network.safetensors``.

    Raises:
        MedoodError: the file does not hold one of this shape.
    """
    try:
        tensors = load_file(path)
        inside = {name.removeprefix("lesions."): value for name, value in tensors.items() if name.startswith("lesions.")}
        network.load_state_dict({name: value.float() for name, value in (inside or tensors).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise MedoodError(
            f"lesions.weights: {path} holds no lesion network for this backbone: {str(error)[:300]}."
        ) from error
