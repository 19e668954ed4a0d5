"""The benchmark: every data set of a manifest against in-distribution test scans, the hospital shortcut beside it."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.features import embed
from medood.errors import MedoodError
from medood.evaluation.baselines import SIDE, pixel_knn
from medood.evaluation.faults import FAULTS
from medood.evaluation.metrics import Separation, separation
from medood.progress import Progress
from medood.scans.archive import Source
from medood.scans.read import read_source
from medood.scans.scan import Scan
from medood.scans.transforms import ResizeTo

_COLUMNS = ("file", "split", "group", "dataset")
_TEST, _SHIFT, _NEAR = "in_distribution", "id_shift", "near"


@dataclass(frozen=True)
class Comparison:
    """One line of the table.

    Attributes:
        kind: ``far``, ``near``, ``id_shift``, ``acquisition``, ``near vs id_shift`` or ``same source``.
        positives: name of the positives' data set.
        negatives: name of the negatives'.
        positive_count: scans.
        negative_count: scans.
        detector: the detector's figures.
        pixel_knn: the trivial baseline's, on the same scans.
    """

    kind: str
    positives: str
    negatives: str
    positive_count: int
    negative_count: int
    detector: Separation
    pixel_knn: Separation


@dataclass
class _Pictures:
    """Pictures of one data set while they are read."""

    inputs: list[Tensor] = field(default_factory=list)
    small: list[Tensor] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Scored:
    detector: npt.NDArray[np.float64]
    pixels: npt.NDArray[np.float64]
    patients: npt.NDArray[np.str_]


def benchmark(
    detector: Detector, manifest: Path, *, repeats: int = 1000, seed: int = 0, progress: Progress | None = None
) -> tuple[list[Comparison], list[str]]:
    """Measure a detector on a manifest.

    Args:
        detector: the detector.
        manifest: a CSV with the columns ``file`` (relative to it), ``split``, ``group``, ``dataset`` and, where
            known, ``patient_id``. Rows of the split ``train`` are the reference of the pixel baseline; those of
            ``test`` are scored.
        repeats: bootstrap draws.
        seed: of the faults and the bootstrap.
        progress: where to draw; none is quiet.

    Returns:
        the comparisons, and a sentence for each file that could not be read.

    Raises:
        MedoodError: the manifest cannot be used.
    """
    progress = progress or Progress(quiet=True)
    rows = _read_manifest(manifest)
    shrink = ResizeTo(SIDE)
    rng = np.random.default_rng([seed, 21])
    sets: dict[tuple[str, str], _Pictures] = {}
    reference: list[Tensor] = []
    missing: list[str] = []
    for row in progress.track(iter(rows), len(rows), "reading"):
        result = next(iter(read_source(Source(manifest.parent / row["file"]))))
        if not isinstance(result, Scan):
            missing.append(f"{row['file']}: {result.reason}")
        elif row["split"] == "train":
            reference.append(_plain(shrink(torch.from_numpy(result.pixels))))
        else:
            patient = f"{row['dataset']}/{row.get('patient_id') or row['file']}"
            _keep(sets.setdefault((row["group"], row["dataset"]), _Pictures()), result, detector, shrink, patient)
            if row["group"] == _TEST:
                for name, fault in FAULTS.items():
                    faulty = np.ascontiguousarray(fault(result.pixels[0], rng), dtype=np.float32)[None]
                    scan = dataclasses.replace(result, pixels=faulty)
                    _keep(sets.setdefault(("acquisition", name), _Pictures()), scan, detector, shrink, patient)
    tests = [key for key in sets if key[0] == _TEST]
    if not tests or not reference:
        raise MedoodError(
            f"{manifest}: needs rows of the group in_distribution with the split test, and of the split train, that can be "
            f"read; {len(missing)} of {len(rows)} files could not be read" + (f" ({missing[0]})." if missing else ".")
        )
    bank = torch.stack(reference)[:, 0].numpy()
    scored = {}
    for key in progress.track(iter(list(sets)), len(sets), "scoring"):
        pictures = sets.pop(key)
        raw = detector.score(embed(detector.network, torch.stack(pictures.inputs))).double().numpy()
        scored[key] = _Scored(
            np.nan_to_num(raw, nan=np.finfo(np.float64).max),
            pixel_knn(torch.stack(pictures.small)[:, 0].numpy(), bank),
            np.array(pictures.patients),
        )
    pairs = list(_pairs(scored))
    table = [
        _compare(kind, name, other, positives, negatives, repeats, seed)
        for kind, name, positives, other, negatives in progress.track(iter(pairs), len(pairs), "bootstrap")
    ]
    return table, missing


def write_table(table: Sequence[Comparison], folder: Path, heading: str) -> None:
    """Write ``benchmark.csv`` and ``benchmark.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["kind", "positives", "negatives", "positive_count", "negative_count"]
    figures = [item.name for item in dataclasses.fields(Separation)]
    with (folder / "benchmark.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*names, *figures, *(f"pixel_knn_{name}" for name in figures)])
        for line in table:
            values = [getattr(side, name) for side in (line.detector, line.pixel_knn) for name in figures]
            writer.writerow([*(getattr(line, name) for name in names), *(f"{value:.4f}" for value in values)])
    (folder / "benchmark.md").write_text(f"# {heading}\n\n" + markdown(table))


def markdown(table: Sequence[Comparison]) -> str:
    """The table as Markdown, AUROC with its 95 % interval."""
    lines = [
        "| kind | positives | against | AUROC [95 % interval] | AUPR | FPR at 95 % TPR | pixel k-NN AUROC |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in table:
        own, pixels = line.detector, line.pixel_knn
        lines.append(
            f"| {line.kind} | {line.positives} ({line.positive_count}) | {line.negatives} ({line.negative_count}) "
            f"| {own.auroc:.3f} [{own.low:.3f}, {own.high:.3f}] | {own.aupr:.3f} | {own.fpr95:.3f} | {pixels.auroc:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _read_manifest(manifest: Path) -> list[dict[str, str]]:
    try:
        with manifest.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MedoodError(f"The manifest {manifest} cannot be read: {error}.") from error
    absent = [name for name in _COLUMNS if not rows or name not in rows[0]]
    if absent:
        raise MedoodError(f"{manifest}: the column {absent[0]!r} is missing; expected {', '.join(_COLUMNS)}.")
    return [row for row in rows if row["split"] in ("train", "test")]


def _keep(pictures: _Pictures, scan: Scan, detector: Detector, shrink: ResizeTo, patient: str) -> None:
    pictures.inputs.append(detector.prepare(scan))
    pictures.small.append(_plain(shrink(torch.from_numpy(scan.pixels))))
    pictures.patients.append(patient)


def _plain(picture: Tensor) -> Tensor:
    plain: Tensor = picture.as_tensor() if hasattr(picture, "as_tensor") else picture
    return plain


def _pairs(scored: dict[tuple[str, str], _Scored]) -> Iterator[tuple[str, str, _Scored, str, _Scored]]:
    """What is compared with what; ``same source`` are a near and an id_shift set whose names begin with the same word."""
    test = _pooled([value for (group, _), value in scored.items() if group == _TEST])
    shifted = {name: value for (group, name), value in scored.items() if group == _SHIFT}
    for group, name in sorted(scored):
        if group != _TEST:
            yield group, name, scored[group, name], "in_distribution test", test
    for group, name in sorted(scored):
        if group == _NEAR and shifted:
            yield "near vs id_shift", name, scored[group, name], "id_shift, pooled", _pooled(list(shifted.values()))
    for group, name in sorted(scored):
        for other, value in shifted.items():
            if group == _NEAR and name.split("_")[0] == other.split("_")[0]:
                yield "same source", name, scored[group, name], other, value


def _pooled(parts: list[_Scored]) -> _Scored:
    return _Scored(
        np.concatenate([part.detector for part in parts]),
        np.concatenate([part.pixels for part in parts]),
        np.concatenate([part.patients for part in parts]),
    )


def _compare(
    kind: str, name: str, other: str, positives: _Scored, negatives: _Scored, repeats: int, seed: int
) -> Comparison:
    own, pixels = (
        separation(p, n, positive_groups=positives.patients, negative_groups=negatives.patients, repeats=repeats, seed=seed)
        for p, n in ((positives.detector, negatives.detector), (positives.pixels, negatives.pixels))
    )
    return Comparison(kind, name, other, len(positives.detector), len(negatives.detector), own, pixels)
