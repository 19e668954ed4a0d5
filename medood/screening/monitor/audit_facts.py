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
#: Words of the heading or line before the list of a detector's card that a report shows; the most items, the longest item.
_FAILURES, _MOST, _LONGEST = ("known failures", "cannot do"), 20, 500


def check_day(text: str, finished: str) -> None:
    """Check a day to keep a run until.

    Args:
        text: the day.
        finished: when the run was finished, in ISO 8601.

    Raises:
        MedoodError: it is no day as ``YYYY-MM-DD``, or lies before the run.
    """
    try:
        is_day = date.fromisoformat(text).isoformat() == text
    except ValueError:
        is_day = False
    if not is_day:
        raise MedoodError(f"--keep-until is {text!r}; expected a day such as 2031-12-31.")
    if text < finished[:10]:
        raise MedoodError(f"--keep-until is {text}, before the run was finished ({finished[:10]}).")


def check_least(share: float) -> None:
    """Check the share of faults and outliers that an acceptance test asks for.

    Raises:
        MedoodError: it is no share.
    """
    if not 0.0 < share <= 1.0:
        raise MedoodError(f"--least is {share:g}; expected a share above 0 and at most 1, such as 0.9.")


def audit_facts(ledger: Ledger, metadata: RunMetadata, card: Path, keep_until: str) -> dict[str, Any]:
    """The part ``audit`` of the record.

    Args:
        ledger: the ledger of the finished run.
        metadata: its metadata.
        card: the detector's card, which may be missing.
        keep_until: day in ISO 8601; empty for six months after the run.
    """
    findings = Counter(finding for (finding,) in ledger.scored_columns("finding") if finding)
    try:
        content = card.read_bytes() if card.is_file() else b""
    except OSError as error:
        raise MedoodError(f"The detector's card {card} cannot be read: {error.strerror or error}.") from error
    drift = metadata.archive.drift if metadata.archive else None
    return {
        "software": {"run": metadata.software or "", "report": software_sha256()},
        "card_sha256": hashlib.sha256(content).hexdigest() if content else "",
        "failures": known_failures(content.decode("utf-8", "replace")),
        "keep_until": keep_until or _months_later(date.fromisoformat(str(metadata.finished)[:10]), KEPT_MONTHS).isoformat(),
        "keep_stated": bool(keep_until),
        "findings": [{"finding": name, "count": count} for name, count in findings.most_common()],
        "devices": [_rate(rate) for rate in by_device(ledger)],
        "months": [_rate(rate) for rate in by_month(metadata.archive)],
        "drift": [drift.correlation, *drift.interval] if drift else None,
    }


def known_failures(card: str) -> list[str]:
    """The list of a detector's card under a heading or after a line with the words "known failures" or "cannot do".

    A heading counts before a line, and a line only if it ends with a colon. At most 20 items are taken, as plain text.

    Args:
        card: the card, in Markdown.
    """
    lines = card.splitlines()
    named = [i for i, line in enumerate(lines) if any(words in line.lower() for words in _FAILURES)]
    headings = [i for i in named if lines[i].startswith("#")]
    before = headings or [i for i in named if lines[i].rstrip(" *").endswith(":")]
    items: list[str] = []
    is_open = False
    for line in lines[before[0] + 1 :] if before else []:
        item = re.match(r"\s{0,3}(?:[-*+]|\d+[.)])\s+(.*)", line)
        if item:
            items.append(item[1].strip())
        elif line.startswith("#") or (items and line.strip() and not is_open and not line.startswith("  ")):
            break
        elif items and line.strip():
            items[-1] += f" {line.strip()}"
        is_open = bool(line.strip())
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", item).replace("**", "").replace("`", "") for item in items]
    short = [text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …" for text in plain[:_MOST]]
    return [*short, "…"] if len(plain) > _MOST else short


def _rate(rate: FlagRate) -> dict[str, Any]:
    low, high = rate.interval
    return {"name": rate.name, "scans": rate.scans, "flagged": rate.flagged, "low": low, "high": high}


def _months_later(day: date, months: int) -> date:
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))
