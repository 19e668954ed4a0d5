"""Cache of decoded training images: one memory-mapped raw file and a JSON index, keyed by content and preprocessing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medood.config.schema import PreprocessConfig, ReadConfig
from medood.errors import MedoodError
from medood.output_folder import atomic_write
from medood.scans.reader import DigestStore, check_options, read_source
from medood.scans.scan import Refusal
from medood.scans.sources.source import Source, find_sources
from medood.scans.transforms import network_input, preprocessing, to_levels

_FORMAT = 2


@dataclass(frozen=True)
class ImageCache:
    """The cached images of one source.

    Attributes:
        images: uint8 ``[N, S, S]``, or ``[N, 3, S, S]`` in colour, memory-mapped read-only; 255 is 1.0.
        keys: the N scan keys (``<sha256>:<frame>``), in the order of the images.
        patients: the N patient hashes, empty where unknown.
        refused: number of files without an image, by status.
        native: median of the scans' shorter sides, in pixels.
    """

    images: npt.NDArray[np.uint8]
    keys: list[str]
    patients: list[str]
    refused: dict[str, int]
    native: int = 0


def build_cache(
    root: Path,
    folder: Path,
    config: PreprocessConfig,
    size: int,
    *,
    key: str = "data.root",
    native: int = 0,
    options: ReadConfig | None = None,
    limit: int | None = None,
    track: Callable[[Iterator[Any], int], Iterator[Any]] | None = None,
) -> ImageCache:
    """Decode every scan below ``root`` to ``size`` x ``size`` and memory-map the result; a finished cache is reused.

    Args:
        root: a file, folder, archive, DICOMDIR or CSV manifest of in-distribution scans.
        folder: where the cache is kept.
        config: the detector's preprocessing.
        size: side of the cached images.
        key: configuration key of ``root``, for messages.
        native: shrink to this side first, so that auxiliary images are no sharper than in-distribution ones; 0 skips this.
        options: which frames and objects become scans, and the limits.
        limit: stop after this many images.
        track: wraps the loop in a progress bar, given the number of sources.

    Raises:
        MedoodError: ``root`` does not exist or holds no scan.
    """
    options = options or ReadConfig()
    check_options(options)
    try:
        colour = ["colour"] if config.channels == 3 else []
        settings = [_FORMAT, config.fit, config.equalize, asdict(options), size, limit, native, *colour]
        stamp, count = _stamp(settings, root, options)
    except FileNotFoundError as error:
        raise MedoodError(f"{key}: {error}. Give a folder that holds scans.") from error
    target = folder / f"{stamp[:16]}.u8"
    if not target.with_suffix(".json").exists():
        sources = find_sources(root, options)
        chain = preprocessing(config, size, intermediate=native)
        _decode(track(sources, count) if track else sources, target, chain, options, limit)
    index = json.loads(target.with_suffix(".json").read_text())
    if not index["keys"]:
        counts = ", ".join(f"{n} {status}" for status, n in index["refused"].items()) or "no file at all"
        raise MedoodError(f"{key}: no scan was found in {root} ({counts}). Expected DICOM, PNG, JPEG, TIFF or NIfTI.")
    shape = (len(index["keys"]), *([3] if colour else []), size, size)
    images = np.memmap(target, dtype=np.uint8, mode="r", shape=shape)
    return ImageCache(images, index["keys"], index["patients"], index["refused"], index["native"])


def _stamp(settings: list[Any], root: Path, options: ReadConfig) -> tuple[str, int]:
    """Return a digest of the settings and the files, and the number of sources."""
    digest, count = hashlib.sha256(json.dumps(settings).encode()), 0
    for item in find_sources(root, options):
        digest.update(json.dumps(_signature(item)).encode())
        count += 1
    return digest.hexdigest(), count


def _signature(item: Source | Refusal) -> list[str | int]:
    if isinstance(item, Refusal):
        return [item.identity.name, item.status]
    stat = item.path.stat()
    return [str(item.path), item.member, stat.st_size, stat.st_mtime_ns, item.patient, item.sha256]


def _decode(sources: Iterator[Source | Refusal], target: Path, chain: Any, options: ReadConfig, limit: int | None) -> None:
    keys: list[str] = []
    patients: list[str] = []
    refused: dict[str, int] = {}
    sides: list[int] = []
    digests = DigestStore()
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as partial, partial.open("wb") as stream:
        for item in sources:
            for result in [item] if isinstance(item, Refusal) else read_source(item, options, digests):
                if isinstance(result, Refusal):
                    refused[result.status] = refused.get(result.status, 0) + 1
                else:
                    stream.write(to_levels(network_input(result, chain)).numpy().tobytes())
                    keys.append(result.identity.key)
                    sides.append(min(result.pixels.shape[1:]))
                    patients.append(result.patient)
                if limit is not None and len(keys) >= limit:
                    break
            if limit is not None and len(keys) >= limit:
                break
    native = int(np.median(sides)) if sides else 0
    index = {"keys": keys, "patients": patients, "refused": refused, "native": native}
    with atomic_write(target.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(index))
