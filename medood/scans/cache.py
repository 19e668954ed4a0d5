"""Decoded training pictures in one memory-mapped file: made once, keyed by content and preprocessing: raw bytes and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medood.config import PreprocessConfig
from medood.errors import MedoodError
from medood.scans.archive import Source, find_sources, read_source
from medood.scans.scan import Refusal, Status, sha256_of
from medood.scans.transforms import network_input, preprocessing, to_levels

_FORMAT = 1


@dataclass(frozen=True)
class PictureCache:
    """Pictures of one folder.

    Attributes:
        pictures: uint8 ``[N, S, S]``, memory-mapped read-only; 255 is 1.0.
        keys: the N scan keys (``<sha256>:<frame>``), in the order of the pictures.
        patients: the N patient hashes, empty where unknown.
        refused: how many files gave no picture, by status.
    """

    pictures: npt.NDArray[np.uint8]
    keys: list[str]
    patients: list[str]
    refused: dict[str, int]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the sorted keys: equal for equal pictures, whatever their names."""
        return sha256_of("\n".join(sorted(self.keys)).encode())


def build_cache(
    root: Path,
    folder: Path,
    config: PreprocessConfig,
    size: int,
    *,
    limit: int | None = None,
    track: Callable[[Iterator[Any], int], Iterator[Any]] | None = None,
) -> PictureCache:
    """Decode every scan below ``root`` to ``size`` x ``size`` and map the result; a finished cache is used again.

    Args:
        root: a file, folder or zip of in-distribution scans.
        folder: where the cache is kept.
        config: the detector's preprocessing.
        size: side of the cached pictures.
        limit: stop after this many pictures.
        track: wraps the loop in a progress bar, given the number of sources.

    Raises:
        MedoodError: nothing lies at ``root``, or no file there is a scan.
    """
    try:
        found = list(find_sources(root))
    except FileNotFoundError as error:
        raise MedoodError(f"data.root: {error}. Give the folder that holds the in-distribution scans.") from error
    stamp = sha256_of(json.dumps([_FORMAT, asdict(config), size, limit, [_signature(item) for item in found]]).encode())
    target = folder / f"{stamp[:16]}.u8"
    if not target.with_suffix(".json").exists():
        _decode(found, target, preprocessing(config, size), size, limit, track)
    index = json.loads(target.with_suffix(".json").read_text())
    if not index["keys"]:
        counts = ", ".join(f"{n} {status}" for status, n in index["refused"].items()) or "no file at all"
        raise MedoodError(f"data.root: no scan was found in {root} ({counts}). Expected DICOM, PNG, JPEG or TIFF.")
    pictures = np.memmap(target, dtype=np.uint8, mode="r", shape=(len(index["keys"]), size, size))
    return PictureCache(pictures, index["keys"], index["patients"], index["refused"])


def _signature(item: Source | Refusal) -> list[str | int]:
    if isinstance(item, Refusal):
        return [item.identity.name, item.status]
    stat = item.path.stat()
    return [str(item.path), item.member, stat.st_size, stat.st_mtime_ns]


def _decode(
    found: list[Source | Refusal],
    target: Path,
    chain: Any,
    size: int,
    limit: int | None,
    track: Callable[[Iterator[Any], int], Iterator[Any]] | None,
) -> None:
    keys: list[str] = []
    patients: list[str] = []
    refused: dict[str, int] = {}
    seen: set[str] = set()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".part")
    with partial.open("wb") as stream:
        for item in track(iter(found), len(found)) if track else iter(found):
            for result in [item] if isinstance(item, Refusal) else read_source(item):
                if isinstance(result, Refusal):
                    refused[result.status] = refused.get(result.status, 0) + 1
                elif result.identity.key in seen:
                    refused[Status.DUPLICATE] = refused.get(Status.DUPLICATE, 0) + 1
                else:
                    seen.add(result.identity.key)
                    stream.write(to_levels(network_input(result, chain)).numpy().tobytes())
                    keys.append(result.identity.key)
                    patients.append(result.patient)
            if limit is not None and len(keys) >= limit:
                break
    partial.replace(target)
    index = {"keys": keys, "patients": patients, "refused": refused}
    partial.write_text(json.dumps(index))
    partial.replace(target.with_suffix(".json"))
