"""The record: everything a report shows, taken from the ledger and the detector, as plain JSON."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import numpy.typing as npt

from medood.config.schema import PreprocessConfig
from medood.detection.calibration import fingerprint
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.evidence.burned_in_text import is_available
from medood.evidence.score_map import full_strength
from medood.progress import Progress
from medood.reporting.entries import SAME_FILE, SAME_PICTURE, Entry
from medood.reporting.evidence import ReportEvidence, show, without_pictures, write_pictures
from medood.reporting.i18n.language import Language
from medood.reporting.review import LONGEST, Review, read_review, run_name
from medood.reporting.sentences import run_sentences
from medood.reporting.training_thumbnails import training_thumbnails
from medood.screening.finalize import summary
from medood.screening.finished_run import detector_folder, finished_run
from medood.screening.ledger.database import Ledger, Row
from medood.screening.ledger.run_metadata import RunMetadata
from medood.screening.monitor.audit_facts import audit_facts

SCHEMA_VERSION = 5
_BINS = 40
#: Maximum number of rows of a table in the report; verdicts.csv has them all.
MAX_LINES = 1000
#: Maximum number of flagged scans that are grouped into entries and get thumbnails, and of scans named in an entry.
MAX_ROWS, MAX_OTHERS = 10_000, 20
#: Number of nearest scans shown as thumbnails.
NEAREST = 3
#: DICOM attributes in display order, with their names in a report.
_SHOWN = {
    "Modality": "Modality",
    "BodyPartExamined": "Body part",
    "ViewPosition": "View",
    "Manufacturer": "Manufacturer",
    "PhotometricInterpretation": "Photometric",
    "TransferSyntax": "Syntax",
}


def detector_of(run: Path, folder: str | Path | None = None) -> tuple[RunMetadata, Detector]:
    """The metadata of a finished run and the detector that scored it.

    Args:
        run: the run's folder.
        folder: the detector's folder, if it is no longer the one recorded in the ledger.

    Raises:
        MedoodError: the run is missing or unfinished, or the detector is missing or not the run's.
    """
    metadata = finished_run(run)
    detector = Detector.load(detector_folder(run, metadata, folder), metadata.calibration.name)
    if metadata.detector.sha256 != detector.sha256:
        raise MedoodError(
            f"{run} was scored by the detector {metadata.detector.sha256[:12]}, not by {detector.sha256[:12]}. "
            "Give the right one with --detector."
        )
    return metadata, detector


@dataclass(frozen=True)
class ReportOptions:
    """Options that select what a report shows.

    Attributes:
        top: number of the most out-of-distribution entries shown with evidence.
        accepted: number of accepted scans, highest scores first, that get a thumbnail, as every flagged scan does.
        images: show the scans and their maps.
        review: a person's review of the run, exported from its page.
        identifiers: include patient and study attributes from the headers.
        known: a folder with the detector's training scans, for thumbnails of the nearest ones.
        language: one of ``medood.reporting.i18n.language.LANGUAGES``.
        card: the detector's card, whose known failures are shown; it may be missing.
        keep_until: day until which the run is to be kept, in ISO 8601; empty for six months after it.
    """

    top: int = 20
    accepted: int = 0
    images: bool = True
    review: Path | None = None
    identifiers: bool = False
    known: Path | None = None
    language: str = "en"
    card: Path = Path("README.md")
    keep_until: str = ""


def make_record(run: Path, detector: Detector, folder: Path, options: ReportOptions, progress: Progress) -> dict[str, Any]:
    """Collect a run's record and draw the evidence of its most out-of-distribution scans.

    Args:
        run: the run's folder.
        detector: the detector that scored the run.
        folder: the folder for images.
        options: what is shown.
        progress: the progress display.

    Raises:
        MedoodError: the review belongs to another run, or the language or folder does not exist.
    """
    language = Language(options.language)
    ledger = Ledger(run)
    try:
        metadata = ledger.metadata()
        stored = metadata.to_dict()
        flagged = list(ledger.flagged(MAX_ROWS))
        accepted = list(ledger.accepted(options.accepted))
        review = _review(ledger, metadata, options.review)
        content = (
            show(
                run,
                metadata,
                detector,
                flagged,
                accepted,
                folder,
                progress,
                top=options.top,
                identifiers=options.identifiers,
            )
            if options.images
            else without_pictures(flagged, options.top)
        )
        shown_rows = [entry.row for entry in content.entries[: options.top]]
        nearest = {key for row in shown_rows for key in row.metadata.get("nearest_keys", [])[:NEAREST]}
        thumbnails = (
            training_thumbnails(options.known, nearest if options.images else set(), folder, progress)
            if options.known
            else {}
        )
        scores = np.array(ledger.scores(), dtype=np.float64)
        record = {
            "schema_version": SCHEMA_VERSION,
            "language": language.code,
            "identifiers": options.identifiers,
            "run_name": run_name(metadata),
            "run": {name: value for name, value in stored.items() if name not in ("detector", "working_directory")},
            "said": [*run_sentences(metadata, language), *_on_text(options, language)],
            "inputs_sha256": fingerprint(ledger.keys()),
            "settings_sha256": hashlib.sha256(json.dumps(_settings(stored), sort_keys=True).encode()).hexdigest(),
            "verdicts_sha256": _digest(run / "verdicts.csv"),
            "review": review.to_dict(_names(ledger, review)) if review else None,
            "summary": vars(summary(ledger)),
            "audit": audit_facts(ledger, metadata, options.card, options.keep_until),
            "counts": [
                {"status": status, "decision": decision, "count": count}
                for (status, decision), count in ledger.counts().items()
            ],
            "detector": {
                **{name: value for name, value in stored["detector"].items() if name != "folder"},
                "input": _input(detector.preprocess, language),
                "backbone": detector.network.describe(),
                "full_strength": full_strength(detector),
                "places_scale": float(detector.places["places_scale"]) if detector.places else None,
                "appearance": detector.score_name == "ensemble" and detector.network.appearance is not None,
                "lesions": detector.score_name == "lesions",
            },
            "histogram": histogram(detector.calibration.scores, scores, metadata.threshold),
            "flagged": [
                _line(rank, entry.row, review, language) | _group_fields(entry, content.thumbnails)
                for rank, entry in enumerate(content.entries[:MAX_LINES], start=1)
            ],
            "pages": [
                _page(rank, entry, content, folder, thumbnails, review, language)
                for rank, entry in enumerate(content.entries[: options.top], start=1)
            ],
            "thumbnails": content.thumbnails,
            "groups": {row.key: entry.row.key for entry in content.entries for row, _ in entry.others},
            "refused": [_line(0, row, None, language) for row in ledger.refused(MAX_LINES)],
        }
    finally:
        ledger.close()
    valid_record: dict[str, Any] = validate_record(record)
    return valid_record


def _on_text(options: ReportOptions, language: Language) -> list[str]:
    """Whether text burnt into the images was blanked; nothing in a report without images."""
    return [language.say("text looked for" if is_available() else "text not looked for")] if options.images else []


def _settings(stored: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run that decide what it screens and how."""
    settings = {name: stored[name] for name in ("sources", "read", "fpr", "fdr")}
    if settings["read"].get("decode") == "full":  # left out, so that the digest of an old run stays the same
        settings["read"] = {name: value for name, value in settings["read"].items() if name != "decode"}
    if not settings["read"].get("text"):
        settings["read"] = {name: value for name, value in settings["read"].items() if name != "text"}
    return settings


