"""Re-read the scans of a finished run from their sources, since the ledger stores no pixels."""

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


def read_original_scans(rows: Sequence[Row], base: Path, options: ReadConfig) -> Iterator[tuple[Row, OriginalScan | str]]:
    """Re-read the scans of scored rows; each source is opened only once.

    Args:
        rows: rows of scored scans.
        base: the folder against which relative sources are resolved.
        options: the run's reading options.

    Yields:
        each row once, in the order found, with its scan or with ``CHANGED`` or ``GONE``.
    """
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_source[row.source].append(row)
    for source, source_rows in by_source.items():
        waiting = {(row.member, row.frame, row.sha256): row for row in source_rows}
        changed = set[str]()
        try:
            where = source if is_dicomweb(source) else find_escaped(base / source)
            for member in find_sources(where, options):
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
