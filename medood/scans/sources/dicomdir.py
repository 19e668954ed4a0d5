"""List the files in the DICOMDIR of a DICOM file-set (PS3.10 section 8)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pydicom

from medood.config.schema import ReadConfig
from medood.reasons import Reason
from medood.scans.dicom.parser import parse_dicom
from medood.scans.scan import Identity, Refusal, Status
from medood.scans.sources.listed_file import ListedFile

_FILE_SET_CLASS = b"1.2.840.10008.1.3.10"
_MEDIA_CLASS = b"\x02\x00\x02\x00UI"  # Media Storage SOP Class UID; its length follows


def is_file_set(path: Path, start: bytes) -> bool:
    """Return whether the first bytes are those of a DICOMDIR (PS3.10 section 8.6)."""
    place = start.find(_MEDIA_CLASS, 132)
    return start[128:132] == b"DICM" and place > 0 and start[place + 8 :].startswith(_FILE_SET_CLASS)


def read_file_set(path: Path) -> Iterator[ListedFile | Refusal]:
    """Yield the files of a DICOMDIR in the order of its records; names that point outside its folder are refused.

    Media are often copied to file systems that change the case of names, or by programs that add an extension. So names
    match in any case, and with an added extension if only one file matches.
    """
    try:
        content = path.read_bytes()
        records = parse_dicom(content, ReadConfig()).dataset.get("DirectoryRecordSequence") or []
        names = [_components(record) for record in records]
    except Exception:  # pydicom raises many exception types on damaged files
        yield Refusal(Identity(str(path)), Status.UNREADABLE, Reason("dicomdir_damaged"))
        return
    files = [name for name in names if name]
    if not files:
        yield Refusal(Identity(str(path)), Status.NOT_AN_IMAGE, Reason("dicomdir_empty"))
    for name in files:
        place = path.parent.joinpath(*name)
        if any(part in ("", ".", "..") or "\0" in part for part in name):
            yield Refusal(Identity(str(path), "/".join(name)), Status.UNSAFE_PATH, Reason("dicomdir_outside"))
            continue
        try:
            located = _ignoring_case(path.parent, name)
            inside = located is not None and located.resolve().is_relative_to(path.parent.resolve())
        except (OSError, RuntimeError):  # a name that no file system accepts, a link to itself
            located, inside = None, False
        if located is None or not inside:
            yield Refusal(Identity(str(place)), Status.UNREADABLE, Reason("dicomdir_file_missing"))
        else:
            yield ListedFile(located)


def _components(record: pydicom.Dataset) -> list[str]:
    value = record.get("ReferencedFileID")
    if not value:
        return []
    parts = [value] if isinstance(value, str) else [str(part) for part in value]
    return [
        piece for part in parts for piece in re.split(r"[/\\]", part.strip())
    ]  # some writers put the whole path into one component


def _ignoring_case(folder: Path, name: list[str]) -> Path | None:
    exact = folder.joinpath(*name)
    if exact.is_file():
        return exact
    for part in name:
        names = _casefolded(folder, folder.stat().st_mtime_ns)
        match = names.get(part.casefold())
        if match is None and part is name[-1]:  # copying may have added an extension
            longer = [file_name for key, file_name in names.items() if key.rpartition(".")[0] == part.casefold()]
            match = longer[0] if len(longer) == 1 else None
        if match is None:
            return None
        folder = folder / match
    return folder


@lru_cache(maxsize=64)
def _casefolded(folder: Path, modified: int) -> dict[str, str]:
    return {p.name.casefold(): p.name for p in sorted(folder.iterdir(), reverse=True)} if folder.is_dir() else {}
