"""Re-read the scans of a finished run from their sources, since the ledger stores no pixels."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from medood.config.schema import ReadConfig
from medood.scans.dicom.parser import is_dicom, parse_dicom
from medood.scans.reader import read_source
from medood.scans.scan import RefusedError, Scan, UnavailableError
from medood.scans.sources.compression import is_compressed, unpack
from medood.scans.sources.dicomweb import is_dicomweb
from medood.scans.sources.source import Source, find_sources, read_bytes
from medood.screening.ledger.database import Row, escape_name

#: Reasons why an original scan is not available.
CHANGED = "the file has changed since it was screened"
GONE = "the file is no longer where it was screened"
#: Patient and study attributes in display order, with their names in a report.
IDENTIFIERS = {
    "PatientID": "Patient ID",
    "PatientName": "Patient name",
    "PatientBirthDate": "Birth date",
    "StudyDate": "Study date",
    "AccessionNumber": "Accession number",
    "StudyInstanceUID": "Study UID",
}


@dataclass(frozen=True)
class OriginalScan:
    """A re-read scan and its source."""

    source: Source
    scan: Scan


def read_headers(rows: Sequence[Row], base: Path, options: ReadConfig) -> Iterator[tuple[list[Row], Dataset | str]]:
    """Parse the DICOM objects of scored rows again, without decoding any image; each source is opened only once.

    Args:
        rows: rows of scored scans.
        base: the folder against which relative sources are resolved.
        options: the run's reading options.

    Yields:
        the rows of each object together, with the object, or with the reason why there is none.
    """
    for source, source_rows in _by_source(rows).items():
        waiting: dict[str, list[Row]] = defaultdict(list)
        for row in source_rows:
            waiting[row.member].append(row)
        try:
            for member in find_sources(_resolved(source, base), options):
                name = escape_name(member.member) if isinstance(member, Source) else ""
                if isinstance(member, Source) and name in waiting:
                    yield waiting[name], _header_of(member, options, waiting.pop(name)[0].sha256)
        except (OSError, UnavailableError):
            pass
        for member_rows in waiting.values():
            yield member_rows, GONE


def _header_of(source: Source, options: ReadConfig, sha256: str) -> Dataset | str:
    try:
        if hashlib.sha256(read_bytes(source, options)).hexdigest() != sha256:
            return CHANGED
        return header(source, options)
    except OSError:
        return GONE
    except RefusedError as refused:
        return str(refused.reason)
    except Exception:  # a header may be malformed in any way; one file must not stop the rest
        return "the file is no DICOM object and so belongs to no study"


def _by_source(rows: Sequence[Row]) -> dict[str, list[Row]]:
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_source[row.source].append(row)
    return by_source


def _resolved(source: str, base: Path) -> str | Path:
    return source if is_dicomweb(source) else find_escaped(base / source)


def read_original_scans(rows: Sequence[Row], base: Path, options: ReadConfig) -> Iterator[tuple[Row, OriginalScan | str]]:
    """Re-read the scans of scored rows; each source is opened only once.

    Args:
        rows: rows of scored scans.
        base: the folder against which relative sources are resolved.
        options: the run's reading options.

    Yields:
        each row once, in the order found, with its scan or with ``CHANGED`` or ``GONE``.
    """
    for source, source_rows in _by_source(rows).items():
        waiting = {(row.member, row.frame, row.sha256): row for row in source_rows}
        changed = set[str]()
        try:
            for member in find_sources(_resolved(source, base), options):
                if not waiting:
                    break
                name = escape_name(member.member) if isinstance(member, Source) else ""
                if not isinstance(member, Source) or not any(name == waiting_name for waiting_name, _, _ in waiting):
                    continue
                for result in read_source(member, options):
                    key = (name, result.identity.frame, result.identity.sha256)
                    if isinstance(result, Scan) and key in waiting:
                        yield waiting.pop(key), OriginalScan(member, result)
                changed.add(name)  # rows still waiting were not in it
        except (OSError, UnavailableError):
            pass
        for (name, _, _), row in waiting.items():
            yield row, CHANGED if name in changed else GONE


def find_escaped(path: Path) -> Path:
    """Resolve a path from the ledger, which escapes the bytes of a file name that are not UTF-8."""
    if path.exists() or not path.parent.is_dir():
        return path
    return next((candidate for candidate in path.parent.iterdir() if escape_name(candidate.name) == path.name), path)


def header(source: Source, options: ReadConfig) -> Dataset:
    """Parse the DICOM object of a source.

    Raises:
        OSError: it cannot be read.
        RefusedError: it exceeds a limit.
        InvalidDicomError: it is not a DICOM object.
    """
    content = read_bytes(source, options)
    content = unpack(content, options).content if is_compressed(content) else content
    if not is_dicom(content):
        raise pydicom.errors.InvalidDicomError("not a DICOM object")
    return parse_dicom(content, options).dataset


def patient_and_study(source: Source, options: ReadConfig) -> dict[str, str]:
    """Patient and study attributes by their names in ``IDENTIFIERS``; empty if the header states none or is unreadable."""
    try:
        dataset = header(source, options)
        values = {words: str(dataset.get(name, "") or "") for name, words in IDENTIFIERS.items()}
    except Exception:  # a header may be malformed in any way; one file must not stop the rest
        return {}
    return {words: value for words, value in values.items() if value}
