"""Reads the scans of a manifest once, and keeps what every scorer needs of them: features and trivial facts, no pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medood.detection.calibration import stratum
from medood.detection.detector import Detector
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import Features, embed, joined
from medood.detection.perceptual_hash import NEAR, HashIndex, difference_hashes
from medood.evaluation.acquisition_faults import FAULTS
from medood.evaluation.baselines import Matrix, Trivial, stacked, trivial
from medood.evaluation.manifest import Entry
from medood.progress import Progress
from medood.scans.reader import read_source
from medood.scans.scan import Scan
from medood.scans.sources.source import Source

_BATCH = 64
#: Where a data set is found: group and name.
Key = tuple[str, str]


@dataclass(frozen=True)
class Embedder:
    """A network, how a scan becomes its input, and whether turned copies are looked at too."""

    prepare: Callable[[Scan], Tensor]
    network: EnsembleNetwork
    turned: bool = True


@dataclass(frozen=True)
class Set:
    """The scans of one data set.

    Attributes:
        features: rows by name of the embedder.
        trivial: what trivial means see.
        patients: ``[N]``; see :attr:`medood.evaluation.manifest.Entry.patient`.
        strata: ``[N]`` strata of the detector's calibration.
        files: ``[N]`` files of the manifest.
    """

    features: dict[str, Features]
    trivial: Trivial
    patients: npt.NDArray[np.str_]
    strata: list[str]
    files: list[str]


@dataclass
class Leak:
    """Scans of one data set that a detector knew already, and that were left out of every comparison.

    Attributes:
        same_file: SHA-256 of a scan that was learned from.
        near_learned: nearly the picture of a scan that was learned from.
        near_calibration: nearly the picture of a calibration scan.
        files: their files.
    """

    same_file: int = 0
    near_learned: int = 0
    near_calibration: int = 0
    files: list[str] = field(default_factory=list)


@dataclass
class Collected:
    """What was read.

    Attributes:
        sets: by group and name; faults made of the in-distribution test scans stand in the group ``acquisition``.
        reference: scans of the split ``train``.
        missing: a sentence for each file that could not be read, or not whole.
        leaks: by group and name.
    """

    sets: dict[Key, Set]
    reference: Set | None
    missing: list[str]
    leaks: dict[Key, Leak]


class _Gathering:
    """Scans of one data set while they are read; embedded in batches, so that no picture stays."""

    def __init__(self, embedders: dict[str, Embedder]) -> None:
        self._embedders = embedders
        self._waiting: dict[str, list[Tensor]] = {name: [] for name in embedders}
        self._rows: dict[str, list[Features]] = {name: [] for name in embedders}
        self._trivial: list[tuple[Matrix, Matrix, Matrix]] = []
        self._patients: list[str] = []
        self._strata: list[str] = []
        self._files: list[str] = []

    def add(self, scan: Scan, pictures: dict[str, Tensor], entry: Entry, size: int, by: tuple[str, ...]) -> None:
        for name, picture in pictures.items():
            self._waiting[name].append(picture)
        self._trivial.append(trivial(scan, size))
        self._patients.append(entry.patient)
        self._strata.append(stratum(scan.attributes, by))
        self._files.append(entry.file)
        if len(self._files) % _BATCH == 0:
            self._embed()

    def done(self) -> Set:
        self._embed()
        features = {name: joined(parts) for name, parts in self._rows.items()}
        return Set(features, stacked(self._trivial), np.array(self._patients), self._strata, self._files)

    def _embed(self) -> None:
        for name, embedder in self._embedders.items():
            if self._waiting[name]:
                self._rows[name].append(embed(embedder.network, torch.stack(self._waiting[name]), turned=embedder.turned))
                self._waiting[name] = []


def collect(
    entries: Iterable[Entry],
    root: Path,
    detectors: dict[str, Detector],
    backbones: dict[str, Embedder],
    seed: int,
    progress: Progress,
) -> Collected:
    """Read every scan of the splits ``train`` and ``test``.

    Args:
        entries: rows of the manifest.
        root: the folder that its files are relative to.
        detectors: by name; the first one's calibration gives the strata. Each embeds the test scans.
        backbones: frozen ones by name; they embed the training scans too.
        seed: of the faults.
        progress: where to draw.
    """
    main = next(iter(detectors.values()))
    chosen = [entry for entry in entries if entry.split in ("train", "test")]
    own = {name: Embedder(detector.prepare, detector.network) for name, detector in detectors.items()}
    known = {name: _Known(detector) for name, detector in detectors.items()}
    gathering: dict[Key, _Gathering] = {}
    reference = _Gathering(backbones)
    read_any = False
    found = Collected({}, None, [], {})

    embedders = own | backbones

    def keep(key: Key, scan: Scan, pictures: dict[str, Tensor], entry: Entry, size: int) -> None:
        gathering.setdefault(key, _Gathering(embedders)).add(scan, pictures, entry, size, main.calibration.by)

    for entry in progress.track(iter(chosen), len(chosen), "reading and embedding"):
        path = root / entry.file
        results = iter(read_source(Source(path)))
        result = next(results)
        if next(results, None) is not None:
            found.missing.append(f"{entry.file}: only its first frame was used")
        if not isinstance(result, Scan):
            found.missing.append(f"{entry.file}: {result.reason}")
            continue
        size = path.stat().st_size
        if entry.split == "train":
            pictures = {name: embedder.prepare(result) for name, embedder in backbones.items()}
            reference.add(result, pictures, entry, size, ())
            read_any = True
            continue
        key = (entry.group, entry.dataset)
        pictures = {name: embedder.prepare(result) for name, embedder in embedders.items()}
        leak = found.leaks.setdefault(key, Leak())
        if any(one.is_leak(result, pictures[name], leak) for name, one in known.items()):
            found.leaks[key].files.append(entry.file)
            continue
        keep(key, result, pictures, entry, size)
        if entry.group == "in_distribution":
            rng = np.random.default_rng([seed, int(result.identity.sha256[:15], 16)])
            for name, fault in FAULTS.items():
                faulty = np.ascontiguousarray(fault(result.pixels[0], rng), dtype=np.float32)[None]
                scan = dataclasses.replace(result, pixels=faulty)
                pictures = {which: embedder.prepare(scan) for which, embedder in embedders.items()}
                keep(("acquisition", name), scan, pictures, entry, size)
    found.sets = {key: value.done() for key, value in gathering.items()}
    found.reference = reference.done() if read_any else None
    return found


class _Known:
    """What a detector has seen, by file and by look."""

    def __init__(self, detector: Detector) -> None:
        self._keys = {bytes(row) for row in detector.learned.keys.numpy()}
        self._learned = HashIndex(detector.learned.hashes.numpy())
        self._calibration = HashIndex(detector.calibration.hashes.numpy())

    def is_leak(self, scan: Scan, picture: Tensor, leak: Leak) -> bool:
        mine = difference_hashes(picture[None])
        if bytes.fromhex(scan.identity.sha256) in self._keys:
            leak.same_file += 1
        elif self._learned.nearest(mine)[0][0] <= NEAR:
            leak.near_learned += 1
        elif self._calibration.nearest(mine)[0][0] <= NEAR:
            leak.near_calibration += 1
        else:
            return False
        return True
