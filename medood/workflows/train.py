"""Train a detector folder from in-distribution scans: cache, self-distillation, bank, calibration, evidence scale."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medood.config.schema import RunConfig
from medood.detection.appearance import MAX_IMAGES, Appearance
from medood.detection.calibration import Calibration, digests, empty, fingerprint
from medood.detection.detector import Detector, LearnedScans
from medood.detection.detector_folder import TRAINING, DetectorMetadata
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import Features, embed
from medood.detection.lesions.network import LesionNetwork
from medood.detection.lesions.training import LesionTrainer
from medood.detection.perceptual_hash import difference_hashes
from medood.detection.registration import Track
from medood.detection.score_selection import Reactions, choose, reactions, reduce_bank, rows_at, separations
from medood.detection.scores import SCORES, fit_all
from medood.distillation.collapse import effective_rank
from medood.distillation.trainer import Trainer
from medood.distillation.training_log import Metrics, TrainingLog
from medood.errors import MedoodError
from medood.evidence.evidence_maps import learn_evidence
from medood.evidence.padim import MAX_SCANS
from medood.output_folder import new_folder
from medood.progress import Bar, Progress
from medood.scans.lazy_arrays import RowSubset
from medood.workflows.model_card import write_card
from medood.workflows.preflight import check_training
from medood.workflows.training_data import TrainingData, auxiliary_images, to_input, training_data

#: Number of calibration scans whose evidence maps set the evidence scale.
_CAM_SCANS = 256
#: Mean AUROC on shifted development scans below which training prints a warning.
_NEAR_CHANCE = 0.7
#: Images registered at a time.
_REGISTERED = 500


def train(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train a detector.

    Args:
        config: the run configuration; ``data.root`` is required.
        resume: continue from the newest intact checkpoint in ``out``.
        progress: progress display; ``None`` is quiet.

    Returns:
        the detector's folder, ``out``.

    Raises:
        MedoodError: the data or the configuration is unusable, or training collapsed.
    """
    alone = os.environ.get("RANK", "0") == "0"  # set by torchrun
    progress = progress if progress and alone else Progress(quiet=True)
    check_training(config, resume=resume)
    if config.detector.score not in ("auto", *SCORES):
        raise MedoodError(f"detector.score is {config.detector.score!r}; expected auto or one of {', '.join(SCORES)}.")
    out = Path(config.out)
    with new_folder(out) as keep:
        return _train(config, out, keep, resume=resume, progress=progress)


