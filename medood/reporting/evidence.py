"""Collect a report's entries, thumbnails, and evidence for the top entries; each image is drawn once and cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.progress import Progress
from medood.reporting.entries import Entry, entries_of
from medood.reporting.evidence_cache import EvidenceCache
from medood.reporting.i18n.language import Language
from medood.reporting.original_scans import OriginalScan, patient_and_study, read_original_scans
from medood.reporting.renderings import RenderedEvidence, draw_evidence, draw_thumbnails
from medood.reporting.sentences import finding_sentence
from medood.screening.ledger.database import Row
from medood.screening.ledger.run_metadata import RunMetadata

_MEDIA = {"map": "png", "places": "png"}


@dataclass(frozen=True)
class ReportEvidence:
    """Entries, evidence and thumbnails of a run's scans.

    Attributes:
        entries: the entries of all flagged scans.
        drawn: the evidence of the first entries, or the reason why there is none.
        identifiers: patient and study attributes of the same entries; empty unless requested.
        thumbnails: file names by scan key.
    """

    entries: list[Entry]
    drawn: list[RenderedEvidence | str]
    identifiers: list[dict[str, str]]
    thumbnails: dict[str, str]


def without_pictures(flagged: Sequence[Row], top: int) -> ReportEvidence:
    """The entries without evidence or thumbnails."""
    entries = entries_of(flagged, {})
    count = len(entries[:top])
    return ReportEvidence(entries, ["left out of this report"] * count, [{}] * count, {})


def show(
    run: Path,
    metadata: RunMetadata,
    detector: Detector,
    flagged: Sequence[Row],
    accepted: Sequence[Row],
    folder: Path,
    progress: Progress,
    *,
    top: int,
    identifiers: bool,
) -> ReportEvidence:
    """Draw the evidence that no earlier report cached, and write thumbnails into a folder.

    Args:
        run: the run's folder, which holds the cache.
        metadata: the run's metadata.
        detector: the detector that scored the run.
        flagged: rows of flagged scans, highest score first.
        accepted: rows of accepted scans that also get a thumbnail.
        folder: where the thumbnails go.
        progress: the progress display.
        top: number of entries with evidence.
        identifiers: read patient and study attributes from the headers.
    """
    base, read = Path(metadata.working_directory), replace(metadata.read, select="")
    cache = EvidenceCache(run, detector, metadata)
    try:
        every = [*flagged, *accepted]
        undrawn = [row for row in every if cache.thumbnail(row.key) is None]
        missing = list[str]()
        with progress.bar(len(undrawn), "thumbnails") as bar:
            for row, small in draw_thumbnails(undrawn, detector, base, read):
                if isinstance(small, str):
                    missing.append(f"{row.source} {row.member}".strip() + f": {small}")
                else:
                    cache.keep_thumbnail(row.key, *small)
                bar(1, "")
        if missing:
            progress.say(f"some scans have no image ({len(missing)}), such as {missing[0]}")
        looks, thumbnails = dict[tuple[str, int], bytes](), dict[str, str]()
        for number, row in enumerate(every, start=1):
            if (cached := cache.thumbnail(row.key)) is not None:
                looks[row.sha256, row.frame] = cached[1]
                thumbnails[row.key] = f"small-{number:05d}.jpg"
                (folder / thumbnails[row.key]).write_bytes(cached[0])
        entries = entries_of(flagged, looks)
        shown_rows = [entry.row for entry in entries[:top]]
        evidence = _evidence(shown_rows, detector, cache, base, read, progress)
    finally:
        cache.close()
    identifiers_of: list[dict[str, str]] = [{} for _ in shown_rows]
    if identifiers:
        place = {id(row): number for number, row in enumerate(shown_rows)}
        for row, original in read_original_scans(shown_rows, base, read):
            if isinstance(original, OriginalScan):
                identifiers_of[place[id(row)]] = patient_and_study(original.source, read)
    return ReportEvidence(entries, evidence, identifiers_of, thumbnails)


def _evidence(
    rows: Sequence[Row], detector: Detector, cache: EvidenceCache, base: Path, read: ReadConfig, progress: Progress
) -> list[RenderedEvidence | str]:
    evidence_of: dict[int, RenderedEvidence | str] = {
        id(row): cached for row in rows if (cached := cache.evidence(row.key)) is not None
    }
    missing = [row for row in rows if id(row) not in evidence_of]
    with progress.bar(len(missing), "evidence") as bar:
        for row, rendered in draw_evidence(missing, detector, base, read):
            evidence_of[id(row)] = rendered
            if isinstance(rendered, RenderedEvidence):
                cache.keep_evidence(row.key, rendered)
            bar(1, "")
    return [evidence_of[id(row)] for row in rows]


def write_pictures(evidence: RenderedEvidence | str, folder: Path, rank: int, language: Language) -> dict[str, Any]:
    """Write an entry's images and return the fields of its page; the file name of a missing image is empty."""
    names = ("picture", "overlay", "unusual", "map", "places", "corrected")
    if isinstance(evidence, str):
        plain = dict.fromkeys(names, "")
        return {**plain, "peak": None, "correction": "", "reasons": [], "missing": language.say(evidence)}
    files = {name: f"scan-{rank:04d}-{name}.{_MEDIA.get(name, 'jpg')}" if name in evidence.images else "" for name in names}
    for name, content in evidence.images.items():
        (folder / files[name]).write_bytes(content)
    return {
        **files,
        "peak": evidence.peak,
        "correction": language.say(evidence.correction) if evidence.correction else "",
        "reasons": [finding_sentence(finding, language) for finding in evidence.findings],
        "missing": "",
    }
