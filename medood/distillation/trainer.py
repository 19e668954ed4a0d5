"""The training loop. Every random number follows from (seed, step), so that a resumed run equals one never interrupted."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medood.distillation import loss as losses
from medood.distillation.checkpoint import (
    load_module,
    load_newest,
    load_optimizer,
    module_tensors,
    optimizer_tensors,
    remove_checkpoints,
    save_checkpoint,
)
from medood.distillation.collapse import CollapseError, CollapseWatch, effective_rank
from medood.distillation.network import Network, student_and_teacher, update_teacher
from medood.distillation.schedules import cosine, linear, warmup_cosine
from medood.distillation.views import acquire, crop, sample_view, to_device
from medood.errors import MedoodError
from medood.negatives.mix import Mixture
from medood.schema import RunConfig

Metrics = dict[str, float]


class Pictures(Protocol):
    """uint8 ``[N, S, S]`` pictures, read row by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The pictures of some rows."""
        ...


#: Rows of teacher features kept for the effective rank.
_RANK_ROWS = 2048


@dataclass
class StepViews:
    """Views of one step: ``[V * B, 1, s, s]`` tensors, view by view."""

    positives: Tensor
    locals: Tensor | None
    negatives: Tensor | None


def machine(config: RunConfig) -> tuple[str, str]:
    """Device and precision of a run, ``auto`` resolved: a GPU where there is one, and bf16 where the GPU has it.

    Raises:
        MedoodError: a GPU is asked for and there is none.
    """
    device, precision = config.train.device, config.train.precision
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise MedoodError("train.device is cuda, but torch sees no GPU. Use train.device=cpu or look at nvidia-smi.")
    if precision == "auto":
        precision = "bf16-mixed" if device == "cuda" and torch.cuda.is_bf16_supported() else "32-true"
    return device, precision


class Trainer:
    """Self-distillation of one network.

    Args:
        config: the run.
        pictures: uint8 ``[N, S, S]`` training pictures, S being ``views.source_size``.
        folder: where checkpoints, ``training.csv`` and TensorBoard events go.
        data_sha256: says which pictures these are; a run is only resumed on the same.

    Raises:
        MedoodError: there are too few pictures for a batch of 2, or the configuration does not fit the device.
    """

    def __init__(self, config: RunConfig, pictures: Pictures, folder: Path, data_sha256: str = "") -> None:
        if len(pictures) < 2:
            raise MedoodError(f"Training needs at least 2 pictures, got {len(pictures)}; give data.root more scans.")
        self.config = config
        self.pictures = pictures
        self.folder = folder
        self.identity = _identity(config, data_sha256 or str(len(pictures)))
        self.device, self.precision = machine(config)
        if config.train.threads > 0:
            torch.set_num_threads(config.train.threads)
        devices = "auto" if self.device == "cuda" else 1
        self.fabric = Fabric(accelerator=self.device, devices=devices, precision=self.precision)  # type: ignore[arg-type]
        self.fabric.launch()
        batch = min(config.train.batch_size, len(pictures))
        if batch % self.fabric.world_size:
            raise MedoodError(f"train.batch_size is {batch}; it must be a multiple of {self.fabric.world_size} processes.")
        self.batch = batch
        self.steps_per_epoch = len(pictures) // batch
        self.steps = self.steps_per_epoch * config.train.epochs
        self.mixture = Mixture(config.negatives.mixture) if config.negatives.mixture else None
        torch.manual_seed(config.train.seed)
        student, self.teacher = student_and_teacher(config.model, config.preprocess.size)
        self.center = torch.zeros(config.model.out_dim, device=self.fabric.device)
        self.teacher.to(self.fabric.device)
        optimizer = torch.optim.AdamW(_parameter_groups(student), lr=1.0)
        self.student, self.optimizer = self.fabric.setup(student, optimizer)
        self.next_epoch = 0
        self._watch = CollapseWatch(config.model.out_dim)
        self._recent: list[Tensor] = []

    def resume(self) -> list[Path]:
        """Go on from the newest whole checkpoint, if there is one; return the damaged ones passed over."""
        loaded, damaged = load_newest(self.folder / "checkpoints")
        if loaded is None:
            return damaged
        tensors, state = loaded
        if state["identity"] != self.identity:
            raise MedoodError(
                f"The checkpoint in {self.folder} belongs to a run of another configuration or other pictures. Resume with "
                "the same ones, or train anew without --resume."
            )
        load_module("student", self.student.module, tensors)
        load_module("teacher", self.teacher, tensors)
        load_optimizer(self.optimizer, tensors)
        self.center = tensors["center"].to(self.fabric.device)
        self.next_epoch = int(state["epoch"]) + 1
        return damaged

    def fit(self, on_step: Callable[[int, int, Metrics], None] | None = None) -> Network:
        """Train to the end.

        Args:
            on_step: called after each step with the step, the number of steps, and the metrics.

        Returns:
            the teacher, in evaluation mode.

        Raises:
            CollapseError: every output is the same, or the loss is not a number.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.next_epoch == 0:
            remove_checkpoints(self.folder / "checkpoints")
        log = _Log(self.folder, self.next_epoch * self.steps_per_epoch) if self.fabric.is_global_zero else None
        self.student.train()
        try:
            for epoch in range(self.next_epoch, self.config.train.epochs):
                order = np.random.default_rng([self.config.train.seed, 1, epoch]).permutation(len(self.pictures))
                for index in range(self.steps_per_epoch):
                    step = epoch * self.steps_per_epoch + index
                    started = time.perf_counter()
                    rows = order[index * self.batch : (index + 1) * self.batch]
                    metrics = self._step(step, np.sort(rows[self.fabric.global_rank :: self.fabric.world_size]))
                    metrics["images_per_second"] = self.batch / (time.perf_counter() - started)
                    if index == self.steps_per_epoch - 1:
                        metrics["effective_rank"] = effective_rank(torch.cat(self._recent))
                    if log:
                        log.write(step, metrics)
                    if on_step:
                        on_step(step, self.steps, metrics)
                self._save(epoch)
        finally:
            if log:
                log.close()
        return self.teacher

    def _step(self, step: int, rows: npt.NDArray[np.int64]) -> Metrics:
        settings = self.config.train
        values = self._scheduled(step)
        for group in self.optimizer.param_groups:
            group["lr"] = values["learning_rate"]
            group["weight_decay"] = values["weight_decay"] if group["decayed"] else 0.0
        views = self._views(step, rows)
        torch.manual_seed(_mix_seed(settings.seed, 3, step, self.fabric.global_rank))  # stochastic depth
        batch, count = len(rows), self.config.views.global_count

        with torch.no_grad(), self.fabric.autocast():
            features = self.teacher.features(views.positives)
            outputs = self.teacher.head(features).float().view(count, batch, -1)
        teacher = losses.teacher_distribution(outputs, self.center, values["teacher_temperature"])
        self._recent = [*self._recent, features.detach().float()][-max(1, _RANK_ROWS // len(features)) :]

        large = views.positives if views.negatives is None else torch.cat([views.positives, views.negatives])
        results = self.student([large] if views.locals is None else [large, views.locals])
        student = results[0][: count * batch].view(count, batch, -1)
        if views.locals is not None:
            student = torch.cat([student, results[1].view(-1, batch, student.shape[-1])])
        positive = losses.positive_loss(teacher, student, settings.student_temperature)
        total = positive
        metrics: Metrics = {"loss_positive": float(positive.detach())}
        if views.negatives is not None:
            negative = losses.negative_loss(results[0][count * batch :], settings.student_temperature)
            total = total + self.config.negatives.weight * negative
            metrics["kl_negatives"] = float(negative.detach())
        if not math.isfinite(float(total.detach())):
            raise CollapseError(
                f"The loss is not a number at step {step}. Lower train.learning_rate or use train.precision=32-true."
            )
        self.optimizer.zero_grad()
        self.fabric.backward(total)
        if step < settings.freeze_last_layer * self.steps:
            self.student.module.head.prototypes.weight.grad = None
        norm = self.fabric.clip_gradients(self.student, self.optimizer, max_norm=settings.gradient_clip)
        self.optimizer.step()
        update_teacher(self.teacher, self.student.module, values["teacher_momentum"])
        mean_output = self.fabric.all_reduce(outputs.mean(dim=(0, 1)), reduce_op="mean")
        assert isinstance(mean_output, Tensor)
        self.center = losses.update_center(self.center, mean_output, settings.center_momentum)

        mean = teacher.mean(dim=(0, 1))
        metrics |= {
            "loss": float(total.detach()),
            "teacher_entropy": float(losses.entropy(teacher).mean()),
            "mean_entropy": float(losses.entropy(mean)),
            "prototypes_in_use": float((mean > 0.1 / len(mean)).sum()),
            "gradient_norm": float(norm) if isinstance(norm, Tensor) else 0.0,
            **values,
        }
        self._watch.update(metrics["teacher_entropy"], metrics["mean_entropy"])
        return metrics

    def _scheduled(self, step: int) -> Metrics:
        settings = self.config.train
        return {
            "learning_rate": warmup_cosine(
                step,
                self.steps,
                round(settings.warmup * self.steps),
                settings.learning_rate * self.batch / 256,
                settings.final_learning_rate,
            ),
            "weight_decay": cosine(step, self.steps, *settings.weight_decay),
            "teacher_momentum": cosine(step, self.steps, *settings.teacher_momentum),
            "teacher_temperature": linear(step, round(settings.teacher_cooling * self.steps), *settings.teacher_temperature),
        }

    def _views(self, step: int, rows: npt.NDArray[np.int64]) -> StepViews:
        generator = torch.Generator().manual_seed(_mix_seed(self.config.train.seed, 2, step, self.fabric.global_rank))
        config, size, device = self.config.views, self.config.preprocess.size, self.fabric.device
        source = torch.from_numpy(self.pictures[rows]).to(device).float().div_(255.0)[:, None]
        positives = self._crops(source, config.global_count, config.global_scale, size, generator)
        local = None
        if config.local_count:
            local = self._crops(source, config.local_count, config.local_scale, config.local_size, generator)
        negatives = None
        if self.mixture and self.config.negatives.count:
            shifted = []
            for _ in range(self.config.negatives.count):
                drawn = to_device(sample_view(len(source), self.config.negatives.scale, config, generator), device)
                plain = crop(source, drawn, size)
                draw = self.mixture.sample(len(source), size, generator)
                shifted.append(acquire(self.mixture.apply(plain, draw), drawn))
            negatives = torch.cat(shifted)
        return StepViews(positives, local, negatives)

    def _crops(self, source: Tensor, count: int, scale: list[float], side: int, generator: torch.Generator) -> Tensor:
        views = []
        for _ in range(count):
            drawn = sample_view(len(source), scale, self.config.views, generator)
            drawn = to_device(drawn, source.device)
            views.append(acquire(crop(source, drawn, side), drawn))
        return torch.cat(views)

    def _save(self, epoch: int) -> None:
        if not self.fabric.is_global_zero:
            return
        tensors = {
            **module_tensors("student", self.student.module),
            **module_tensors("teacher", self.teacher),
            **optimizer_tensors(self.optimizer),
            "center": self.center.clone(),
        }
        state: dict[str, Any] = {"epoch": epoch, "identity": self.identity}
        save_checkpoint(self.folder / "checkpoints", epoch, tensors, state)


class _Log:
    """``training.csv`` and TensorBoard events; steps that a resumed run takes again are written over."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "training.csv"
        lines = path.read_text().splitlines(keepends=True) if first_step and path.exists() else []
        self._begun = [line for i, line in enumerate(lines) if i == 0 or int(line.split(",")[0]) < first_step]
        self._stream = path.open("w", buffering=1, newline="")
        self._stream.writelines(self._begun)
        self._writer: csv.DictWriter[str] | None = None
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)

    def write(self, step: int, metrics: Metrics) -> None:
        columns = ["step", *(name for name in metrics if name != "effective_rank"), "effective_rank"]
        if self._writer is None:
            self._writer = csv.DictWriter(self._stream, columns)
            if not self._begun:
                self._writer.writeheader()
        self._writer.writerow({"step": step} | {name: f"{value:.6g}" for name, value in metrics.items()})
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._stream.close()
        self._events.close()


def _parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels, none on biases, norms and other vectors."""
    named = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    decayed = [value for name, value in named if value.ndim > 1 and "token" not in name and "pos_embed" not in name]
    plain = [value for name, value in named if value.ndim <= 1 or "token" in name or "pos_embed" in name]
    return [{"params": decayed, "decayed": True}, {"params": plain, "decayed": False}]


def _identity(config: RunConfig, data: str) -> str:
    """SHA-256 over everything that the weights of a run depend on: what a checkpoint must share to be resumed."""
    parts = [asdict(config.model), asdict(config.views), asdict(config.negatives), asdict(config.train)]
    return hashlib.sha256(json.dumps([data, config.preprocess.size, config.preprocess.fit, *parts]).encode()).hexdigest()


def _mix_seed(*parts: int) -> int:
    """One 63-bit seed out of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
