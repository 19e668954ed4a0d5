"""The images of a training run: decoded once into a cache, and split by patient."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medood.config.schema import ReadConfig, RunConfig
from medood.distillation.multi_crop import ImageArray, as_tensor
from medood.errors import MedoodError
from medood.progress import Progress
from medood.scans.cache import ImageCache, build_cache
from medood.scans.lazy_arrays import ConcatenatedArray


@dataclass(frozen=True)
class TrainingData:
    """The images of a run.

    Attributes:
        source: all images at the size from which views are cropped.
        inputs: the same images at the network's input size.
        training: rows to train on.
        development: rows of ``inputs`` held out to choose and scale the score.
        calibration: uint8 ``[M, S, S]`` or ``[M, 3, S, S]`` held-out images at the network's input size.
        calibration_keys: keys of the calibration images.
    """

    source: ImageCache
    inputs: ImageCache
    training: npt.NDArray[np.int64]
    development: npt.NDArray[np.int64]
    calibration: npt.NDArray[np.uint8]
    calibration_keys: list[str]


def training_data(config: RunConfig, progress: Progress) -> TrainingData:
    """Decode the images of a run, or load them from the cache, and split them into training, development and calibration.

    Raises:
        MedoodError: there are too few scans, or calibration scans or patients are also in ``data.root``.
    """

    def cache_images(root: str, size: int, description: str) -> ImageCache:
        def track(items: Iterator[Any], total: int) -> Iterator[Any]:
            return progress.track(items, total, description)

        return build_cache(
            Path(root),
            _cache_folder(config),
            config.preprocess,
            size,
            options=config.read,
            limit=config.data.limit or None,
            track=track,
        )

    source = cache_images(config.data.root, config.views.source_size, "decoding for training")
    inputs = cache_images(config.data.root, config.preprocess.size, "decoding for the bank")
    for status, count in sorted(inputs.refused.items()):
        progress.say(f"left out: {count} {status}")
    seed = config.train.seed if config.data.split_seed is None else config.data.split_seed
    if config.data.calibration_root:
        held_out = cache_images(config.data.calibration_root, config.preprocess.size, "decoding for calibration")
        shared = len(set(held_out.keys) & set(inputs.keys))
        patients = len((set(held_out.patients) & set(inputs.patients)) - {""})
        if shared or patients:
            raise MedoodError(
                f"data.calibration_root: {shared} of its scans and {patients} of its patients are also in data.root; "
                "calibration needs separate scans and patients."
            )
        rest = np.arange(len(inputs.keys))
        images, keys = held_out.images, held_out.keys
    else:
        rest, held_rows = split_by_patient(inputs, config.data.calibration_fraction, seed)
        images, keys = inputs.images[held_rows], [inputs.keys[i] for i in held_rows]
    training, development = split_by_patient(inputs, config.data.development_fraction, seed, rest)
    progress.say(
        f"{len(training)} scans for training, {len(development)} for choosing the score, {len(keys)} for calibration"
    )
    return TrainingData(source, inputs, training, development, images, keys)


def _cache_folder(config: RunConfig) -> Path:
    return Path(config.data.cache or Path(config.out) / "cache")


def auxiliary_images(config: RunConfig, source: ImageCache, progress: Progress) -> ImageArray | None:
    """The auxiliary images at the in-distribution resolution, or ``None`` if the negatives do not use them."""
    if config.negatives.sources == "in_distribution":
        return None

    def cache_images(root: str) -> npt.NDArray[np.uint8]:
        return build_cache(
            Path(root),
            _cache_folder(config),
            config.preprocess,
            config.views.source_size,
            key="negatives.auxiliary",
            native=source.native,
            options=ReadConfig(**{**asdict(config.read), "select": ""}),
            track=lambda items, total: progress.track(items, total, "decoding auxiliary images"),
        ).images

    parts = [cache_images(root) for root in config.negatives.auxiliary]
    progress.say(f"{sum(len(part) for part in parts)} auxiliary images, first resized to {source.native} px")
    return ConcatenatedArray(parts)


def split_by_patient(
    cache: ImageCache, fraction: float, seed: int, within: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split rows into kept and held out, with no patient in both; a scan without PatientID counts as its own patient.

    The split depends only on the patients (or contents) and the seed, not on file names or their order.

    Raises:
        MedoodError: either side would have fewer than 2 scans.
    """
    rows = np.arange(len(cache.keys)) if within is None else within
    groups = [cache.patients[i] or cache.keys[i] for i in rows]
    order = sorted(set(groups), key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
    held_groups = set(order[: max(2, round(fraction * len(order)))])
    held_out = np.array([i for i, group in zip(rows, groups, strict=True) if group in held_groups], dtype=np.int64)
    kept_rows = np.array([i for i, group in zip(rows, groups, strict=True) if group not in held_groups], dtype=np.int64)
    if len(kept_rows) < 2 or len(held_out) < 2:
        raise MedoodError(
            f"data.root holds {len(cache.keys)} scans of {len(set(cache.patients) - {''}) or len(cache.keys)} patients; too "
            "few for training, choosing the score and calibration. "
            "Give more scans."
        )
    return kept_rows, held_out


def to_input(images: npt.NDArray[np.uint8]) -> Tensor:
    """Convert cached images to network input ``[N, C, S, S]``, equal to ``Detector.prepare`` of the scans."""
    return as_tensor(np.array(images))