def _train(config: RunConfig, out: Path, keep: Callable[[], None], *, resume: bool, progress: Progress) -> Path:
    data = training_data(config, progress)
    inputs, training = data.inputs, data.training
    training_keys = [inputs.keys[i] for i in training]
    members = [_member(folder, config, fingerprint(training_keys)) for folder in config.detector.members]
    auxiliary = auxiliary_images(config, data.source, progress)
    trainer = Trainer(config, RowSubset(data.source.images, training), out, fingerprint(training_keys), auxiliary)
    config = trainer.config
    for line in trainer.resolved_defaults:
        progress.say(line)
    progress.say(f"device {trainer.device}, precision {trainer.precision}")
    if resume:
        for path in trainer.resume():
            progress.say(f"{path} is damaged; using the checkpoint before it")
    last: Metrics = {}
    keep()
    with progress.bar(trainer.steps, "training") as bar:
        bar(trainer.next_step, "")
        trained = trainer.fit(lambda step, steps, metrics: _show(bar, last, metrics))
    if not trainer.fabric.is_global_zero:
        return out  # only rank 0 writes the detector
    last = last or TrainingLog.last(out)  # a resumed run that was already finished trains no step
    network = EnsembleNetwork(trained.to("cpu"), config.preprocess.crops)
    network.members.extend(member.network for member in members)
    if config.detector.appearance:
        images = to_input(inputs.images[training[:: -(-len(training) // MAX_IMAGES)]])
        network.appearance = Appearance()
        network.appearance.fit(images, config.train.seed, _track(progress))
    if config.lesions.epochs or config.lesions.weights:
        network.lesions = _train_lesions(config, network, data, trainer, resume=resume, progress=progress)
    if config.detector.half:
        network.half().float()

    bank = embed(network, to_input(inputs.images[training]), orientations=False)
    if config.detector.half:
        bank = replace(bank, features=bank.features.half().float())
    rank = effective_rank(bank.features)
    detector, table = _detector(config, network, bank, data, progress)
    calibration_inputs = to_input(data.calibration)
    rows = embed(network, calibration_inputs)
    detector.calibration = Calibration(
        TRAINING,
        detector.raw_scores(rows),
        rows.features,
        torch.from_numpy(difference_hashes(calibration_inputs)),
        fingerprint(data.calibration_keys),
        keys=torch.from_numpy(digests(data.calibration_keys)),
    )
    learn_evidence(
        detector,
        to_input(inputs.images[training[:: -(-len(training) // MAX_SCANS)]]),
        to_input(inputs.images[data.development]),
        calibration_inputs[:_CAM_SCANS],
    )
    detector.metadata = DetectorMetadata(
        data={
            "training_scans": len(training),
            "development_scans": len(data.development),
            "calibration_scans": len(data.calibration_keys),
            "training_sha256": fingerprint(training_keys),
            "calibration_sha256": fingerprint(data.calibration_keys),
            "left_out": inputs.refused,
        },
        training={name: round(value, 6) for name, value in last.items() if name != "images_per_second"}
        | {"feature_effective_rank": round(rank, 2), "steps": trainer.steps}
        | {"device": trainer.device, "precision": trainer.precision},
        score_choice={name: {shift: round(value, 4) for shift, value in values.items()} for name, values in table.items()},
        config=_portable(config, members),
    )
    detector.save(out)
    write_card(detector, out)
    progress.say(f"effective rank of the features: {rank:.1f}; detector: {out}")
    return out


def _train_lesions(
    config: RunConfig, network: EnsembleNetwork, data: TrainingData, first: Trainer, *, resume: bool, progress: Progress
) -> LesionNetwork:
    """Train the lesion network from the network's backbone, on the training images in the frames of the appearance model."""
    assert network.appearance is not None
    trainer = LesionTrainer(
        config,
        network.backbone.state_dict(),
        RowSubset(data.source.images, data.training),
        network.appearance.registration,
        first.folder / "checkpoints" / "lesions",
        first.device,
        first.precision,
        fingerprint([data.source.keys[i] for i in data.training]),
    )
    if resume:
        for path in trainer.resume():
            progress.say(f"{path} is damaged; using the checkpoint before it")
    with progress.bar(trainer.steps, "training on lesions") as bar:
        bar(trainer.next_step, "")
        return trainer.fit(lambda loss: bar(1, f"loss {loss:.3f}"))


def _member(folder: str, config: RunConfig, training_sha256: str) -> Detector:
    """Load a detector as an ensemble member; see ``detector.members``.

    Raises:
        MedoodError: it preprocesses radiographs differently, has members itself, or was trained on other radiographs, which
            could include this run's development radiographs.
    """
    member = Detector.load(folder)
    own = (config.preprocess.fit, config.preprocess.equalize, config.preprocess.channels)
    member_settings = (member.preprocess.fit, member.preprocess.equalize, member.preprocess.channels)
    if own != member_settings:
        raise MedoodError(
            f"detector.members: {folder} was trained with preprocess.fit, preprocess.equalize, preprocess.channels "
            f"{member_settings}, not {own} as here."
        )
    if member.network.members:
        raise MedoodError(f"detector.members: {folder} has members itself. Name those instead.")
    member.network.appearance = None  # the ensemble uses this run's own, if any
    if member.metadata.data["training_sha256"] != training_sha256:
        raise MedoodError(
            f"detector.members: {folder} was trained on other radiographs than this run. Train it with the same data.root, "
            "data.development_fraction, data.calibration_fraction and data.split_seed."
        )
    return member


def _detector(
    config: RunConfig, network: EnsembleNetwork, bank: Features, data: TrainingData, progress: Progress
) -> tuple[Detector, Reactions]:
    """A detector with an empty calibration, and the AUROC table by which its score was chosen."""
    keys = [data.inputs.keys[i] for i in data.training]
    own = digests(keys)
    images = to_input(data.inputs.images[data.development])
    development = embed(network, images)
    shifted = reactions(network, images, config.views, config.train.seed)
    fitted = fit_all(bank, development)
    table = separations(shifted, bank.features, fitted)
    score = choose(table) if config.detector.score == "auto" else config.detector.score
    if config.detector.bank_size:
        places = reduce_bank(bank, config.detector.bank_size, config.train.seed)
        before, bank, own = _mean(table[score]), rows_at(bank, places), own[places.numpy()]
        fitted = fit_all(bank, development)
        after = _mean(separations(shifted, bank.features, fitted)[score])
        progress.say(
            f"bank reduced from {len(keys)} to {len(bank)} scans: mean AUROC of {score} on shifted development scans "
            f"{before:.4f} before, {after:.4f} after"
        )
    means = ", ".join(f"{name} {_mean(values):.3f}" for name, values in table.items())
    progress.say(f"score {score}; mean AUROC on shifted development scans: {means}")
    if _mean(table[score]) < _NEAR_CHANCE:
        progress.say(
            f"WARNING: the score {score} hardly separates shifted development scans from unshifted ones: mean AUROC "
            f"{_mean(table[score]):.3f}, where 0.5 is chance. Do not screen with this detector; train longer or on more "
            "scans."
        )
    detector = Detector(
        network=network,
        model=replace(config.model, weights="", pretrained=False, frozen=False),
        preprocess=config.preprocess,
        score_name=score,
        bank=bank.features.contiguous(),
        bank_keys=torch.from_numpy(own.copy()),
        learned=_learned_scans(data),
        fitted=fitted,
        calibration=empty(bank.features.shape[1]),
    )
    return detector, table


def _learned_scans(data: TrainingData) -> LearnedScans:
    rows = np.concatenate([data.training, data.development])
    hashes = [difference_hashes(to_input(data.inputs.images[part])) for part in np.array_split(rows, len(rows) // 512 + 1)]
    return LearnedScans(
        torch.from_numpy(digests([data.inputs.keys[i] for i in rows])), torch.from_numpy(np.concatenate(hashes))
    )


def _track(progress: Progress) -> Track:
    return lambda items: progress.track(iter(items), None, "modelling the appearance of registered radiographs")


def _mean(by_shift: dict[str, float]) -> float:
    return float(np.mean(list(by_shift.values())))


def _show(bar: Bar, last: Metrics, metrics: Metrics) -> None:
    last.update(metrics)
    bar(
        1,
        f"loss {metrics['loss']:.3f} = {metrics['loss_positive']:.3f} + KL {metrics.get('kl_negatives', 0.0):.3f}  "
        f"teacher entropy {metrics['teacher_entropy']:.2f}  {metrics['images_per_second']:.0f} images/s",
    )


def _portable(config: RunConfig, members: list[Detector]) -> dict[str, Any]:
    """The configuration without paths of the training machine."""
    plain = asdict(config)
    plain["detector"]["members"] = [member.sha256 for member in members]
    del plain["out"], plain["data"]["root"], plain["data"]["calibration_root"], plain["data"]["cache"]
    for group, weights in (("model", config.model.weights), ("lesions", config.lesions.weights)):
        if weights:
            plain[group]["weights"] = "sha256:" + hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return plain
