"""The record as one self-contained HTML file: table, histogram with a movable threshold, viewer and review."""

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

from medood.detection.conformal import Decision
from medood.detection.detector import Detector
from medood.reporting.i18n.language import Language
from medood.reporting.report_data import MAX_ROWS, name_of, validate_record
from medood.reporting.review import COLUMNS, REVIEW_VERSION
from medood.screening.ledger.database import Ledger, Row

#: Number of highest scores that the slider counts exactly; as many again, evenly thinned, stand for the rest.
MAX_SCORES = 10_000
_MEDIA = {".jpg": "image/jpeg", ".png": "image/png"}


def write_page(record: dict[str, Any], run: Path, detector: Detector, work: Path) -> Path:
    """Write ``report.html`` into ``work``, which holds the record's images.

    The Content-Security-Policy allows only the page's own script, identified by its hash, and no loading of resources.

    Args:
        record: see :func:`medood.reporting.report_data.make_record`.
        run: the run's folder, whose ledger fills the table.
        detector: the detector that scored the run.
        work: the folder that holds the images.
    """
    language = Language(record["language"])
    style, script = (_template(name) for name in ("page.css", "page.js"))
    run_facts, summary, detector_facts = record["run"], record["summary"], record["detector"]
    counts = [("scanned", "rows"), ("flagged", "flagged"), ("accepted", "accepted"), ("refused", "without a score")]
    settings = [
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
            f'<li class="{name}"><b>{summary[name]}</b>{html.escape(language.say(t))}</li>' for name, t in counts
        ),
        "warning": _warning(language) if record["identifiers"] else "",
        "facts": "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in settings),
        "legend": html.escape(_legend(record, language)),
        "cut": html.escape(language.say("html cut", count=MAX_ROWS)) if len(data["rows"]) < summary["scanned"] else "",
        "data": _inert(data),
    }
    parts |= {f"t:{name}": html.escape(text) for name, text in language.words.items()}
    page = re.sub(r"\{\{([^{}]+)\}\}", lambda match: parts[match[1]], _template("page.html"))
    target = work / "report.html"
    target.write_text(page, encoding="utf-8")
    return target


def _data(record: dict[str, Any], run: Path, detector: Detector, work: Path, language: Language) -> dict[str, Any]:
    pages = [_page_fields(page, work) for page in record["pages"]]
    place = {page["key"]: i for i, page in enumerate(record["pages"])}
    ledger = Ledger(run)
    try:
        scored = [_row(row, place, language) for row in ledger.scored(MAX_ROWS)]
        refused = [_row(row, {}, language) for row in ledger.refused(MAX_ROWS, not_selected=True)]
        scores = np.array(ledger.scores(), dtype=np.float64)
    finally:
        ledger.close()
    calibration = detector.calibration.scores[np.isfinite(detector.calibration.scores)]
    review = record["review"] or {"reviewer": "", "entries": []}
    page_words = {name: text for name, text in language.words.items() if name in _SAID}
    return {
        "run": record["run_name"],
        "review_version": REVIEW_VERSION,
        "review_columns": list(COLUMNS),
        "reviewer": review["reviewer"],
        "reviews": review["entries"],
        "words": page_words,
        "rows": validate_record(scored + refused),
        "thumbnails": {key: _data_uri(work, name) for key, name in record["thumbnails"].items()},
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
    key = row.key
    finding = language.say(row.finding) if row.finding else ""
    reason = language.reason(row.reason)
    return [key, name, row.status, row.decision, row.score, row.p_value, reason, finding, place.get(key, -1)]


def _page_fields(page: dict[str, Any], work: Path) -> dict[str, Any]:
    shown_fields = {name: page[name] for name in ("correction", "reasons", "missing", "facts", "peak")}
    images = {name: _data_uri(work, page[name]) for name in ("picture", "map", "places", "corrected")}
    nearest = [{**scan, "picture": _data_uri(work, scan["picture"])} for scan in page["nearest"]]
    return {**shown_fields, **images, "nearest": nearest}


def _data_uri(work: Path, name: str) -> str:
    """An image as a data URL."""
    if not name:
        return ""
    path = work / name
    return f"data:{_MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _falling(scores: npt.NDArray[np.float64]) -> dict[str, list[float]]:
    """Scores in descending order: the highest ``MAX_SCORES``, and at most as many of the rest, evenly thinned."""
    falling = np.sort(scores)[::-1]
    rest = falling[MAX_SCORES:]
    if len(rest) > MAX_SCORES:
        rest = rest[np.linspace(0, len(rest) - 1, MAX_SCORES).astype(np.int64)]
    return {"scores": falling[:MAX_SCORES].tolist(), "rest": rest.tolist()}


def _legend(record: dict[str, Any], language: Language) -> str:
    detector_facts = record["detector"]
    scales = {
        language.say("map of the score"): detector_facts["full_strength"],
        language.say("unusual places"): detector_facts["places_scale"],
    }
    return "; ".join(language.say("legend", map=name, scale=f"{v:.3g}") for name, v in scales.items() if v is not None)


def _warning(language: Language) -> str:
    return f'<p class="warning">{html.escape(language.say("with identifiers"))}</p>'


def _inert(data: dict[str, Any]) -> str:
    """JSON that no HTML parser can mistake for markup."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _template(name: str) -> str:
    return (files("medood.reporting") / "templates" / name).read_text(encoding="utf-8")


#: Names of the texts that the page's script shows.
_SAID = set(re.findall(r'(?:say\(|words\[)"([^"]+)"', _template("page.js"))) | {
    Decision.OUT_OF_DISTRIBUTION,
    Decision.IN_DISTRIBUTION,
    "agree",
    "disagree",
}
