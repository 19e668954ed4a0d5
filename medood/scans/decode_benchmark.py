"""Benchmark reading DICOM files as scans against plain ``pydicom.pixel_array`` on the same files in the same run."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pydicom

from medood.errors import MedoodError
from medood.scans.reader import read_source
from medood.scans.scan import Refusal, Scan
from medood.scans.sources.source import Source, find_sources

#: Minimum duration of a timing in seconds; small sets of files are read repeatedly to reach it.
_AT_LEAST = 0.25


@dataclass(frozen=True)
class Speed:
    """One row of the table; medians over the repeats, in which the two readers alternate.

    Attributes:
        syntax: name of the transfer syntax, or ``all``.
        plugin: the decoder.
        files: number of files.
        megapixels: total size of all frames.
        medood: files per second, including hashing and grey scale.
        pixel_array: files per second with ``pydicom.dcmread(path).pixel_array``.
        ratio: median over the repeats of the ratio of the two.
    """

    syntax: str
    plugin: str
    files: int
    megapixels: float
    medood: float
    pixel_array: float
    ratio: float


def decode_speed(root: Path, repeats: int = 5) -> Iterator[Speed]:
    """Time each transfer syntax and decoder below ``root``, then all files together.

    Raises:
        MedoodError: no file decodes both ways.
    """
    groups: dict[tuple[str, str], list[tuple[Path, float]]] = {}
    for source in find_sources(root):
        if not isinstance(source, Source) or source.member:
            continue
        scans = [result for result in read_source(source) if isinstance(result, Scan)]
        if scans and "TransferSyntax" in scans[0].attributes and _plain(source.path):
            size = sum(scan.pixels.size for scan in scans) / 1e6
            groups.setdefault((scans[0].attributes["TransferSyntax"], scans[0].grayscale.plugin), []).append(
                (source.path, size)
            )
    if not groups:
        raise MedoodError(f"{root} holds no DICOM file that decodes. Give a folder of DICOM files.")
    everything = [item for items in groups.values() for item in items]
    for (syntax, plugin), items in [*sorted(groups.items()), (("all", ""), everything)]:
        paths = [path for path, _ in items]
        medood_seconds, plain_seconds = _alternating(partial(_read_all, paths), partial(_plain_all, paths), repeats)
        yield Speed(
            syntax,
            plugin,
            len(paths),
            round(sum(size for _, size in items), 2),
            len(paths) / statistics.median(medood_seconds),
            len(paths) / statistics.median(plain_seconds),
            statistics.median(t / o for o, t in zip(medood_seconds, plain_seconds, strict=True)),
        )


def two_process_gain(root: Path, repeats: int = 5) -> float:
    """Return the speedup in files per second of two processes over one."""
    paths = [source.path for source in find_sources(root) if isinstance(source, Source) and not source.member]
    halves = [paths[::2], paths[1::2]]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(_read_all, halves))  # start the processes and import before timing
        both, single = _alternating(lambda: list(pool.map(_read_all, halves)), partial(_read_all, paths), repeats)
    return statistics.median(o / b for b, o in zip(both, single, strict=True))


def _alternating(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Time both in alternation, so that a slow phase of the machine affects both, and return the seconds of each."""
    passes = max(1, round(_AT_LEAST / max(_seconds(first, 1), 1e-6)))
    _seconds(second, 1)
    times = [(_seconds(first, passes), _seconds(second, passes)) for _ in range(repeats)]
    return [a for a, _ in times], [b for _, b in times]


def _seconds(work: Callable[[], object], passes: int) -> float:
    started = time.perf_counter()
    for _ in range(passes):
        work()
    return (time.perf_counter() - started) / passes


def _read_all(paths: Sequence[Path]) -> int:
    return sum(1 for path in paths for result in read_source(Source(path)) if not isinstance(result, Refusal))


def _plain(path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(pydicom.dcmread(path).pixel_array.size)
        except Exception:  # a file that pydicom cannot read cannot be compared
            return False


def _plain_all(paths: Sequence[Path]) -> int:
    return sum(_plain(path) for path in paths)
