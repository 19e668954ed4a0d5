"""Thumbnails of training scans from a folder that the user supplies, since a detector holds no images."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from pathlib import Path

from medood.config.schema import ReadConfig
from medood.errors import MedoodError
from medood.progress import Progress
from medood.reporting.renderings import thumbnail
from medood.scans.reader import read_source
from medood.scans.scan import RefusedError, Scan
from medood.scans.sources.folder import check_there
from medood.scans.sources.source import Source, count_sources, find_sources, read_bytes


def training_thumbnails(folder: Path, keys: set[str], target: Path, progress: Progress) -> dict[str, tuple[str, str]]:
    """Find scans by SHA-256 in a folder or archive, and write a thumbnail of each.

    Args:
        folder: the folder or archive to search.
        keys: SHA-256 digests of the scans.
        target: the folder for the thumbnails.
        progress: the progress display.

    Returns:
        the name and the thumbnail file of each scan found, by SHA-256.

    Raises:
        MedoodError: there is no such folder.
    """
    try:
        check_there(folder)
    except FileNotFoundError as error:
        raise MedoodError(f"--training-scans: {error}. Give the folder of the detector's training scans.") from error
    thumbnails: dict[str, tuple[str, str]] = {}
    for item in progress.track(find_sources(folder), count_sources(folder), "nearest scans"):
        if len(thumbnails) == len(keys):
            break
        if not isinstance(item, Source):
            continue
        with contextlib.suppress(OSError, RefusedError):
            digest = hashlib.sha256(read_bytes(item, ReadConfig())).hexdigest()
            if digest not in keys or digest in thumbnails:
                continue
            scan, *others = itertools.islice(read_source(item), 2)
            if isinstance(scan, Scan) and not others:  # with several frames, the one trained on is unknown
                name = f"known-{digest[:12]}.jpg"
                thumbnail(scan).save(target / name, quality=90, optimize=True)
                thumbnails[digest] = (Path(item.member or item.path).name, name)
    if keys and not thumbnails:
        progress.say(f"--training-scans: none of the {len(keys)} nearest scans is in {folder}")
    return thumbnails
