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

from medood.config.resources import find_detector
from medood.config.schema import PreprocessConfig
from medood.detection.calibration import fingerprint
from medood.detection.detector import Detector
from medood.detection.detector_folder import TRAINING
from medood.errors import MedoodError
from medood.evidence.score_map import FULL_STRENGTH
from medood.progress import Progress
from medood.reporting.entries import SAME_FILE, SAME_PICTURE, Entry
from medood.reporting.evidence import Shown, key_of, show, without_pictures, write_pictures
from medood.reporting.i18n.language import Language
from medood.reporting.review import LONGEST, Review, read_review, run_name
from medood.reporting.sentences import run_sentences
from medood.reporting.training_thumbnails import known_pictures
from medood.scans.scan import Status
from medood.screening.finalize import summary
from medood.screening.ledger import Ledger, Row

SCHEMA_VERSION = 4
_BINS = 40
#: Lines of a table in the report; verdicts.csv has them all.
MAX_LINES = 1000
#: Flagged scans that are grouped into entries and shown small, and scans that are named of an entry.
MOST_ROWS, MOST_OTHERS = 10_000, 20
#: Nearest scans whose thumbnails are shown.
NEAREST = 3
#: Rows listed as files without a score; what the selection left out is counted, not listed.
_REFUSED = f"status NOT IN ('{Status.SCORED}', '{Status.NOT_SELECTED}')"
#: DICOM attributes in the order a report lists them, and what it calls them.
_SHOWN = {
    "Modality": "Modality",
    "BodyPartExamined": "Body part",
    "ViewPosition": "View",
    "Manufacturer": "Manufacturer",
    "PhotometricInterpretation": "Photometric",
    "TransferSyntax": "Syntax",
}


def detector_of(run: Path, folder: str | Path | None = None) -> tuple[dict[str, Any], Detector]:
    """The facts of a finished run, and the detector that scored it.

    Args:
        run: the run's folder.
        folder: the detector's, where it is no longer the one noted in the ledger.

    Raises:
        MedoodError: there is no run, it is unfinished, or the detector is gone or another one.
    """
    facts = Ledger.facts_of(run)
    if "finished" not in facts:
        raise MedoodError(f"{run} was not finished. Screen again before reporting.")
    folder = folder or facts.get("detector", {}).get("folder") or ""
    if not folder or not find_detector(folder).is_dir():
        raise MedoodError(f"The detector of {run} is no longer at {folder or 'any known place'}. Give --detector.")
    detector = Detector.load(folder, facts.get("calibration", {}).get("name", TRAINING))
    if facts["detector"]["sha256"] != detector.sha256:
        raise MedoodError(
            f"{run} was scored by the detector {facts['detector']['sha256'][:12]}, not by {detector.sha256[:12]}. "
            "Give the right one with --detector."
        )
    return facts, detector


@dataclass(frozen=True)
class Asked:
    """What a report is asked to show.

    Attributes:
        top: number of the most out-of-distribution entries shown with evidence.
        accepted: number of accepted scans, the highest scores first, that get a thumbnail as every flagged one does.
        pictures: show the scans and their maps.
        review: a person's review of the run, exported from its page.
        identifiers: keep what the headers say of patients and studies.
        known: a folder with the pictures that the detector learned from, for thumbnails of the nearest ones.
        language: one of ``medood.reporting.i18n.language.LANGUAGES``.
    """

    top: int = 20
    accepted: int = 0
    pictures: bool = True
    review: Path | None = None
    identifiers: bool = False
    known: Path | None = None
    language: str = "en"


