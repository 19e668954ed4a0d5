"""Thumbnails of the scans that a detector learned from, where the user has them: a detector holds no picture."""

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


def known_pictures(folder: Path, wanted: set[str], target: Path, progress: Progress) -> dict[str, tuple[str, str]]:
    """Find scans by SHA-256 in a folder or archive, and write a thumbnail of each.

    Args:
        folder: where they are looked for.
        wanted: their SHA-256.
        target: where the thumbnails go.
        progress: where to draw.

    Returns:
        by SHA-256 the name of the scan and the file of its thumbnail, for those that were found.

    Raises:
        MedoodError: there is no such folder.
    """
    try:
        check_there(folder)
    except FileNotFoundError as error:
        raise MedoodError(f"--known: {error}. Give the folder of the scans that the detector learned from.") from error
    found: dict[str, tuple[str, str]] = {}
    for item in progress.track(find_sources(folder), count_sources(folder), "nearest scans"):
        if len(found) == len(wanted):
            break
        if not isinstance(item, Source):
            continue
        with contextlib.suppress(OSError, RefusedError):
            digest = hashlib.sha256(read_bytes(item, ReadConfig())).hexdigest()
            if digest not in wanted or digest in found:
                continue
            scan, *others = itertools.islice(read_source(item), 2)
            if isinstance(scan, Scan) and not others:  # of several frames it is not known which one was meant
                name = f"known-{digest[:12]}.jpg"
                thumbnail(scan).save(target / name, quality=90, optimize=True)
                found[digest] = (Path(item.member or item.path).name, name)
    if wanted and not found:
        progress.say(f"--known: none of the {len(wanted)} nearest scans is in {folder}")
    return found