def _review(ledger: Ledger, metadata: RunMetadata, path: Path | None) -> Review | None:
    return read_review(path, metadata, set(ledger.keys(scored_only=True))) if path else None


def _names(ledger: Ledger, review: Review) -> dict[str, tuple[str, str]]:
    """Name and decision of each reviewed scan by key, highest score first."""
    keyed_rows = ((row.key, row) for row in ledger.scored())
    return {key: (name_of(row), row.decision) for key, row in keyed_rows if key in review.verdicts or key in review.notes}


def name_of(row: Row) -> str:
    """A scan's source and member."""
    return row.source + (f" ! {row.member}" if row.member else "")


def _digest(path: Path) -> str:
    """SHA-256 of a file; empty if there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def histogram(
    calibration: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], threshold: float | None
) -> dict[str, Any]:
    """Histogram of the score: shares of calibration and screened scans in bins of equal width.

    The bins span the calibration scores, extended upwards by at most twice their range; higher scores are counted in the
    last bin, and ``beyond`` is their number.
    """
    calibration = calibration[np.isfinite(calibration)]
    low, high = (float(calibration.min()), float(calibration.max())) if len(calibration) else (0.0, 1.0)
    length = max(high - low, 1e-9)
    top = high + min(max(float(scores.max()) - high, 0.1 * length), 2.0 * length) if len(scores) else high
    low = min(low, float(scores.min())) if len(scores) else low
    edges = np.linspace(low, top, _BINS + 1)

    def shares(values: npt.NDArray[np.float64]) -> list[float]:
        counts, _ = np.histogram(np.clip(values, low, top), bins=edges)
        return [round(float(v), 6) for v in counts / max(len(values), 1)]

    return {
        "low": low,
        "high": float(top),
        "threshold": threshold if threshold is not None and np.isfinite(threshold) else None,
        "calibration": shares(calibration),
        "screened": shares(scores),
        "beyond": int((scores > top).sum()),
    }


def write_record(record: dict[str, Any], target: Path) -> None:
    """Validate the record against its schema (``templates/record.schema.json``) and write it as JSON.

    Raises:
        jsonschema.ValidationError: a bug in medood itself.
    """
    schema = json.loads((files("medood.reporting") / "templates" / "record.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(record, schema, jsonschema.Draft202012Validator)
    target.write_text(json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _page(
    rank: int,
    entry: Entry,
    content: ReportEvidence,
    folder: Path,
    training_images: dict[str, tuple[str, str]],
    review: Review | None,
    language: Language,
) -> dict[str, Any]:
    row = entry.row
    grey = row.metadata.get("grayscale", {})
    attributes = row.metadata.get("attributes", {})
    metadata = list(content.identifiers[rank - 1].items())
    metadata += [(words, attributes[name]) for name, words in _SHOWN.items() if name in attributes]
    spacing, source = row.metadata.get("spacing"), row.metadata.get("spacing_source", "")
    shape = row.metadata.get("shape", [0, 0])
    metadata.append(("Size", language.say("rows and columns", rows=shape[0], columns=shape[1])))
    spacing_text = f"{spacing[0]:.3g} x {spacing[1]:.3g} mm, {source}" if spacing else language.say("not stated")
    metadata.append(("Spacing", spacing_text))
    metadata.append(("Modality LUT", grey.get("modality_lut", "")))
    metadata.append(("VOI", grey.get("voi", "")))
    metadata.append(("Inverted", grey.get("inverted", "")))
    if grey.get("ignored"):
        metadata.append(("Left out", grey["ignored"]))
    images = write_pictures(content.drawn[rank - 1], folder, rank, language)
    finding = [language.say("finding", name=language.say(row.finding))] if row.finding else []
    nearest = zip(row.metadata.get("nearest", []), row.metadata.get("nearest_keys", []), strict=True)
    return {
        **_line(rank, row, review, language),
        **_group_fields(entry, content.thumbnails),
        **images,
        "reasons": finding + images["reasons"],
        "nearest": [
            {
                "cosine": round(cosine, 4),
                "sha256": key,
                "file": training_images.get(key, ("", ""))[0],
                "picture": training_images.get(key, ("", ""))[1],
            }
            for cosine, key in nearest
        ],
        "facts": [[language.say(words), value] for words, value in metadata],
    }


def _group_fields(entry: Entry, thumbnails: dict[str, str]) -> dict[str, Any]:
    """An entry's thumbnail and the scans grouped with it."""
    reasons = [reason for _, reason in entry.others]
    return {
        "thumbnail": thumbnails.get(entry.row.key, ""),
        "same_file": reasons.count(SAME_FILE),
        "same_picture": reasons.count(SAME_PICTURE),
        "others": [name_of(row) + (f", {row.frame}" if row.frame else "") for row, _ in entry.others[:MAX_OTHERS]],
    }


