"""Write a folder of phantoms for training, and a zip archive of phantoms and outliers to screen."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.progress import Progress

#: (modality, body part, view) in the header of an outlier; a fault (e.g. a rotation) keeps the chest header, as in practice.
_HEADERS = {
    "lateral_like": ("DX", "CHEST", "LL"),
    "hand_like": ("CR", "HAND", "PA"),
    "ct_like": ("CT", "CHEST", ""),
}


@dataclass
class PhantomConfig:
    """Settings of the phantom generator (``datasets/phantom.yaml``).

    Attributes:
        size: side length of the images in pixels.
        seed: first seed; every image has its own.
        training: number of chest phantoms for training.
        in_distribution: number of chest phantoms in the archive.
        outliers: number in the archive for each kind of outlier.
        broken: number of damaged files in the archive.
    """

    size: int = 256
    seed: int = 0
    training: int = 300
    in_distribution: int = 30
    outliers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTLIERS, 2))
    broken: int = 1


def load_phantom(path: Path) -> PhantomConfig:
    """Read the generator's settings.

    Raises:
        MedoodError: a key or a kind of outlier is unknown.
    """
    try:
        defaults = OmegaConf.merge(OmegaConf.structured(PhantomConfig), OmegaConf.create({"outliers": {}}))
        defaults.outliers = {}
        settings = OmegaConf.to_object(OmegaConf.merge(defaults, OmegaConf.load(path)))
    except (OSError, OmegaConfBaseException) as error:
        raise MedoodError(f"{path}: {' '.join(str(error).split())}") from error
    assert isinstance(settings, PhantomConfig)
    unknown = set(settings.outliers) - set(OUTLIERS)
    if unknown:
        raise MedoodError(f"{path}: outliers: {', '.join(sorted(unknown))} unknown; expected {', '.join(OUTLIERS)}.")
    return settings


def write_training(settings: PhantomConfig, folder: Path, progress: Progress) -> Path:
    """Write chest phantoms for training or calibration as DICOM files and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in progress.track(iter(range(settings.training)), settings.training, "in-distribution phantoms"):
        name = f"train-{number:05d}"
        chest = frontal_chest(settings.seed + number, settings.size)
        (folder / f"{name}.dcm").write_bytes(dicom_bytes(chest.image, name))
    return folder


def write_archive(settings: PhantomConfig, target: Path, progress: Progress) -> Path:
    """Write the zip archive to screen, with chest phantoms, outliers and damaged files in DICOM format."""
    members = list(_members(settings))
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, kind, seed in progress.track(iter(members), len(members), "phantoms to screen"):
            info = zipfile.ZipInfo(f"{name}.dcm", (2026, 1, 1, 12, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, _content(settings, name, kind, seed))
    return target


def _members(settings: PhantomConfig) -> Iterator[tuple[str, str, int]]:
    """Yield (name, kind, seed) of each archive member, with seeds that no training phantom uses."""
    seed = settings.seed + 1_000_000
    kinds = {"chest": settings.in_distribution, **settings.outliers, "broken": settings.broken}
    for kind, count in kinds.items():
        for number in range(count):
            yield f"{kind}-{number:03d}", kind, seed
            seed += 1


def _content(settings: PhantomConfig, name: str, kind: str, seed: int) -> bytes:
    if kind in ("chest", "broken"):
        content = dicom_bytes(frontal_chest(seed, settings.size).image, name)
        return content if kind == "chest" else content[: len(content) // 2]
    modality, body_part, view = _HEADERS.get(kind, ("DX", "CHEST", "PA"))
    image = OUTLIERS[kind](seed, settings.size)
    return dicom_bytes(image, name, modality=modality, body_part=body_part, view=view)
