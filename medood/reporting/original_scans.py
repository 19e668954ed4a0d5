"""Scans of a finished run, read again where they were found: a ledger keeps no pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from medood.config.schema import ReadConfig
from medood.scans.dicom.parser import is_dicom, parse_dicom
from medood.scans.reader import read_source
from medood.scans.scan import Scan, UnavailableError
from medood.scans.sources.compression import is_compressed, unpacked
from medood.scans.sources.dicomweb import is_dicomweb
from medood.scans.sources.source import Source, find_sources, read_bytes
from medood.screening.ledger import Row, spelled

#: Why an original cannot be had.
CHANGED = "the file has changed since it was screened"
GONE = "the file is no longer where it was screened"
#: What a header says of patient and study, in the order it is shown, and what a report calls it.
IDENTIFIERS = {
    "PatientID": "Patient ID",
    "PatientName": "Patient name",
    "PatientBirthDate": "Birth date",
    "StudyDate": "Study date",
    "AccessionNumber": "Accession number",
    "StudyInstanceUID": "Study UID",
}


@dataclass(frozen=True)
class Original:
    """A scan read again, and where it was found."""

    source: Source
    scan: Scan


def originals(rows: Sequence[Row], base: Path, options: ReadConfig) -> Iterator[tuple[Row, Original | str]]:
    """Scans of scored rows; each source is opened once, however many rows are of it.

    Args:
        rows: of scored scans.
        base: the folder that relative sources are relative to.
        options: those that the run was read with.

    Yields:
        each row once, with its scan or with ``CHANGED`` or ``GONE``; in the order in which they are found.
    """
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_source[row.source].append(row)
    for source, some in by_source.items():
        waiting = {(row.member, row.frame, row.sha256): row for row in some}
        changed = set[str]()
        try:
            where = source if is_dicomweb(source) else spelled_out(base / source)
            for member in find_sources(where, options):
                if not waiting:
                    break
                name = spelled(member.member) if isinstance(member, Source) else ""
                if not isinstance(member, Source) or not any(name == wanted for wanted, _, _ in waiting):
                    continue
                for result in read_source(member, options):
                    key = (name, result.identity.frame, result.identity.sha256)
                    if isinstance(result, Scan) and key in waiting:
                        yield waiting.pop(key), Original(member, result)
                changed.add(name)  # what is still waited for was not in it
        except (OSError, UnavailableError):
            pass
        for (name, _, _), row in waiting.items():
            yield row, CHANGED if name in changed else GONE


def spelled_out(path: Path) -> Path:
    """The file whose name the ledger spells so: bytes that are no UTF-8 are spelled out there."""
    if path.exists() or not path.parent.is_dir():
        return path
    return next((found for found in path.parent.iterdir() if spelled(found.name) == path.name), path)


def header(source: Source, options: ReadConfig) -> Dataset:
    """The DICOM object of a source.

    Raises:
        OSError: it cannot be read.
        RefusedError: a limit refuses it.
        InvalidDicomError: it is none.
    """
    content = read_bytes(source, options)
    content = unpacked(content, options).content if is_compressed(content) else content
    if not is_dicom(content):
        raise pydicom.errors.InvalidDicomError("no DICOM object")
    return parse_dicom(content, options).dataset


def patient_and_study(source: Source, options: ReadConfig) -> dict[str, str]:
    """What the header says of patient and study, by the words of ``IDENTIFIERS``; empty where it says nothing or is none."""
    try:
        dataset = header(source, options)
        stated = {words: str(dataset.get(name, "") or "") for name, words in IDENTIFIERS.items()}
    except Exception:  # a header may be wrong in any way, and no file may stop the rest
        return {}
    return {words: value for words, value in stated.items() if value}
