"""A folder of phantoms to learn from, and a zip archive with strangers among them."""

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
from medood.phantom.outliers import STRANGERS
from medood.progress import Progress

#: (modality, body part, view) that a stranger's header states; the header of a fault still says CHEST, as in life.
_HEADERS = {
    "lateral_like": ("DX", "CHEST", "LL"),
    "hand_like": ("CR", "HAND", "PA"),
    "ct_like": ("CT", "CHEST", ""),
}


@dataclass
class PhantomConfig:
    """Settings of the phantom generator (``datasets/phantom.yaml``).

    Attributes:
        size: side of the pictures in pixels.
        seed: first seed; every picture has its own.
        training: number of chests to learn from.
        belonging: number of chests in the archive.
        strangers: kind to number in the archive.
        broken: number of damaged files in the archive.
    """

    size: int = 256
    seed: int = 0
    training: int = 300
    belonging: int = 30
    strangers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STRANGERS, 2))
    broken: int = 1


def load_phantom(path: Path) -> PhantomConfig:
    """Read the generator's settings.

    Raises:
        MedoodError: a key or a kind of stranger is unknown.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(PhantomConfig), OmegaConf.create({"strangers": {}}))
        merged.strangers = {}
        settings = OmegaConf.to_object(OmegaConf.merge(merged, OmegaConf.load(path)))
    except (OSError, OmegaConfBaseException) as error:
        raise MedoodError(f"{path}: {' '.join(str(error).split())}") from error
    assert isinstance(settings, PhantomConfig)
    unknown = set(settings.strangers) - set(STRANGERS)
    if unknown:
        raise MedoodError(f"{path}: strangers: {', '.join(sorted(unknown))} unknown; expected {', '.join(STRANGERS)}.")
    return settings


def write_training(settings: PhantomConfig, folder: Path, progress: Progress) -> Path:
    """Write the chests to learn from, or to calibrate with, as DICOM files and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in progress.track(iter(range(settings.training)), settings.training, "phantoms that belong"):
        name = f"train-{number:05d}"
        chest = frontal_chest(settings.seed + number, settings.size)
        (folder / f"{name}.dcm").write_bytes(dicom_bytes(chest.picture, name))
    return folder


def write_archive(settings: PhantomConfig, target: Path, progress: Progress) -> Path:
    """Write the archive to screen: chests, strangers and damaged files, as a zip of DICOM files."""
    members = list(_members(settings))
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, kind, seed in progress.track(iter(members), len(members), "phantoms to screen"):
            info = zipfile.ZipInfo(f"{name}.dcm", (2026, 1, 1, 12, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, _content(settings, name, kind, seed))
    return target


def _members(settings: PhantomConfig) -> Iterator[tuple[str, str, int]]:
    """(name, kind, seed), with seeds that no training phantom has."""
    seed = settings.seed + 1_000_000
    kinds = {"chest": settings.belonging, **settings.strangers, "broken": settings.broken}
    for kind, count in kinds.items():
        for number in range(count):
            yield f"{kind}-{number:03d}", kind, seed
            seed += 1


def _content(settings: PhantomConfig, name: str, kind: str, seed: int) -> bytes:
    if kind in ("chest", "broken"):
        content = dicom_bytes(frontal_chest(seed, settings.size).picture, name)
        return content if kind == "chest" else content[: len(content) // 2]
    modality, body_part, view = _HEADERS.get(kind, ("DX", "CHEST", "PA"))
    picture = STRANGERS[kind](seed, settings.size)
    return dicom_bytes(picture, name, modality=modality, body_part=body_part, view=view)
