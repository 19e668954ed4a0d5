"""What a report shows of scans: thumbnails, entries, and the evidence of the first of them; drawn once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.progress import Progress
from medood.reporting.entries import Entry, entries_of
from medood.reporting.evidence_cache import EvidenceCache
from medood.reporting.i18n.language import Language
from medood.reporting.original_scans import Original, originals, patient_and_study
from medood.reporting.renderings import Drawn, draw_evidence, draw_thumbnails
from medood.reporting.sentences import finding_sentence
from medood.screening.ledger import Row

_MEDIA = {"map": "png", "places": "png"}


@dataclass(frozen=True)
class Shown:
    """What is shown of a run's scans.

    Attributes:
        entries: of all flagged scans.
        drawn: the evidence of the first entries, or why there is none.
        identifiers: what the headers of the same say of patient and study; empty unless asked for.
        thumbnails: file names by scan.
    """

    entries: list[Entry]
    drawn: list[Drawn | str]
    identifiers: list[dict[str, str]]
    thumbnails: dict[str, str]


def key_of(row: Row) -> str:
    """SHA-256 and frame, which a review names a scan by."""
    return f"{row.sha256}:{row.frame}"


def without_pictures(flagged: Sequence[Row], top: int) -> Shown:
    """The entries alone."""
    entries = entries_of(flagged, {})
    count = len(entries[:top])
    return Shown(entries, ["left out of this report"] * count, [{}] * count, {})


def show(
    run: Path,
    facts: dict[str, Any],
    detector: Detector,
    flagged: Sequence[Row],
    accepted: Sequence[Row],
    folder: Path,
    progress: Progress,
    *,
    top: int,
    identifiers: bool,
) -> Shown:
    """Draw what is not kept from an earlier report, and write thumbnails into a folder.

    Args:
        run: the run's folder, where what is drawn is kept.
        facts: of the run.
        detector: the one that scored it.
        flagged: rows of flagged scans, the highest score first.
        accepted: further rows that get a thumbnail.
        folder: where the thumbnails go.
        progress: where to draw.
        top: number of entries with evidence.
        identifiers: read what the headers say of patients and studies.
    """
    base, read = Path(facts.get("working_directory", ".")), ReadConfig(**facts.get("read", {}) | {"select": ""})
    cache = EvidenceCache(run, detector, facts)
    try:
        every = [*flagged, *accepted]
        wanted = [row for row in every if cache.thumbnail(key_of(row)) is None]
        missing = list[str]()
        with progress.bar(len(wanted), "thumbnails") as bar:
            for row, small in draw_thumbnails(wanted, detector, base, read):
                if isinstance(small, str):
                    missing.append(f"{row.source} {row.member}".strip() + f": {small}")
                else:
                    cache.keep_thumbnail(key_of(row), *small)
                bar(1, "")
        if missing:
            progress.say(f"some scans have no picture ({len(missing)}), such as {missing[0]}")
        looks, thumbnails = dict[tuple[str, int], bytes](), dict[str, str]()
        for number, row in enumerate(every, start=1):
            if (kept := cache.thumbnail(key_of(row))) is not None:
                looks[row.sha256, row.frame] = kept[1]
                thumbnails[key_of(row)] = f"small-{number:05d}.jpg"
                (folder / thumbnails[key_of(row)]).write_bytes(kept[0])
        entries = entries_of(flagged, looks)
        shown = [entry.row for entry in entries[:top]]
        drawn = _evidence(shown, detector, cache, base, read, progress)
    finally:
        cache.close()
    stated: list[dict[str, str]] = [{} for _ in shown]
    if identifiers:
        place = {id(row): number for number, row in enumerate(shown)}
        for row, original in originals(shown, base, read):
            if isinstance(original, Original):
                stated[place[id(row)]] = patient_and_study(original.source, read)
    return Shown(entries, drawn, stated, thumbnails)


def _evidence(
    shown: Sequence[Row], detector: Detector, cache: EvidenceCache, base: Path, read: ReadConfig, progress: Progress
) -> list[Drawn | str]:
    found: dict[int, Drawn | str] = {id(row): kept for row in shown if (kept := cache.evidence(key_of(row))) is not None}
    wanted = [row for row in shown if id(row) not in found]
    with progress.bar(len(wanted), "evidence") as bar:
        for row, drawn in draw_evidence(wanted, detector, base, read):
            found[id(row)] = drawn
            if isinstance(drawn, Drawn):
                cache.keep_evidence(key_of(row), drawn)
            bar(1, "")
    return [found[id(row)] for row in shown]


def write_pictures(drawn: Drawn | str, folder: Path, rank: int, language: Language) -> dict[str, Any]:
    """Write the pictures of an entry; what its page says of them, every name empty where there is no picture."""
    names = ("picture", "overlay", "unusual", "map", "places", "corrected")
    if isinstance(drawn, str):
        plain = dict.fromkeys(names, "")
        return {**plain, "peak": None, "correction": "", "reasons": [], "missing": language.say(drawn)}
    files = {name: f"scan-{rank:04d}-{name}.{_MEDIA.get(name, 'jpg')}" if name in drawn.pictures else "" for name in names}
    for name, content in drawn.pictures.items():
        (folder / files[name]).write_bytes(content)
    return {
        **files,
        "peak": drawn.peak,
        "correction": language.say(drawn.correction) if drawn.correction else "",
        "reasons": [finding_sentence(finding, language) for finding in drawn.findings],
        "missing": "",
    }
