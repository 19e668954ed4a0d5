"""The training loop. Every random number derives from (seed, step), so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medood.config.schema import RunConfig
from medood.distillation import losses as losses
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
from medood.distillation.collapse import CollapseError, CollapseWatch, effective_rank
from medood.distillation.data_defaults import resolve_defaults
from medood.distillation.multi_crop import ImageArray, StepViews, ViewMaker, mix_seed
from medood.distillation.network import Network, check_bfloat16, student_and_teacher, update_teacher
from medood.distillation.schedules import cosine, linear, warmup_cosine
from medood.distillation.training_log import Metrics, TrainingLog
from medood.errors import ExitCode, MedoodError

#: Rows of teacher features kept for the effective rank.
_RANK_ROWS = 2048


class TerminatedError(MedoodError):
    """The run was stopped by SIGTERM; a checkpoint is saved."""

    exit_code = ExitCode.TERMINATED


def machine(config: RunConfig) -> tuple[str, str]:
    """Device and precision of a run; ``auto`` selects a GPU if there is one, and bf16 if the GPU supports it.

    Raises:
        MedoodError: a GPU is requested but none is available.
    """
    device, precision = config.train.device, config.train.precision
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise MedoodError("train.device is cuda, but torch sees no GPU. Use train.device=cpu or check nvidia-smi.")
    if precision == "auto":
        precision = "bf16-mixed" if device == "cuda" and torch.cuda.is_bf16_supported() else "32-true"
    return device, precision


class Trainer:
    """Self-distillation of one network.

    Args:
        config: configuration of the run.
        images: uint8 ``[N, S, S]`` training images, S being ``views.source_size``.
        folder: where checkpoints, ``training.csv`` and TensorBoard events go.
        data_sha256: digest that identifies the images; a run can only be resumed on the same ones.
        auxiliary: uint8 ``[M, S, S]`` images to make negatives from, if ``negatives.sources`` requires them.

    Attributes:
        config: the configuration with all data-dependent settings resolved; ``resolved_defaults`` lists them.

    Raises:
        MedoodError: there are too few images for a batch of 2, or the configuration does not fit the device.
    """

    def __init__(
        self, config: RunConfig, images: ImageArray, folder: Path, data_sha256: str = "", auxiliary: ImageArray | None = None
    ) -> None:
        if len(images) < 2:
            raise MedoodError(f"Training needs at least 2 images, got {len(images)}; give data.root more scans.")
        config, self.resolved_defaults = resolve_defaults(config, len(images))
        self.config = config
        self.images = images
        self.folder = folder
        self.identity = _identity(config, data_sha256 or str(len(images)))
        self.device, self.precision = machine(config)
        if config.train.threads > 0:
            torch.set_num_threads(config.train.threads)
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))  # set by torchrun
        self.fabric = Fabric(
            accelerator=self.device,
            devices=local_processes or ("auto" if self.device == "cuda" else 1),
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
            precision=self.precision,  # type: ignore[arg-type]
        )
        self.fabric.launch()
        batch = min(config.train.batch_size, len(images))
        if batch % self.fabric.world_size:
            raise MedoodError(f"train.batch_size is {batch}; it must be a multiple of {self.fabric.world_size} processes.")
        self.batch = batch
        self.steps_per_epoch = len(images) // batch
        self.steps = 0 if config.model.frozen else self.steps_per_epoch * config.train.epochs
        self.views = ViewMaker(
            config, images, auxiliary, self.fabric.device, self.fabric.global_rank, self.fabric.world_size
        )
        torch.manual_seed(config.train.seed)
        student, self.teacher = student_and_teacher(config.model, config.network_size, config.preprocess.channels)
        if (self.device, self.precision) == ("cpu", "bf16-mixed"):
            sides = [config.network_size, *([config.views.local_size] if config.views.local_count else [])]
            check_bfloat16(student, config.preprocess.channels, sides)
        self.center = torch.zeros(config.model.out_dim, device=self.fabric.device)
        for network in (student, self.teacher):
            network.to(memory_format=torch.channels_last)  # the faster one for convolutions in bf16
        self.teacher.to(self.fabric.device)
        if config.train.compile:
            for network in (student, self.teacher):
                network.backbone.compile(dynamic=False)  # one graph for each size of view
        optimizer = torch.optim.AdamW(_parameter_groups(student), lr=1.0)
        self.student, self.optimizer = self.fabric.setup(student, optimizer)
        self.next_step = 0
        self._interval = CheckpointInterval()
        self._terminated = False
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.zeros(0, dtype=np.int64))
        self._watch = CollapseWatch(config.model.out_dim)
        self._recent: list[Tensor] = []

    def resume(self) -> list[Path]:
        """Resume from the newest intact checkpoint, if there is one; return the damaged ones that were skipped."""
        loaded, damaged = load_newest(self.folder / "checkpoints")
        if loaded is None:
            return damaged
        tensors, state = loaded
        if state["identity"] != self.identity:
            raise MedoodError(
                f"The checkpoint in {self.folder} belongs to a run of another configuration or other images. Resume with "
                "the same ones, or train anew without --resume."
            )
        load_module("student", self.student.module, tensors)
        load_module("teacher", self.teacher, tensors)
        load_optimizer(self.optimizer, tensors)
        self.center = tensors["center"].to(self.fabric.device)
        self.next_step = int(state["step"])
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
        if self.next_step == 0 and self.fabric.is_global_zero:
            remove_checkpoints(self.folder / "checkpoints")
        log = TrainingLog(self.folder, self.next_step) if self.fabric.is_global_zero else None
        stop_after = 0  # the step after which SIGTERM stops the run; 0 if none
        self.student.train()
        try:
            with self._catching_sigterm():
                for step in range(self.next_step, self.steps):
                    started = time.perf_counter()
                    metrics = self.take_step(step, self.rows_of(step))
                    metrics["images_per_second"] = self.batch / (time.perf_counter() - started)
                    last_of_epoch = (step + 1) % self.steps_per_epoch == 0
                    if last_of_epoch:
                        metrics["effective_rank"] = effective_rank(torch.cat(self._recent))
                    if log:
                        log.write(step, metrics)
                    if on_step:
                        on_step(step, self.steps, metrics)
                    stop_after = step + 1 if self._asked_to_end() else 0
                    is_last = step + 1 == self.steps
                    if (last_of_epoch and (is_last or self._interval.is_due())) or stop_after:
                        with self._interval.timed():
                            self._save(step + 1)
                    if stop_after:
                        break
        finally:
            if log:
                log.close()
        if self.fabric.world_size > 1:
            self._leave_group()
        if stop_after:
            raise TerminatedError(f"Stopped after step {stop_after} of {self.steps}; go on with --resume.")
        return self.teacher.to(memory_format=torch.contiguous_format)  # as it will be loaded, to the last bit

    def _leave_group(self) -> None:
        """Destroy the process group before Python exits: Gloo's threads abort a process that exits before they are done.

        The group lives as long as an object refers to it, so the wrapped student is deleted first.
        """
        del self.student, self.optimizer
        gc.collect()
        torch.distributed.destroy_process_group()

    def _asked_to_end(self) -> bool:
        """Whether any process received SIGTERM, so that all stop after the same step."""
        if self.fabric.world_size == 1:
            return self._terminated
        return float(self._mean(torch.tensor(float(self._terminated), device=self.fabric.device))) > 0

    def rows_of(self, step: int) -> npt.NDArray[np.int64]:
        """Indices of a step's images, for all processes, in ascending order, so that they lie close together on disk."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            generator = np.random.default_rng([self.config.train.seed, 1, epoch])
            self._order = epoch, generator.permutation(len(self.images))
        return np.sort(self._order[1][index * self.batch : (index + 1) * self.batch])

    @contextlib.contextmanager
    def _catching_sigterm(self) -> Iterator[None]:
        """Finish the step in progress on SIGTERM before stopping; only the main thread can install the handler."""

        def note(*_: object) -> None:
            self._terminated = True

        try:
            before = signal.signal(signal.SIGTERM, note)
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def take_step(self, step: int, rows: npt.NDArray[np.int64]) -> Metrics:
        """Train one step on the images in ``rows``: forward, backward, update of student, teacher and centre."""
        settings = self.config.train
        values = self._set_schedules(step)
        for group in self.optimizer.param_groups:
            group["lr"] = values["learning_rate"]
            group["weight_decay"] = values["weight_decay"] if group["decayed"] else 0.0
        views = self.views.take(step, rows)
        torch.manual_seed(mix_seed(settings.seed, 3, step, self.fabric.global_rank))  # stochastic depth
        batch, count = len(rows) // self.fabric.world_size, self.config.views.global_count

        with torch.no_grad(), self.fabric.autocast():
            features = self.teacher.features(views.positives)
            outputs = self.teacher.head(features).float().view(count, batch, -1)
        teacher = self._targets(outputs, values["teacher_temperature"])
        self._recent = [*self._recent, features.detach().float()][-max(1, _RANK_ROWS // len(features)) :]

        self.optimizer.zero_grad()
        terms: dict[str, Tensor] = {}
        pieces = [slice(start, stop) for start, stop in _pieces(batch, settings.accumulate)]
        for i, piece in enumerate(pieces):
            with self.fabric.no_backward_sync(self.student, enabled=self.fabric.world_size > 1 and i < len(pieces) - 1):
                share = (piece.stop - piece.start) / batch
                piece_terms, total = self._losses(views.part(piece, batch), teacher[:, piece])
                self.fabric.backward(total * share)
            for name, value in piece_terms.items():
                terms[name] = terms.get(name, torch.zeros_like(value)) + share * value
        if step < settings.freeze_last_layer * self.steps:
            self.student.module.head.prototypes.weight.grad = None
        norm = self.fabric.clip_gradients(
            self.student, self.optimizer, max_norm=settings.gradient_clip, error_if_nonfinite=False
        )
        self.optimizer.step()
        update_teacher(self.teacher, self.student.module, values["teacher_momentum"])
        self.center = losses.update_center(self.center, self._mean(outputs.mean(dim=(0, 1))), settings.center_momentum)

        mean = self._mean(teacher.mean(dim=(0, 1)))
        terms["teacher_entropy"] = losses.entropy(teacher).mean()
        averaged = self._mean(torch.stack([value.detach().double() for value in terms.values()]))
        if step + 1 < self.steps:
            self.views.prepare(step + 1, self.rows_of(step + 1))
        metrics: Metrics = dict(zip(terms, averaged.tolist(), strict=True))  # waits for the device
        metrics |= {
            "mean_entropy": float(losses.entropy(mean)),
            "prototypes_in_use": float((mean > 0.1 / len(mean)).sum()),
            "gradient_norm": float(norm) if isinstance(norm, Tensor) else 0.0,
            **values,
        }
        if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["gradient_norm"])):
            raise CollapseError(
                f"The loss is not a number at step {step}. Lower train.learning_rate or use train.precision=32-true."
            )
        self._watch.update(metrics["teacher_entropy"], metrics["mean_entropy"])
        return metrics

    def _targets(self, outputs: Tensor, temperature: float) -> Tensor:
        """The teacher's distributions ``[T, B, K]``."""
        if self.config.train.centering == "mean":
            return losses.teacher_distribution(outputs, self.center, temperature)
        every = self.fabric.all_gather(outputs)
        assert isinstance(every, Tensor)
        every = every.view(self.fabric.world_size, -1, outputs.shape[-1])
        shared = losses.sinkhorn_distribution(every.flatten(0, 1), temperature).view_as(every)
        return shared[self.fabric.global_rank].view_as(outputs)

    def _mean(self, value: Tensor) -> Tensor:
        """Mean over processes."""
        mean = self.fabric.all_reduce(value, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def _losses(self, views: StepViews, teacher: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The student's losses on some of the images: each term, and their weighted sum with its gradient."""
        settings, (count, batch, _) = self.config.train, teacher.shape
        large = views.positives if views.negatives is None else torch.cat([views.positives, views.negatives])
        small = [part for part in (views.locals, views.local_negatives) if part is not None]
        rows = self.student([large, torch.cat(small)] if small else [large])
        features, outputs, turns = rows[0]
        student, negatives = outputs[: count * batch].view(count, batch, -1), outputs[count * batch :]
        if small:
            local, local_negatives = rows[1][1].tensor_split([0 if views.locals is None else len(views.locals)])
            student = torch.cat([student, local.view(-1, batch, student.shape[-1])])
            negatives = torch.cat([negatives, local_negatives])
        total = losses.positive_loss(teacher, student, settings.student_temperature)
        terms = {"loss": total, "loss_positive": total}
        if len(negatives):
            negative = losses.negative_loss(negatives, settings.student_temperature)
            total = total + self.config.negatives.weight * negative
            terms["kl_negatives"] = negative
        if turns is not None and views.turns is not None:
            rotation = losses.rotation_loss(turns, views.turns)
            total = total + rotation
            terms["loss_rotation"] = rotation
        if settings.koleo > 0 and batch > 1:
            koleo_terms = [losses.koleo_loss(view) for view in features[: count * batch].view(count, batch, -1)]
            spread = torch.stack(koleo_terms).mean()
            total = total + settings.koleo * spread
            terms["koleo"] = spread
        terms["loss"] = total
        return {name: value.detach() for name, value in terms.items()}, total

    def _set_schedules(self, step: int) -> Metrics:
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

    def _save(self, step: int) -> None:
        if not self.fabric.is_global_zero:
            return
        tensors = {
            **module_tensors("student", self.student.module),
            **module_tensors("teacher", self.teacher),
            **optimizer_tensors(self.optimizer),
            "center": self.center.clone(),
        }
        state: dict[str, Any] = {"step": step, "identity": self.identity}
        save_checkpoint(self.folder / "checkpoints", step, tensors, state)


def _parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups: weight decay on matrices and kernels, none on biases, norms and other vectors."""
    parameters = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    decayed = [value for name, value in parameters if value.ndim > 1 and "token" not in name and "pos_embed" not in name]
    plain = [value for name, value in parameters if value.ndim <= 1 or "token" in name or "pos_embed" in name]
    return [{"params": decayed, "decayed": True}, {"params": plain, "decayed": False}]


_LATER_KEYS = {"mirror", "saturation", "hue", "local_count", "rotation_head"}


def _identity(config: RunConfig, data: str) -> str:
    """SHA-256 over everything that a run's weights depend on; a checkpoint can only be resumed if it matches."""
    parts = [asdict(config.model), asdict(config.views), asdict(config.negatives), asdict(config.train)]
    for group in parts:  # keys of later versions, at the values that change nothing: earlier checkpoints stay good
        for name in _LATER_KEYS & {key for key, value in group.items() if value == 0}:
            del group[name]
    if config.preprocess.channels != 1:
        parts.append({"channels": config.preprocess.channels})
    return hashlib.sha256(json.dumps([data, config.network_size, config.preprocess.fit, *parts]).encode()).hexdigest()


def _pieces(batch: int, count: int) -> Iterator[tuple[int, int]]:
    """Bounds of ``count`` pieces of a batch, as equal as possible, none empty."""
    edges = np.linspace(0, batch, min(count, batch) + 1).round().astype(int).tolist()
    yield from itertools.pairwise(edges)
