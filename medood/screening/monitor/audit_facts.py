"""Facts of a run for its audit: software, known failures, flag rates, drift, and how long to keep it."""

from __future__ import annotations

import calendar
import hashlib
import re
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

from medood.config.resources import software_sha256
from medood.errors import MedoodError
from medood.screening.ledger.database import Ledger
from medood.screening.ledger.run_metadata import RunMetadata
from medood.screening.monitor.flag_rates import FlagRate, by_device, by_month

#: Months for which a run is kept if nobody states a day: the least of the EU AI Act, Article 26(6), for logs.
KEPT_MONTHS = 6
#: The list of a detector's card that a report shows follows a line with these words; its longest form.
_FAILURES, _MOST, _LONGEST = ("cannot do", "known failures"), 8, 500


def check_day(text: str) -> None:
    """Check a day to keep a run until.

    Raises:
        MedoodError: it is no day in ISO 8601.
    """
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise MedoodError(f"--keep-until is {text!r}; expected a day such as 2031-12-31.") from error


def audit_facts(ledger: Ledger, metadata: RunMetadata, card: Path, keep_until: str) -> dict[str, Any]:
    """The part ``audit`` of the record.

    Args:
        ledger: the ledger of the finished run.
        metadata: its metadata.
        card: the detector's card, which may be missing.
        keep_until: day in ISO 8601; empty for six months after the run.
    """
    findings = Counter(finding for (finding,) in ledger.scored_columns("finding") if finding)
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    drift = metadata.archive.drift if metadata.archive else None
    return {
        "software": {"run": metadata.software or "", "report": software_sha256()},
        "card_sha256": hashlib.sha256(text.encode()).hexdigest() if text else "",
        "failures": known_failures(text),
        "keep_until": keep_until or _months_later(date.fromisoformat(str(metadata.finished)[:10]), KEPT_MONTHS).isoformat(),
        "keep_stated": bool(keep_until),
        "findings": [{"finding": name, "count": count} for name, count in findings.most_common()],
        "devices": [_rate(rate) for rate in by_device(ledger)],
        "months": [_rate(rate) for rate in by_month(metadata.archive)],
        "drift": [drift.correlation, *drift.interval] if drift else None,
    }


def known_failures(card: str) -> list[str]:
    """The first list of a detector's card that follows the words "cannot do" or "known failures", as plain text.

    Args:
        card: the card, in Markdown.
    """
    lines = card.splitlines()
    start = next((i for i, line in enumerate(lines) if any(words in line.lower() for words in _FAILURES)), len(lines))
    items: list[str] = []
    for line in lines[start + 1 :]:
        if line.startswith(("- ", "* ")):
            items.append(line[2:].strip())
        elif items and line.startswith("  "):
            items[-1] += f" {line.strip()}"
        elif items or line.strip():
            break
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", item).replace("**", "").replace("`", "") for item in items[:_MOST])
    return [text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …" for text in plain]


def _rate(rate: FlagRate) -> dict[str, Any]:
    low, high = rate.interval
    return {"name": rate.name, "scans": rate.scans, "flagged": rate.flagged, "low": low, "high": high}


def _months_later(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))
