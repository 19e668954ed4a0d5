"""From in-distribution scans to a detector folder: cache, self-distillation, bank, calibration, evidence scale."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medood.config.schema import ReadConfig, RunConfig
from medood.detection.appearance import MOST_FILMS, Appearance
from medood.detection.calibration import Calibration, digests, empty, fingerprint
from medood.detection.detector import Detector, Learned
from medood.detection.detector_folder import TRAINING, check_free
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import Features, embed
from medood.detection.perceptual_hash import difference_hashes
from medood.detection.registration import Track
from medood.detection.score_selection import Reactions, choose, reactions, reduce_bank, rows_at, separations
from medood.detection.scores import SCORES, fit_all
from medood.distillation.collapse import effective_rank
from medood.distillation.multi_crop import Pictures
from medood.distillation.trainer import Trainer
from medood.distillation.training_log import Metrics, TrainingLog
from medood.errors import MedoodError
from medood.evidence.evidence_maps import learn_evidence
from medood.evidence.padim import MOST_SCANS
from medood.output_folder import new_folder
from medood.progress import Bar, Progress
from medood.scans.cache import PictureCache, build_cache
from medood.scans.lazy_arrays import Rows, Stacked

#: Calibration scans whose maps fix the scale of the evidence.
_CAM_SCANS = 256
#: Mean AUROC on shifted development scans below which a detector is said to have learned next to nothing.
_NEAR_CHANCE = 0.7


def train(config: RunConfig, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train a detector.

    Args:
        config: the run; ``data.root`` is needed.
        resume: go on from the newest whole checkpoint of ``out``.
        progress: where to draw; none is quiet.

    Returns:
        the detector's folder, ``out``.

    Raises:
        MedoodError: the data or the configuration cannot be used, or training collapsed.
    """
    alone = os.environ.get("RANK", "0") == "0"  # set by torchrun
    progress = progress if progress and alone else Progress(quiet=True)
    _check(config)
    out = Path(config.out)
    check_free(out, resume=resume)
    with new_folder(out) as keep:
        return _train(config, out, keep, resume=resume, progress=progress)