def make_record(run: Path, detector: Detector, folder: Path, asked: Asked, progress: Progress) -> dict[str, Any]:
    """Collect a run's record and draw the evidence of its most out-of-distribution scans.

    Args:
        run: the run's folder.
        detector: the one that scored it.
        folder: where pictures go.
        asked: what is shown.
        progress: where to draw.

    Raises:
        MedoodError: the review is none of this run, or there is no such language or folder.
    """
    language = Language(asked.language)
    ledger = Ledger(run)
    try:
        facts = ledger.run()
        flagged = list(ledger.rows("decision = 'out_of_distribution'", "score DESC, id", MOST_ROWS))
        accepted = list(ledger.rows("decision = 'in_distribution'", "score DESC, id", asked.accepted))
        review = _review(ledger, facts, asked.review)
        found = (
            show(
                run,
                facts,
                detector,
                flagged,
                accepted,
                folder,
                progress,
                top=asked.top,
                identifiers=asked.identifiers,
            )
            if asked.pictures
            else without_pictures(flagged, asked.top)
        )
        shown = [entry.row for entry in found.entries[: asked.top]]
        nearest = {key for row in shown for key in row.facts.get("nearest_keys", [])[:NEAREST]}
        known = known_pictures(asked.known, nearest if asked.pictures else set(), folder, progress) if asked.known else {}
        scores = np.array([score for (score,) in ledger.columns(["score"], "status = 'scored'")], dtype=np.float64)
        record = {
            "schema_version": SCHEMA_VERSION,
            "language": language.code,
            "identifiers": asked.identifiers,
            "run_name": run_name(facts),
            "run": {name: value for name, value in facts.items() if name not in ("detector", "working_directory")},
            "said": run_sentences(facts, language),
            "inputs_sha256": fingerprint(_keys(ledger)),
            "settings_sha256": hashlib.sha256(json.dumps(_settings(facts), sort_keys=True).encode()).hexdigest(),
            "verdicts_sha256": _digest(run / "verdicts.csv"),
            "review": review.stated(_names(ledger, review)) if review else None,
            "summary": vars(summary(ledger)),
            "counts": [
                {"status": status, "decision": decision, "count": count}
                for (status, decision), count in ledger.counts().items()
            ],
            "detector": {
                **{name: value for name, value in facts["detector"].items() if name != "folder"},
                "input": _input(detector.preprocess, language),
                "backbone": detector.network.describe(),
                "full_strength": FULL_STRENGTH,
                "places_scale": float(detector.places["places_scale"]) if detector.places else None,
                "appearance": detector.score_name == "ensemble" and detector.network.appearance is not None,
            },
            "histogram": histogram(detector.calibration.scores, scores, facts["threshold"]),
            "flagged": [
                _line(rank, entry.row, review) | _grouped(entry, found.thumbnails)
                for rank, entry in enumerate(found.entries[:MAX_LINES], start=1)
            ],
            "pages": [
                _page(rank, entry, found, folder, known, review, language)
                for rank, entry in enumerate(found.entries[: asked.top], start=1)
            ],
            "thumbnails": found.thumbnails,
            "groups": {key_of(row): key_of(entry.row) for entry in found.entries for row, _ in entry.others},
            "refused": [_line(0, row, None) for row in ledger.rows(_REFUSED, "status, id", MAX_LINES)],
        }
    finally:
        ledger.close()
    made: dict[str, Any] = checked(record)
    return made


def _settings(facts: dict[str, Any]) -> dict[str, Any]:
    """What a run was asked to do."""
    return {name: facts.get(name) for name in ("sources", "read", "fpr", "fdr")}


def _review(ledger: Ledger, facts: dict[str, Any], path: Path | None) -> Review | None:
    return read_review(path, facts, set(_keys(ledger, "status = 'scored'"))) if path else None


def _keys(ledger: Ledger, where: str = "1") -> list[str]:
    return [f"{sha256}:{frame}" for sha256, frame in ledger.columns(["sha256", "frame"], where)]


def _names(ledger: Ledger, review: Review) -> dict[str, tuple[str, str]]:
    """Name and decision of each scan that was reviewed, by its key, in the ledger's order."""
    named = ((key_of(row), row) for row in ledger.rows("status = 'scored'", "score DESC, id"))
    return {key: (name_of(row), row.decision) for key, row in named if key in review.verdicts or key in review.notes}


def name_of(row: Row) -> str:
    """A scan's source and member."""
    return row.source + (f" ! {row.member}" if row.member else "")


