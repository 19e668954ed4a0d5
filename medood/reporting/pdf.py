"""The record as a PDF, typeset by Typst, offline."""

from __future__ import annotations

import json
import shutil
import tempfile
import unicodedata
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import typst

from medood.errors import MedoodError
from medood.progress import Progress
from medood.reporting.html_page import write_page
from medood.reporting.i18n.language import Language
from medood.reporting.report_data import Asked, detector_of, make_record, write_record

#: Characters of the fonts that typst brings: Latin, Greek, Cyrillic, punctuation, currencies, arrows, operators.
_GLYPHS = (
    (0x20, 0x7E),
    (0xA0, 0x24F),
    (0x370, 0x3FF),
    (0x400, 0x4FF),
    (0x1E00, 0x1EFF),
    (0x2010, 0x2027),
    (0x2030, 0x205E),
    (0x20A0, 0x20BF),
    (0x2190, 0x22FF),
)
_NO_GLYPHS = (0xAD, 0x378, 0x379, 0x380, 0x381, 0x382, 0x383, 0x38B, 0x38D, 0x3A2, 0x2041, 0x2043, 0x2053)
#: Largest verdicts.csv that is attached to the PDF, in bytes: that of about 50,000 scans.
MOST_ATTACHED = 10 * 1024**2


def report(
    run: str | Path,
    detector: str | Path | None = None,
    *,
    top: int = 20,
    accepted: int = 0,
    pictures: bool = True,
    review: str | Path | None = None,
    identifiers: bool = False,
    known: str | Path | None = None,
    language: str = "en",
    progress: Progress | None = None,
) -> Path:
    """Write ``report.pdf``, ``report.html`` and ``record.json`` into a run's folder.

    Args:
        run: the folder that ``screen`` wrote.
        detector: the detector's folder, where it is no longer the one noted in the ledger.
        top: number of the most out-of-distribution entries shown with evidence: one a file, near-duplicates told together.
        accepted: number of accepted scans, the highest scores first, that the page shows small too.
        pictures: show the scans and their maps; without, a report can be passed on where the scans may not.
        review: the JSON or CSV file that ``report.html`` exported.
        identifiers: show what the headers say of patients and studies.
        known: a folder with the scans that the detector learned from; the nearest ones are then shown.
        language: one of ``medood.reporting.i18n.language.LANGUAGES``.
        progress: where to draw; none is quiet.

    Returns:
        the path of the PDF.

    Raises:
        MedoodError: there is no finished run, the detector is another one, the review is of another run, or the folder
            cannot be written.
    """
    run = Path(run)
    progress = progress or Progress(quiet=True)
    asked = Asked(
        top, accepted, pictures, Path(review) if review else None, identifiers, Path(known) if known else None, language
    )
    _, loaded = detector_of(run, detector)
    try:
        with tempfile.TemporaryDirectory(prefix="medood-") as scratch:
            work = Path(scratch)
            record = make_record(run, loaded, work, asked, progress)
            verdicts = run / "verdicts.csv"
            if verdicts.is_file() and verdicts.stat().st_size <= MOST_ATTACHED:
                shutil.copyfile(verdicts, work / "verdicts.csv")
            made = [typeset(record, work), write_page(record, run, loaded, work), work / "record.json"]
            partial = {path: run / f".{path.name}.part" for path in made}
            try:
                for path in made:
                    shutil.copyfile(path, partial[path])
                for path in made:
                    partial[path].replace(run / path.name)
            finally:
                for path in partial.values():
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise MedoodError(
            f"The report cannot be written into {run}: {error.strerror or error}. Free some space, or copy the run to a "
            "folder that can be written, and report on the copy."
        ) from error
    return run / "report.pdf"


def typesettable(value: Any) -> Any:
    """The record with every character that the report's fonts lack spelled out, as ``[U+65E5]``.

    PDF/A forbids a character without a glyph, and fonts of the system would make the bytes depend on the machine. What is
    attached to the report keeps the characters.
    """
    if isinstance(value, dict):
        return {key: typesettable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [typesettable(item) for item in value]
    if isinstance(value, str):
        spaced = "".join(
            " " if c == "\t" or unicodedata.category(c) == "Zs" else c for c in unicodedata.normalize("NFC", value)
        )
        return "".join(c if _has_glyph(c) or c == "\n" else f"[U+{ord(c):04X}]" for c in spaced)
    return value


def _has_glyph(character: str) -> bool:
    code = ord(character)
    inside = any(low <= code <= high for low, high in _GLYPHS)
    return inside and code not in _NO_GLYPHS and not unicodedata.category(character).startswith("M")


def typeset(record: dict[str, Any], work: Path) -> Path:
    """Compile the template over ``record`` in ``work``, where the pictures lie already, to a tagged PDF/A-3a.

    The record is attached to it, and ``verdicts.csv`` where it lies in ``work``.
    """
    template = work / "report.typ"
    template.write_text((files("medood.reporting") / "templates" / "report.typ").read_text(encoding="utf-8"))
    write_record(record, work / "record.json")
    (work / "shown.json").write_text(json.dumps(typesettable(record)), encoding="utf-8")
    (work / "words.json").write_text(json.dumps(Language(record["language"]).words), encoding="utf-8")
    target = work / "report.pdf"
    finished = datetime.fromisoformat(record["run"]["finished"])
    try:
        typst.compile(
            template,
            output=target,
            root=work,
            ignore_system_fonts=True,
            timestamp=finished,
            pdf_standards=["a-3a"],
            sys_inputs={"verdicts": "yes" if (work / "verdicts.csv").is_file() else ""},
        )
    except typst.TypstError as error:
        raise MedoodError(f"The report could not be typeset: {error}. Please report this with record.json.") from error
    return target
