"""Build a manifest from a downloaded data set and its card, and check a manifest."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from medood.detection.perceptual_hash import NEAR, Hashes, difference_hashes, near_pairs
from medood.errors import MedoodError
from medood.evaluation.data_cards import Card, Table
from medood.evaluation.manifest import COLUMNS, OPTIONAL_COLUMNS, Entry, read_manifest
from medood.output_folder import atomic_write
from medood.progress import Progress
from medood.scans.reader import read_source
from medood.scans.scan import Scan
from medood.scans.sources.csv_table import CsvTable
from medood.scans.sources.source import Source
from medood.scans.transforms import ResizeTo

#: Shares of an in-distribution set's patients for training, calibration and testing.
SPLITS = {"train": 0.7, "calibration": 0.15, "test": 0.15}
_SIDE = 64
_FIELDS = (*COLUMNS, *OPTIONAL_COLUMNS)


@dataclass(frozen=True)
class ManifestBuild:
    """Result of building a manifest from a data set's files.

    Attributes:
        entries: rows of the manifest, their files relative to the data set's folder.
        no_rule: number of files that match no rule of the card.
        no_label: number of files without a row in a label table.
        unreadable: a sentence for each file that is not a scan.
        same_content: files left out because another file has the same bytes.
        near_pairs: pairs of nearly identical images; such files are put into the same split.
        notes: notes for the user, such as a missing table.
    """

    entries: list[Entry]
    no_rule: int
    no_label: int
    unreadable: list[str]
    same_content: list[str]
    near_pairs: list[tuple[str, str]]
    notes: list[str]


def make_manifest(
    card: Card,
    folder: Path,
    *,
    normal: str = "id_shift",
    read_images: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> ManifestBuild:
    """Apply a card's recipe to a folder.

    Args:
        card: the data set's card.
        folder: where it was downloaded and unpacked to.
        normal: the group of its normal scans: ``in_distribution`` (split by patient into train, calibration and test; a
            patient who also has scans of another group is in test only) or ``id_shift`` (test only).
        look: read every file, to find unreadable files and nearly identical images.
        seed: seed of the split.
        progress: progress display.

    Raises:
        MedoodError: the folder does not match the card.
    """
    progress = progress or Progress(quiet=True)
    if normal not in ("in_distribution", "id_shift"):
        raise MedoodError(f"--normal is {normal!r}; expected in_distribution or id_shift.")
    if not folder.is_dir():
        raise MedoodError(f"{folder} is no folder. Give the one that {card.name} was unpacked to.")
    files = sorted({path for pattern in card.recipe.files for path in folder.glob(pattern) if path.is_file()})
    if not files:
        raise MedoodError(
            f"{folder} holds no file like {' or '.join(card.recipe.files)}. {card.name} is laid out so: {card.layout}"
        )
    notes: list[str] = []
    labels = [(table, _read_table(table, folder, card, notes)) for table in card.recipe.tables]
    entries: list[Entry] = []
    no_rule = no_label = 0
    for path in files:
        relative = path.relative_to(folder).as_posix()
        values = _values(relative, labels)
        if values is None:
            no_label += 1
        elif entry := _entry(card, relative, values, normal):
            entries.append(entry)
        else:
            no_rule += 1
    if not card.recipe.patient:
        notes.append(f"{card.name} does not identify patients: radiographs of one patient may be on both sides of a split")
    entries, unreadable, same, pairs = _read_entries(entries, folder, read_images, progress)
    entries = _split(entries, pairs, seed)
    if not entries:
        raise MedoodError(
            f"{folder}: none of {len(files)} files became a row ({no_rule} that no rule takes, {no_label} without a label, "
            f"{len(unreadable)} unreadable). {card.name} is laid out so: {card.layout}"
        )
    if normal == "in_distribution":
        counts = Counter(entry.split for entry in entries if entry.group == "in_distribution")
        notes += [f"the split {name} of the in-distribution scans is empty" for name in SPLITS if not counts[name]]
    return ManifestBuild(entries, no_rule, no_label, unreadable, same, pairs, notes)


def write_manifest(manifest: ManifestBuild, folder: Path, target: Path, append: bool) -> int:
    """Write the rows, with files relative to the manifest; return its new number of rows.

    Raises:
        MedoodError: the manifest exists and ``append`` is false, or it would contain a data set twice.
    """
    old: list[Entry] = []
    if target.exists():
        if not append:
            raise MedoodError(f"{target} is there already. Add --append, or give another --out.")
        old = read_manifest(target)
    names = {entry.dataset for entry in old} & {entry.dataset for entry in manifest.entries}
    if names:
        raise MedoodError(f"{target} already holds {', '.join(sorted(names))}; nothing was added.")
    base = os.path.relpath(folder.resolve(), target.resolve().parent)
    new = [replace(entry, file=(Path(base) / entry.file).as_posix()) for entry in manifest.entries]
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_write(target) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(_FIELDS)
        writer.writerows([getattr(entry, name) for name in _FIELDS] for entry in old + new)
    return len(old) + len(new)


@dataclass(frozen=True)
class ManifestCheck:
    """Result of checking a manifest.

    Attributes:
        counts: number of rows by group, data set and split.
        problems: a sentence for each problem; empty if there is none.
    """

    counts: dict[tuple[str, str, str], int]
    problems: list[str]


def check_manifest(path: Path, progress: Progress | None = None) -> ManifestCheck:
    """Read a manifest and every file: missing files, patients and images on both sides of a split, groups without scans.

    Raises:
        MedoodError: the file is not a manifest.
    """
    entries = read_manifest(path)
    progress = progress or Progress(quiet=True)
    problems: list[str] = []
    counts = Counter((entry.group, entry.dataset, entry.split) for entry in entries)
    if not any(entry.group == "in_distribution" and entry.split == "test" for entry in entries):
        problems.append("no row of the group in_distribution has the split test: the benchmark has nothing to accept")
    if not any(entry.split == "train" for entry in entries):
        problems.append("no row has the split train: the baselines have nothing to learn from")
    wrong = [entry.file for entry in entries if entry.split != "test" and entry.group != "in_distribution"]
    if wrong:
        problems.append(f"{len(wrong)} rows outside the group in_distribution are not in the split test, such as {wrong[0]}")
    doubled = [file for file, count in Counter(entry.file for entry in entries).items() if count > 1]
    problems += [f"{file} is in more than one row" for file in doubled]
    sides: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.patient_id:
            sides[entry.patient].add(entry.split)
    for patient in sorted(name for name, splits in sides.items() if len(splits) > 1):
        problems.append(f"the patient {patient} is in {' and '.join(sorted(sides[patient]))}")
    split_of = {entry.file: entry.split for entry in entries}
    _, unreadable, same, pairs = _read_entries(entries, path.parent, True, progress)
    problems += unreadable
    problems += [f"{file}, the same bytes as another row" for file in same]
    problems += [
        f"{first} ({split_of[first]}) and {second} ({split_of[second]}) are nearly the same image"
        for first, second in pairs
        if split_of[first] != split_of[second]
    ]
    return ManifestCheck(dict(sorted(counts.items())), problems)


def _read_table(table: Table, folder: Path, card: Card, notes: list[str]) -> dict[str, dict[str, str]] | None:
    """Values by key and column; rows with the same key are merged. None if an optional table is absent."""
    path = next((folder / name for name in table.files if (folder / name).is_file()), None)
    if path is None:
        problem = f"{folder} does not hold {' or '.join(table.files)}"
        if not table.optional:
            raise MedoodError(f"{problem}, the labels of {card.name}. It is laid out so: {card.layout}")
        notes.append(f"{problem}, from which {card.name} takes {table.key}")
        return None
    try:
        rows = list(_rows(path))
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise MedoodError(f"{path} cannot be read as the labels of {card.name}: {error}.") from error
    if rows and table.key not in rows[0]:
        raise MedoodError(f"{path} has no column {table.key!r}; it has: {', '.join(list(rows[0])[:20])}.")
    by_column: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        key = row.get(table.key, "").strip()
        if table.key_pattern:
            match = re.search(table.key_pattern, key)
            key = match[1] if match else ""
        values = by_column.setdefault(key, {})
        for column, value in row.items():
            texts = values.setdefault(column, [])
            if value not in texts:
                texts.append(value)
    return {key: {column: "|".join(texts) for column, texts in values.items()} for key, values in by_column.items()}


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if path.suffix == ".json":
        for item in json.loads(path.read_text(encoding="utf-8")):
            yield {str(name): str(value) for name, value in dict(item).items()}
        return
    for _, row in CsvTable(path).rows():
        yield {name: value for name, value in row.items() if name}


def _values(relative: str, labels: Sequence[tuple[Table, dict[str, dict[str, str]] | None]]) -> dict[str, str] | None:
    """All table values of a file, or None if a required table does not list it."""
    values = {"path": relative}
    for table, rows in labels:
        if rows is None:
            continue
        path = Path(relative)
        if table.match in ("name", "stem"):
            key = getattr(path, table.match)
        else:
            match = re.search(table.match, relative)
            key = match[1] if match else ""
        if key in rows:
            values = {**rows[key], **values}
        elif not table.optional:
            return None
    return values


def _entry(card: Card, relative: str, values: dict[str, str], normal: str) -> Entry | None:
    for rule in card.recipe.rules:
        if all(re.search(pattern, values.get(column, "")) for column, pattern in rule.when.items()):
            patient = ""
            for column, pattern in card.recipe.patient.items():
                match = re.search(pattern, values.get(column, ""))
                patient = match[1] if match else ""
            group = normal if rule.group == "normal" else rule.group
            return Entry(relative, "test", group, rule.dataset, patient)
    return None


def _read_entries(
    entries: list[Entry], folder: Path, read_images: bool, progress: Progress
) -> tuple[list[Entry], list[str], list[str], list[tuple[str, str]]]:
    """Readable entries without duplicates, a sentence for each unreadable one, duplicates, and pairs of similar images."""
    if not read_images:
        return entries, [], [], []
    readable: list[Entry] = []
    unreadable: list[str] = []
    same: list[str] = []
    digests: set[str] = set()
    hashes: list[Hashes] = []
    shrink = ResizeTo(_SIDE)
    for entry in progress.track(iter(entries), len(entries), "looking at the images"):
        result = next(iter(read_source(Source(folder / entry.file))))
        if not isinstance(result, Scan):
            unreadable.append(f"{entry.file}: {result.reason}")
        elif result.identity.sha256 in digests:
            same.append(entry.file)
        else:
            digests.add(result.identity.sha256)
            small = torch.as_tensor(shrink(torch.from_numpy(np.ascontiguousarray(result.pixels))))
            hashes.append(difference_hashes(small[None]))
            readable.append(entry)
    pairs = near_pairs(np.concatenate(hashes), NEAR) if hashes else []
    return readable, unreadable, same, [(readable[i].file, readable[j].file) for i, j in pairs]


def _split(entries: list[Entry], pairs: list[tuple[str, str]], seed: int) -> list[Entry]:
    """Split in-distribution entries by patient, keeping near-duplicates together; all others go to ``test``."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    patient_of = {entry.file: entry.patient for entry in entries}
    for first, second in pairs:
        parent[root(patient_of[first])] = root(patient_of[second])
    chosen = {root(entry.patient) for entry in entries if entry.group == "in_distribution"}
    tests = {root(entry.patient) for entry in entries if entry.group != "in_distribution"}  # all their scans are tests
    groups = sorted(chosen - tests, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    ends = np.cumsum([share * len(groups) for share in SPLITS.values()])
    names = list(SPLITS)
    split = {name: names[min(int(np.searchsorted(ends, i, side="right")), 2)] for i, name in enumerate(groups)}
    return [replace(entry, split=split.get(root(entry.patient), "test")) for entry in entries]