def _train(config: RunConfig, out: Path, keep: Callable[[], None], *, resume: bool, progress: Progress) -> Path:
    data = training_data(config, progress)
    inputs, training = data.inputs, data.training
    training_keys = [inputs.keys[i] for i in training]
    members = [_member(folder, config, fingerprint(training_keys)) for folder in config.detector.members]
    auxiliary = _auxiliary(config, data.source, progress)
    trainer = Trainer(config, Rows(data.source.pictures, training), out, fingerprint(training_keys), auxiliary)
    config = trainer.config
    for line in trainer.resolved:
        progress.say(line)
    progress.say(f"device {trainer.device}, precision {trainer.precision}")
    if resume:
        for path in trainer.resume():
            progress.say(f"{path} is damaged; the checkpoint before it is used")
    last: Metrics = {}
    keep()
    with progress.bar(trainer.steps, "training") as bar:
        bar(trainer.next_step, "")
        trained = trainer.fit(lambda step, steps, metrics: _show(bar, last, metrics))
    if not trainer.fabric.is_global_zero:
        return out  # the first process alone writes the detector
    last = last or TrainingLog.last(out)  # nothing was left to train where a finished run is resumed
    network = EnsembleNetwork(trained.to("cpu"), config.preprocess.crops)
    network.members.extend(member.network for member in members)
    if config.detector.appearance:
        films = as_input(inputs.pictures[training[:: -(-len(training) // MOST_FILMS)]])
        network.appearance = Appearance()
        network.appearance.fit(films, config.train.seed, _tracked(progress))
    if config.detector.half:
        network.half().float()

    bank = embed(network, as_input(inputs.pictures[training]), turned=False)
    if config.detector.half:
        bank = replace(bank, features=bank.features.half().float())
    rank = effective_rank(bank.features)
    detector, table = _detector(config, network, bank, data, progress)
    calibration_inputs = as_input(data.calibration)
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
        as_input(inputs.pictures[training[:: -(-len(training) // MOST_SCANS)]]),
        as_input(inputs.pictures[data.development]),
        calibration_inputs[:_CAM_SCANS],
    )
    detector.facts = {
        "data": {
            "training_scans": len(training),
            "development_scans": len(data.development),
            "calibration_scans": len(data.calibration_keys),
            "training_sha256": fingerprint(training_keys),
            "calibration_sha256": fingerprint(data.calibration_keys),
            "left_out": inputs.refused,
        },
        "training": {name: round(value, 6) for name, value in last.items() if name != "images_per_second"}
        | {"feature_effective_rank": round(rank, 2), "steps": trainer.steps}
        | {"device": trainer.device, "precision": trainer.precision},
        "score_choice": {
            name: {shift: round(value, 4) for shift, value in values.items()} for name, values in table.items()
        },
        "config": _portable(config, members),
    }
    detector.save(out)
    progress.say(f"effective rank of the features: {rank:.1f}; detector: {out}")
    return out


@dataclass(frozen=True)
class TrainingData:
    """The pictures of a run.

    Attributes:
        source: all pictures at the size that views are cut from.
        inputs: the same pictures at the size of the network's input.
        training: rows to learn from.
        development: rows of ``inputs`` held out to choose and scale the score.
        calibration: uint8 ``[M, S, S]`` pictures held out, at the size of the network's input.
        calibration_keys: their keys.
    """

    source: PictureCache
    inputs: PictureCache
    training: npt.NDArray[np.int64]
    development: npt.NDArray[np.int64]
    calibration: npt.NDArray[np.uint8]
    calibration_keys: list[str]


def training_data(config: RunConfig, progress: Progress) -> TrainingData:
    """Decode the pictures of a run, or find them decoded, and part those held out for calibration.

    Raises:
        MedoodError: there are too few, or calibration scans are among those to learn from.
    """

    def cached(root: str, size: int, what: str) -> PictureCache:
        def track(items: Iterator[Any], total: int) -> Iterator[Any]:
            return progress.track(items, total, what)

        return build_cache(
            Path(root),
            _cache_folder(config),
            config.preprocess,
            size,
            options=config.read,
            limit=config.data.limit or None,
            track=track,
        )

    source = cached(config.data.root, config.views.source_size, "decoding for training")
    inputs = cached(config.data.root, config.preprocess.size, "decoding for the bank")
    for status, count in sorted(inputs.refused.items()):
        progress.say(f"left out: {count} {status}")
    seed = config.train.seed if config.data.split_seed is None else config.data.split_seed
    if config.data.calibration_root:
        held_out = cached(config.data.calibration_root, config.preprocess.size, "decoding for calibration")
        shared = len(set(held_out.keys) & set(inputs.keys))
        patients = len((set(held_out.patients) & set(inputs.patients)) - {""})
        if shared or patients:
            raise MedoodError(
                f"data.calibration_root: {shared} of its scans and {patients} of its patients are also in data.root; "
                "calibration needs other ones."
            )
        rest = np.arange(len(inputs.keys))
        pictures, keys = held_out.pictures, held_out.keys
    else:
        rest, held = split_by_patient(inputs, config.data.calibration_fraction, seed)
        pictures, keys = inputs.pictures[held], [inputs.keys[i] for i in held]
    training, development = split_by_patient(inputs, config.data.development_fraction, seed, rest)
    progress.say(
        f"{len(training)} scans to learn from, {len(development)} to choose the score with, {len(keys)} to calibrate with"
    )
    return TrainingData(source, inputs, training, development, pictures, keys)


def _cache_folder(config: RunConfig) -> Path:
    return Path(config.data.cache or Path(config.out) / "cache")


def _auxiliary(config: RunConfig, source: PictureCache, progress: Progress) -> Pictures | None:
    """The auxiliary pictures at the in-distribution resolution, where the negatives are made of them."""
    if config.negatives.sources == "in_distribution":
        return None

    def cached(root: str) -> npt.NDArray[np.uint8]:
        return build_cache(
            Path(root),
            _cache_folder(config),
            config.preprocess,
            config.views.source_size,
            what="negatives.auxiliary",
            native=source.native,
            options=ReadConfig(**{**asdict(config.read), "select": ""}),
            track=lambda items, total: progress.track(items, total, "decoding auxiliary pictures"),
        ).pictures

    parts = [cached(root) for root in config.negatives.auxiliary]
    progress.say(f"{sum(len(part) for part in parts)} auxiliary pictures, brought to {source.native} px first")
    return Stacked(parts)


def _member(folder: str, config: RunConfig, training_sha256: str) -> Detector:
    """Another detector that can be asked too, see ``detector.members``.

    Raises:
        MedoodError: it prepares films in another way, has members itself, or learned from other films: the development films
            could then be among them.
    """
    member = Detector.load(folder)
    own = (config.preprocess.fit, config.preprocess.equalize)
    theirs = (member.preprocess.fit, member.preprocess.equalize)
    if own != theirs:
        raise MedoodError(
            f"detector.members: {folder} was trained with preprocess.fit, preprocess.equalize {theirs}, not {own} as here."
        )
    if member.network.members:
        raise MedoodError(f"detector.members: {folder} has members itself. Name those instead.")
    member.network.appearance = None  # this run's own is asked, if any
    if member.facts["data"]["training_sha256"] != training_sha256:
        raise MedoodError(
            f"detector.members: {folder} learned from other films than this run. Train it with the same data.root, "
            "data.development_fraction, data.calibration_fraction and data.split_seed."
        )
    return member


def split_by_patient(
    cache: PictureCache, fraction: float, seed: int, within: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows to keep and rows held out, no patient in both; a scan without PatientID stands for itself.

    The draw depends on the patients (or contents) and the seed only, not on file names or their order.

    Raises:
        MedoodError: fewer than 2 scans would be left on a side.
    """
    rows = np.arange(len(cache.keys)) if within is None else within
    groups = [cache.patients[i] or cache.keys[i] for i in rows]
    order = sorted(set(groups), key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
    held_groups = set(order[: max(2, round(fraction * len(order)))])
    held = np.array([i for i, group in zip(rows, groups, strict=True) if group in held_groups], dtype=np.int64)
    kept = np.array([i for i, group in zip(rows, groups, strict=True) if group not in held_groups], dtype=np.int64)
    if len(kept) < 2 or len(held) < 2:
        raise MedoodError(
            f"data.root holds {len(cache.keys)} scans of {len(set(cache.patients) - {''}) or len(cache.keys)} patients; too "
            "few to train on, to choose the score with and to calibrate with. "
            "Give more scans."
        )
    return kept, held


def as_input(pictures: npt.NDArray[np.uint8]) -> Tensor:
    """Cached ``[N, S, S]`` pictures as the network's input ``[N, 1, S, S]``; equal to ``Detector.prepare`` of the scans."""
    return torch.from_numpy(np.array(pictures)).float().div_(255.0)[:, None]


def _detector(
    config: RunConfig, network: EnsembleNetwork, bank: Features, data: TrainingData, progress: Progress
) -> tuple[Detector, Reactions]:
    """A detector without a calibration, and what its score was chosen by."""
    keys = [data.inputs.keys[i] for i in data.training]
    own = digests(keys)
    pictures = as_input(data.inputs.pictures[data.development])
    development = embed(network, pictures)
    shifted = reactions(network, pictures, config.views, config.train.seed)
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
            f"WARNING: the score {score} hardly tells shifted development scans from others: mean AUROC "
            f"{_mean(table[score]):.3f}, where 0.5 is chance. Do not screen with this detector; train longer, or with more "
            "scans."
        )
    detector = Detector(
        network=network,
        model=replace(config.model, weights="", pretrained=False),
        preprocess=config.preprocess,
        score_name=score,
        bank=bank.features.contiguous(),
        bank_keys=torch.from_numpy(own.copy()),
        learned=_learned(data),
        fitted=fitted,
        calibration=empty(bank.features.shape[1]),
    )
    return detector, table


def _learned(data: TrainingData) -> Learned:
    rows = np.concatenate([data.training, data.development])
    hashes = [difference_hashes(as_input(data.inputs.pictures[some])) for some in np.array_split(rows, len(rows) // 512 + 1)]
    return Learned(torch.from_numpy(digests([data.inputs.keys[i] for i in rows])), torch.from_numpy(np.concatenate(hashes)))


def _tracked(progress: Progress) -> Track:
    return lambda items: progress.track(iter(items), None, "learning how registered films look")


def _mean(by_shift: dict[str, float]) -> float:
    return float(np.mean(list(by_shift.values())))


def _check(config: RunConfig) -> None:
    if not config.data.root:
        raise MedoodError("data.root is not set. Add data.root=FOLDER, the folder with the in-distribution scans.")
    if config.detector.score not in ("auto", *SCORES):
        raise MedoodError(f"detector.score is {config.detector.score!r}; expected auto or one of {', '.join(SCORES)}.")
    if config.detector.score == "ensemble" and not (config.detector.members or config.detector.appearance):
        raise MedoodError(
            "detector.score is ensemble, which needs more to ask than one head: name the folders of other detectors in "
            "detector.members, or set detector.appearance=true."
        )


def _show(bar: Bar, last: Metrics, metrics: Metrics) -> None:
    last.update(metrics)
    bar(
        1,
        f"loss {metrics['loss']:.3f} = {metrics['loss_positive']:.3f} + KL {metrics.get('kl_negatives', 0.0):.3f}  "
        f"teacher entropy {metrics['teacher_entropy']:.2f}  {metrics['images_per_second']:.0f} images/s",
    )


def _portable(config: RunConfig, members: list[Detector]) -> dict[str, Any]:
    """The configuration without the paths of the machine that trained."""
    plain = asdict(config)
    plain["detector"]["members"] = [member.sha256 for member in members]
    del plain["out"], plain["data"]["root"], plain["data"]["calibration_root"], plain["data"]["cache"]
    if config.model.weights:
        plain["model"]["weights"] = "sha256:" + hashlib.sha256(Path(config.model.weights).read_bytes()).hexdigest()
    return plain