def _input(config: PreprocessConfig, language: Language) -> str:
    shares = ", ".join(f"{share:.0%}" for share in config.crops)
    crop_text = "" if config.crops == [1.0] else ", " + language.say("cropped", shares=shares)
    return language.say("pixels", size=config.size, fit=config.fit) + crop_text


def _line(rank: int, row: Row, review: Review | None, language: Language) -> dict[str, Any]:
    key = row.key
    return {
        "rank": rank,
        "key": key,
        "source": row.source,
        "member": row.member,
        "frame": row.frame,
        "sha256": row.sha256,
        "status": row.status,
        "decision": row.decision,
        "score": row.score,
        "p_value": row.p_value,
        "reason": language.reason(row.reason),
        "finding": row.finding,
        "review": review.verdicts.get(key, "") if review else "",
        "note": review.notes.get(key, "") if review else "",
    }


def _kept(character: str) -> bool:
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"


def validate_record(value: Any) -> Any:
    """Clean a value for JSON and Typst: replace control characters, shorten long text, turn non-finite numbers into None."""
    if isinstance(value, dict):
        return {key: validate_record(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [validate_record(item) for item in value]
    if isinstance(value, str):
        clean = value.encode("utf-8", "replace").decode("utf-8")
        return "".join(c if _kept(c) else "\ufffd" for c in clean)[:LONGEST]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
