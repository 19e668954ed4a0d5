"""A person's review of a run, as the HTML page exports it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medood.detection.conformal import Decision
from medood.errors import MedoodError
from medood.screening.ledger.run_metadata import RunMetadata
from medood.text import FORMULA

REVIEW_VERSION = 1
VERDICTS = ("agree", "disagree")
#: Columns of a review as CSV; ``run`` is the same in every row.
COLUMNS = ("run", "reviewer", "key", "scan", "decision", "verdict", "note")
#: Maximum length of a note and of any other text in a report, in characters.
LONGEST = 4000
_MAX_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class Review:
    """A person's verdicts and notes on a run's scans.

    Attributes:
        reviewer: the reviewer's name; may be empty.
        verdicts: ``agree`` or ``disagree`` by scan key (SHA-256 and frame); scans with only a note are not included.
        notes: the notes by scan key.
        sha256: the file's SHA-256.
    """

    reviewer: str = ""
    verdicts: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    sha256: str = ""

    def to_dict(self, scans: dict[str, tuple[str, str]]) -> dict[str, Any]:
        """The review as a report shows it: counts and entries.

        Args:
            scans: name and decision of each reviewed scan, by key.
        """
        flagged = {key for key, (_, decision) in scans.items() if decision == Decision.OUT_OF_DISTRIBUTION}
        of_flagged = Counter(verdict for key, verdict in self.verdicts.items() if key in flagged)
        return {
            "reviewer": self.reviewer,
            "sha256": self.sha256,
            "reviewed": of_flagged.total(),
            "agree": of_flagged["agree"],
            "disagree": of_flagged["disagree"],
            "others": len(self.verdicts) - of_flagged.total(),
            "entries": [
                {
                    "key": key,
                    "scan": name,
                    "decision": decision,
                    "verdict": self.verdicts.get(key, ""),
                    "note": self.notes.get(key, ""),
                }
                for key, (name, decision) in scans.items()
            ],
        }


def run_name(metadata: RunMetadata) -> str:
    """Identify a run in its reviews: a digest of its times, detector, calibration and settings."""
    parts = [metadata.started, metadata.finished or "", metadata.detector.sha256, metadata.calibration.sha256]
    parts.append(json.dumps([metadata.sources, metadata.fpr, metadata.fdr]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read_review(path: Path, metadata: RunMetadata, keys: set[str]) -> Review:
    """Read a review that a run's page exported as JSON or CSV.

    Args:
        path: the file.
        metadata: the run's metadata.
        keys: the keys of the run's scored scans.

    Raises:
        MedoodError: it cannot be read, is not a review, or belongs to another run.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise MedoodError(f"--review: {path} is larger than {_MAX_BYTES} bytes, too large for a review.")
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
        run, reviewer, entries = _from_csv(text) if path.suffix.lower() == ".csv" else _from_json(text)
    except OSError as error:
        raise MedoodError(f"--review: {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise MedoodError(
            f"--review: {path} is not a review of version {REVIEW_VERSION} ({type(error).__name__}: {str(error)[:80]!r}). "
            "Give the JSON or CSV file that the run's report.html exported."
        ) from error
    if run != run_name(metadata):
        raise MedoodError(
            f"--review: {path} is a review of the run {run[:40]!r}, not of {run_name(metadata)}. Give the one exported from "
            "this run's report.html."
        )
    if len({key for key, _, _ in entries}) < len(entries):
        raise MedoodError(f"--review: {path} lists a scan more than once. Give the file as it was exported.")
    unknown = [key for key, _, _ in entries if key not in keys]
    if unknown:
        raise MedoodError(
            f"--review: {path} lists {len(unknown)} scans that the run did not score; the first is {unknown[0][:80]!r}."
        )
    return Review(
        reviewer[:200],
        {key: verdict for key, verdict, _ in entries if verdict},
        {key: note[:LONGEST] for key, _, note in entries if note},
        hashlib.sha256(content).hexdigest(),
    )


def _from_json(text: str) -> tuple[str, str, list[tuple[str, str, str]]]:
    body = json.loads(text)
    if body["medood_review"] != REVIEW_VERSION:
        raise ValueError(f"its version is {body['medood_review']}")
    return _text(body["run"]), _text(body["reviewer"]), [_entry(item) for item in body["reviews"]]


def _from_csv(text: str) -> tuple[str, str, list[tuple[str, str, str]]]:
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    if not lines or set(lines[0]) != set(COLUMNS):
        raise ValueError(f"its columns are not {', '.join(COLUMNS)}, separated by commas, or it is empty")
    runs = {line["run"] for line in lines}
    if len(runs) != 1 or len({line["reviewer"] for line in lines}) != 1:
        raise ValueError("its rows belong to several runs or reviewers")
    entries = [_entry({**line, "note": _remove_guard(_text(line["note"]))}) for line in lines]
    return runs.pop(), _remove_guard(lines[0]["reviewer"]), entries


def _entry(item: dict[str, Any]) -> tuple[str, str, str]:
    verdict = _text(item["verdict"])
    if verdict not in ("", *VERDICTS):
        raise ValueError(f"a verdict is {verdict[:20]!r}; expected {' or '.join(VERDICTS)}")
    return _text(item["key"]), verdict, _text(item["note"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is not text")
    return value


def _remove_guard(note: str) -> str:
    return note[1:] if note.startswith("'") and note[1:].startswith(FORMULA) else note
