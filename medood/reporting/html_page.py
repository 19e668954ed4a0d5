"""The record as one HTML file that reaches for nothing: table, histogram with a threshold to try, viewer, review."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medood.detection.detector import Detector
from medood.reporting.evidence import key_of
from medood.reporting.i18n.language import Language
from medood.reporting.report_data import MOST_ROWS, checked, name_of
from medood.reporting.review import COLUMNS, REVIEW_VERSION
from medood.scans.scan import Status
from medood.screening.ledger import Ledger, Row

#: Scores that the slider counts with, and as many more, thinned, for what lies below them.
MOST_SCORES = 10_000
_REFUSED_ORDER = f"status = '{Status.NOT_SELECTED}', status, id"
_MEDIA = {".jpg": "image/jpeg", ".png": "image/png"}


def write_page(record: dict[str, Any], run: Path, detector: Detector, work: Path) -> Path:
    """Write ``report.html`` into ``work``, where the record's pictures lie.

    A Content-Security-Policy lets nothing run but the page's own script, known by its hash, and nothing load at all.

    Args:
        record: see :func:`medood.reporting.report_data.make_record`.
        run: the run's folder, whose ledger gives the table.
        detector: the one that scored it.
        work: holds the pictures.
    """
    language = Language(record["language"])
    style, script = (_template(name) for name in ("page.css", "page.js"))
    run_facts, found, detector_facts = record["run"], record["summary"], record["detector"]
    counts = [("scanned", "rows"), ("flagged", "flagged"), ("accepted", "accepted"), ("refused", "without a score")]
    facts = [
        (language.say("Sources"), ", ".join(run_facts["sources"])),
        (language.say("Screened"), f"{run_facts['started']} – {run_facts['finished']}, medood {run_facts['medood']}"),
        (language.say("Detector"), f"{detector_facts['name']}, SHA-256 {detector_facts['sha256']}"),
        (language.say("Network"), f"{detector_facts['backbone']}, {detector_facts['input']}, {detector_facts['score']}"),
        *(("", sentence) for sentence in record["said"]),
    ]
    data = _data(record, run, detector, work, language)
    parts = {
        "lang": language.code,
        "name": html.escape(detector_facts["name"]),
        "style hash": _hash(style),
        "script hash": _hash(script),
        "style": style,
        "script": script,
        "counts": "".join(
            f'<li class="{name}"><b>{found[name]}</b>{html.escape(language.say(t))}</li>' for name, t in counts
        ),
        "warning": _warning(language) if record["identifiers"] else "",
        "facts": "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts),
        "legend": html.escape(_legend(record, language)),
        "cut": html.escape(language.say("html cut", count=MOST_ROWS)) if len(data["rows"]) < found["scanned"] else "",
        "data": _inert(data),
    }
    parts |= {f"t:{name}": html.escape(text) for name, text in language.words.items()}
    page = re.sub(r"\{\{([^{}]+)\}\}", lambda match: parts[match[1]], _template("page.html"))
    target = work / "report.html"
    target.write_text(page, encoding="utf-8")
    return target


def _data(record: dict[str, Any], run: Path, detector: Detector, work: Path, language: Language) -> dict[str, Any]:
    pages = [_pictured(page, work) for page in record["pages"]]
    place = {page["key"]: i for i, page in enumerate(record["pages"])}
    ledger = Ledger(run)
    try:
        scored = [_row(row, place, language) for row in ledger.rows("status = 'scored'", "score DESC, id", MOST_ROWS)]
        refused = [_row(row, {}, language) for row in ledger.rows("status != 'scored'", _REFUSED_ORDER, MOST_ROWS)]
        scores = np.array([score for (score,) in ledger.columns(["score"], "status = 'scored'")], dtype=np.float64)
    finally:
        ledger.close()
    calibration = detector.calibration.scores[np.isfinite(detector.calibration.scores)]
    review = record["review"] or {"reviewer": "", "entries": []}
    used = {name: text for name, text in language.words.items() if name in _SAID}
    return {
        "run": record["run_name"],
        "review_version": REVIEW_VERSION,
        "review_columns": list(COLUMNS),
        "reviewer": review["reviewer"],
        "reviews": review["entries"],
        "words": used,
        "rows": checked(scored + refused),
        "thumbnails": {key: _embedded(work, name) for key, name in record["thumbnails"].items()},
        "groups": record["groups"],
        "pages": pages,
        "scored": len(scores),
        "flagged": record["summary"]["flagged"],
        **_falling(scores),
        "calibration": [float(value) for value in np.sort(calibration)[::-1]],
        "histogram": record["histogram"],
    }


def _row(row: Row, place: dict[str, int], language: Language) -> list[Any]:
    name = name_of(row)
    if row.frame:
        name += ", " + language.say("frame", number=row.frame)
    key = key_of(row)
    return [key, name, row.status, row.decision, row.score, row.p_value, row.reason, place.get(key, -1)]


def _pictured(page: dict[str, Any], work: Path) -> dict[str, Any]:
    kept = {name: page[name] for name in ("correction", "reasons", "missing", "facts", "peak")}
    pictures = {name: _embedded(work, page[name]) for name in ("picture", "map", "places", "corrected")}
    nearest = [{**scan, "picture": _embedded(work, scan["picture"])} for scan in page["nearest"]]
    return {**kept, **pictures, "nearest": nearest}


def _embedded(work: Path, name: str) -> str:
    """A picture as a data URL."""
    if not name:
        return ""
    path = work / name
    return f"data:{_MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _falling(scores: npt.NDArray[np.float64]) -> dict[str, list[float]]:
    """Falling scores: the highest ``MOST_SCORES`` exactly, and where there are more as many of the rest, evenly thinned."""
    falling = np.sort(scores)[::-1]
    rest = falling[MOST_SCORES:]
    if len(rest) > MOST_SCORES:
        rest = rest[np.linspace(0, len(rest) - 1, MOST_SCORES).astype(np.int64)]
    return {"scores": falling[:MOST_SCORES].tolist(), "rest": rest.tolist()}


def _legend(record: dict[str, Any], language: Language) -> str:
    known = record["detector"]
    scales = {
        language.say("map of the score"): known["full_strength"],
        language.say("unusual places"): known["places_scale"],
    }
    return "; ".join(language.say("legend", map=name, scale=f"{v:.3g}") for name, v in scales.items() if v is not None)


def _warning(language: Language) -> str:
    return f'<p class="warning">{html.escape(language.say("with identifiers"))}</p>'


def _inert(data: dict[str, Any]) -> str:
    """JSON that no HTML parser can take for markup."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _template(name: str) -> str:
    return (files("medood.reporting") / "templates" / name).read_text(encoding="utf-8")


#: The sentences that the page's script says.
_SAID = set(re.findall(r'(?:say\(|words\[)"([^"]+)"', _template("page.js"))) | {
    "out_of_distribution",
    "in_distribution",
    "agree",
    "disagree",
}
