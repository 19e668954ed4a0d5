"""Read the scans of a manifest once and keep the inputs of every scorer: features and trivial facts, but no images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medood.detection.calibration import stratum
from medood.detection.detector import Detector
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import Features, concatenate_features, embed
from medood.detection.perceptual_hash import NEAR, HashIndex, difference_hashes
from medood.evaluation.acquisition_faults import Pixels, faults_for, opacity
from medood.evaluation.baselines import Matrix, Trivial, stack, trivial
from medood.evaluation.manifest import Entry
from medood.evaluation.shortcuts import CommonHistogram
from medood.progress import Progress
from medood.scans.grayscale import luminance
from medood.scans.reader import read_source
from medood.scans.scan import Scan
from medood.scans.sources.source import Source

_BATCH = 64
#: Key of a data set: group and name.
Key = tuple[str, str]


@dataclass(frozen=True)
class Embedder:
    """A network, its preprocessing, and which turned copies are embedded too: keywords of
    :func:`medood.detection.features.embed`."""

    prepare: Callable[[Scan], Tensor]
    network: EnsembleNetwork
    copies: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Set:
    """The scans of one data set.

    Attributes:
        features: features by name of the embedder.
        trivial: trivial features.
        patients: ``[N]``; see :attr:`medood.evaluation.manifest.Entry.patient`.
        strata: ``[N]`` strata of the detector's calibration.
        entries: ``[N]`` rows of the manifest.
    """

    features: dict[str, Features]
    trivial: Trivial
    patients: npt.NDArray[np.str_]
    strata: list[str]
    entries: list[Entry]


@dataclass
class Leak:
    """Scans of one data set that a detector had already seen, which are left out of every comparison.

    Attributes:
        same_file: number of scans with the SHA-256 of a scan that was learned from.
        near_learned: number of scans nearly identical to a scan that was learned from.
        near_calibration: number of scans nearly identical to a calibration scan.
        files: files of these scans.
    """

    same_file: int = 0
    near_learned: int = 0
    near_calibration: int = 0
    files: list[str] = field(default_factory=list)


@dataclass
class ScanFeatures:
    """Features of all scans of a manifest.

    Attributes:
        sets: sets by group and name; faults made from in-distribution test scans are in the group ``acquisition``.
        copies: changed copies of scans, in the order of the scans: in the group ``matched`` with matched histograms, by data
            set, and in the group ``planted`` with a fault, by ``DATASET/FAULT``. They have the deciding score only.
        reference: scans of the split ``train``.
        missing: a sentence for each file that could not be read, or only in part.
        leaks: leaks by group and name.
    """

    sets: dict[Key, Set]
    copies: dict[Key, Set]
    reference: Set | None
    missing: list[str]
    leaks: dict[Key, Leak]


class _Gathering:
    """Collects the scans of one data set as they are read, and embeds them in batches, so that no image is kept."""

    def __init__(self, embedders: dict[str, Embedder]) -> None:
        self._embedders = embedders
        self._waiting: dict[str, list[Tensor]] = {name: [] for name in embedders}
        self._rows: dict[str, list[Features]] = {name: [] for name in embedders}
        self._trivial: list[tuple[Matrix, Matrix, Matrix, Matrix]] = []
        self._patients: list[str] = []
        self._strata: list[str] = []
        self._entries: list[Entry] = []

    def add(self, scan: Scan, images: dict[str, Tensor], entry: Entry, size: int, by: tuple[str, ...]) -> None:
        for name, image in images.items():
            self._waiting[name].append(image)
        self._trivial.append(trivial(scan, size))
        self._patients.append(entry.patient)
        self._strata.append(stratum(scan.attributes, by))
        self._entries.append(entry)
        if len(self._entries) % _BATCH == 0:
            self._embed()

    def done(self) -> Set:
        self._embed()
        features = {name: concatenate_features(parts) for name, parts in self._rows.items()}
        return Set(features, stack(self._trivial), np.array(self._patients), self._strata, self._entries)

    def _embed(self) -> None:
        for name, embedder in self._embedders.items():
            if self._waiting[name]:
                self._rows[name].append(embed(embedder.network, torch.stack(self._waiting[name]), **embedder.copies))
                self._waiting[name] = []


def collect(
    entries: Sequence[Entry],
    root: Path,
    detectors: dict[str, Detector],
    backbones: dict[str, Embedder],
    seed: int,
    progress: Progress,
) -> ScanFeatures:
    """Read every scan of the splits ``train`` and ``test``.

    Args:
        entries: rows of the manifest.
        root: the folder that its files are relative to.
        detectors: detectors by name, which embed the test scans; the first one's calibration defines the strata.
        backbones: frozen backbones by name, which also embed the training scans.
        seed: seed of the faults.
        progress: progress display.
    """
    main = next(iter(detectors.values()))
    faults = faults_for(main.metadata)
    chosen = sorted(
        (entry for entry in entries if entry.split in ("train", "test")), key=lambda entry: entry.split == "test"
    )
    own = {name: Embedder(detector.prepare, detector.network) for name, detector in detectors.items()}
    learned_scans = {name: _LearnedIndex(detector) for name, detector in detectors.items()}
    gathering: dict[Key, _Gathering] = {}
    reference = _Gathering(backbones)
    read_any = False
    collected = ScanFeatures({}, {}, None, [], {})
    copies: dict[Key, _Gathering] = {}
    common = CommonHistogram()
    embedders = own | backbones
    deciding = {name: Embedder(detector.prepare, detector.network, detector.copies) for name, detector in detectors.items()}

    def keep(key: Key, scan: Scan, images: dict[str, Tensor], entry: Entry, size: int) -> None:
        gathering.setdefault(key, _Gathering(embedders)).add(scan, images, entry, size, main.calibration.by)

    def keep_copy(key: Key, copy: Scan, entry: Entry, size: int) -> None:
        images = {name: embedder.prepare(copy) for name, embedder in deciding.items()}
        copies.setdefault(key, _Gathering(deciding)).add(copy, images, entry, size, main.calibration.by)

    for entry in progress.track(iter(chosen), len(chosen), "reading and embedding"):
        path = root / entry.file
        results = iter(read_source(Source(path)))
        result = next(results)
        if next(results, None) is not None:
            collected.missing.append(f"{entry.file}: only its first frame was used")
        if not isinstance(result, Scan):
            collected.missing.append(f"{entry.file}: {result.reason}")
            continue
        size = path.stat().st_size
        if entry.split == "train":
            images = {name: embedder.prepare(result) for name, embedder in backbones.items()}
            reference.add(result, images, entry, size, ())
            common.add(result.pixels[0])
            read_any = True
            continue
        key = (entry.group, entry.dataset)
        images = {name: embedder.prepare(result) for name, embedder in embedders.items()}
        leak = collected.leaks.setdefault(key, Leak())
        if any(learned.is_leak(result, images[name], leak) for name, learned in learned_scans.items()):
            collected.leaks[key].files.append(entry.file)
            continue
        keep(key, result, images, entry, size)
        is_grey = main.preprocess.channels == 1
        if entry.pair and is_grey:
            pixels = np.ascontiguousarray(common.match(result.pixels[0]), dtype=np.float32)[None]
            matched = dataclasses.replace(result, pixels=pixels)
            keep_copy(("matched", entry.dataset), matched, entry, size)
        if is_healthy(entry):
            rng = np.random.default_rng([seed, int(result.identity.sha256[:15], 16)])
            for name, fault in (faults | ({"opacity": opacity} if is_grey else {})).items():
                faulty = faulty_scan(result, fault, rng, colour=not is_grey)
                keep_copy(("planted", f"{entry.dataset}/{name}"), faulty, entry, size)
        if entry.group == "in_distribution":
            rng = np.random.default_rng([seed, int(result.identity.sha256[:15], 16)])
            for name, fault in faults.items():
                scan = faulty_scan(result, fault, rng, colour=not is_grey)
                images = {which: embedder.prepare(scan) for which, embedder in embedders.items()}
                keep(("acquisition", name), scan, images, entry, size)
    collected.sets = {key: value.done() for key, value in gathering.items()}
    collected.copies = {key: value.done() for key, value in copies.items()}
    collected.reference = reference.done() if read_any else None
    return collected


def faulty_scan(
    scan: Scan, fault: Callable[[Pixels, np.random.Generator], Pixels], rng: np.random.Generator, *, colour: bool
) -> Scan:
    """A scan with a fault, in its grey values or, with ``colour``, in its colours where it has them."""
    if not colour or scan.colours is None:
        pixels = np.ascontiguousarray(fault(scan.pixels[0], rng), dtype=np.float32)[None]
        return dataclasses.replace(scan, pixels=pixels, colours=None)
    changed = np.round(fault(scan.colours.astype(np.float32) / 255.0, rng) * 255.0).astype(np.uint8)
    return dataclasses.replace(scan, pixels=luminance(changed, 255.0), colours=np.ascontiguousarray(changed))


def is_healthy(entry: Entry) -> bool:
    """Whether a scan is a healthy one that the detector should accept after calibration, of another source or of a pair."""
    return entry.group == "id_shift" or "normal" in entry.roles.values()


class _LearnedIndex:
    """Index of the scans that a detector has seen, by file and by perceptual hash."""

    def __init__(self, detector: Detector) -> None:
        self._keys = {bytes(row) for row in detector.learned.keys.numpy()}
        self._learned = HashIndex(detector.learned.hashes.numpy())
        self._calibration = HashIndex(detector.calibration.hashes.numpy())

    def is_leak(self, scan: Scan, image: Tensor, leak: Leak) -> bool:
        image_hash = difference_hashes(image[None])
        if bytes.fromhex(scan.identity.sha256) in self._keys:
            leak.same_file += 1
        elif self._learned.nearest(image_hash)[0][0] <= NEAR:
            leak.near_learned += 1
        elif self._calibration.nearest(image_hash)[0][0] <= NEAR:
            leak.near_calibration += 1
        else:
            return False
        return True