def _digest(path: Path) -> str:
    """SHA-256 of a file, empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def histogram(
    calibration: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], threshold: float | None
) -> dict[str, Any]:
    """Shares of calibration and screened scans in equal bins of the score.

    The range is that of the calibration scores, widened upwards by at most twice its length; what lies beyond is counted in
    the last bin (``beyond`` says how many).
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
    """Write the record as JSON, after holding it against its schema (``templates/record.schema.json``).

    Raises:
        jsonschema.ValidationError: a fault of medood itself.
    """
    schema = json.loads((files("medood.reporting") / "templates" / "record.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(record, schema, jsonschema.Draft202012Validator)
    target.write_text(json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _page(
    rank: int,
    entry: Entry,
    found: Shown,
    folder: Path,
    known: dict[str, tuple[str, str]],
    review: Review | None,
    language: Language,
) -> dict[str, Any]:
    row = entry.row
    grey = row.facts.get("grayscale", {})
    attributes = row.facts.get("attributes", {})
    facts = list(found.identifiers[rank - 1].items())
    facts += [(words, attributes[name]) for name, words in _SHOWN.items() if name in attributes]
    spacing, source = row.facts.get("spacing"), row.facts.get("spacing_source", "")
    shape = row.facts.get("shape", [0, 0])
    facts.append(("Size", language.say("rows and columns", rows=shape[0], columns=shape[1])))
    stated = f"{spacing[0]:.3g} x {spacing[1]:.3g} mm, {source}" if spacing else language.say("not stated")
    facts.append(("Spacing", stated))
    facts.append(("Modality LUT", grey.get("modality_lut", "")))
    facts.append(("VOI", grey.get("voi", "")))
    facts.append(("Inverted", grey.get("inverted", "")))
    if grey.get("ignored"):
        facts.append(("Left out", grey["ignored"]))
    nearest = zip(row.facts.get("nearest", []), row.facts.get("nearest_keys", []), strict=True)
    return {
        **_line(rank, row, review),
        **_grouped(entry, found.thumbnails),
        **write_pictures(found.drawn[rank - 1], folder, rank, language),
        "nearest": [
            {
                "cosine": round(cosine, 4),
                "sha256": key,
                "file": known.get(key, ("", ""))[0],
                "picture": known.get(key, ("", ""))[1],
            }
            for cosine, key in nearest
        ],
        "facts": [[language.say(words), value] for words, value in facts],
    }


def _grouped(entry: Entry, thumbnails: dict[str, str]) -> dict[str, Any]:
    """An entry's thumbnail, and the scans that are told with it."""
    why = [reason for _, reason in entry.others]
    return {
        "thumbnail": thumbnails.get(key_of(entry.row), ""),
        "same_file": why.count(SAME_FILE),
        "same_picture": why.count(SAME_PICTURE),
        "others": [name_of(row) + (f", {row.frame}" if row.frame else "") for row, _ in entry.others[:MOST_OTHERS]],
    }


def _input(config: PreprocessConfig, language: Language) -> str:
    shares = ", ".join(f"{share:.0%}" for share in config.crops)
    seen = "" if config.crops == [1.0] else ", " + language.say("cropped", shares=shares)
    return language.say("pixels", size=config.size, fit=config.fit) + seen


def _line(rank: int, row: Row, review: Review | None) -> dict[str, Any]:
    key = key_of(row)
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
        "reason": row.reason,
        "review": review.verdicts.get(key, "") if review else "",
        "note": review.notes.get(key, "") if review else "",
    }


def _kept(character: str) -> bool:
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"


def checked(value: Any) -> Any:
    """Text without control characters and lone surrogates, numbers that are finite; what JSON and a typesetter can take."""
    if isinstance(value, dict):
        return {key: checked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [checked(item) for item in value]
    if isinstance(value, str):
        clean = value.encode("utf-8", "replace").decode("utf-8")
        return "".join(c if _kept(c) else "\ufffd" for c in clean)[:LONGEST]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
