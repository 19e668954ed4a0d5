"""Typeset the record as a PDF with Typst, offline."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import unicodedata
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import typst

from medood.detection.detector_folder import CARD
from medood.errors import MedoodError
from medood.output_folder import atomic_write
from medood.progress import Progress
from medood.reporting.html_page import write_page
from medood.reporting.i18n.language import Language
from medood.reporting.report_data import ReportOptions, detector_of, make_record, write_record
from medood.scans.library_settings import library_settings
from medood.screening.finished_run import detector_folder, finished_run
from medood.screening.monitor.audit_facts import check_day

#: Characters in the fonts that typst bundles: Latin, Greek, Cyrillic, punctuation, currencies, arrows, operators.
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
#: Largest verdicts.csv that is attached to the PDF, in bytes: about 50,000 scans.
MAX_ATTACHED = 10 * 1024**2


@library_settings()
def report(
    run: str | Path,
    detector: str | Path | None = None,
    *,
    top: int = 20,
    accepted: int = 0,
    images: bool = True,
    review: str | Path | None = None,
    identifiers: bool = False,
    training_scans: str | Path | None = None,
    language: str = "en",
    keep_until: str = "",
    progress: Progress | None = None,
) -> Path:
    """Write ``report.pdf``, ``report.html`` and ``record.json`` into a run's folder.

    Args:
        run: the folder that ``screen`` wrote.
        detector: the detector's folder, if it is no longer the one recorded in the ledger.
        top: number of the most out-of-distribution entries to show with evidence; near-duplicate files share an entry.
        accepted: number of accepted scans, highest scores first, that also get a thumbnail on the page.
        images: show the scans and their maps; a report without them can go where the scans may not.
        review: the JSON or CSV file that ``report.html`` exported.
        identifiers: show patient and study attributes from the headers.
        training_scans: a folder with the detector's training scans; if given, the nearest ones are shown.
        language: one of ``medood.reporting.i18n.language.LANGUAGES``.
        keep_until: day until which the run is to be kept, in ISO 8601; empty for six months after it.
        progress: the progress display; None is quiet.

    Returns:
        the path of the PDF.

    Raises:
        MedoodError: the run is missing or unfinished, the detector or the review is not the run's, or the folder cannot be
            written.
    """
    run = Path(run)
    progress = progress or Progress(quiet=True)
    options = ReportOptions(
        top,
        accepted,
        images,
        Path(review) if review else None,
        identifiers,
        Path(training_scans) if training_scans else None,
        language,
        detector_folder(run, finished_run(run), detector) / CARD,
        keep_until,
    )
    if keep_until:
        check_day(keep_until, str(finished_run(run).finished))
    _, loaded = detector_of(run, detector)
    try:
        with tempfile.TemporaryDirectory(prefix="medood-") as scratch:
            work = Path(scratch)
            record = make_record(run, loaded, work, options, progress)
            verdicts = run / "verdicts.csv"
            if verdicts.is_file() and verdicts.stat().st_size <= MAX_ATTACHED:
                shutil.copyfile(verdicts, work / "verdicts.csv")
            files = [typeset(record, work), write_page(record, run, loaded, work), work / "record.json"]
            with contextlib.ExitStack() as stack:  # all are copied before any is replaced
                for path in files:
                    shutil.copyfile(path, stack.enter_context(atomic_write(run / path.name)))
    except OSError as error:
        raise MedoodError(
            f"The report cannot be written into {run}: {error.strerror or error}. Free some space, or copy the run to a "
            "folder that can be written, and report on the copy."
        ) from error
    return run / "report.pdf"


def typesettable(value: Any) -> Any:
    """Replace characters that the report's fonts lack by their code points, such as ``[U+65E5]``.

    PDF/A forbids characters without a glyph, and system fonts would make the bytes depend on the machine. The files attached
    to the report keep the characters.
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
    """Compile the template with ``record`` to a tagged PDF/A-3a in ``work``, which already holds the images.

    The record is attached, and so is ``verdicts.csv`` if ``work`` holds it.
    """
    write_record(record, work / "record.json")
    attached = {"verdicts": "yes" if (work / "verdicts.csv").is_file() else ""}
    return compile_template("report", record, record["run"]["finished"], work, attached)


def compile_template(name: str, record: dict[str, Any], finished: str, work: Path, inputs: dict[str, str]) -> Path:
    """Compile ``templates/NAME.typ`` with a record to a tagged PDF/A-3a in ``work``; the record is attached.

    Args:
        name: name of the template.
        record: what it shows.
        finished: time in ISO 8601 that the PDF states as its own.
        work: the folder with the images.
        inputs: values for the template.
    """
    template = work / f"{name}.typ"
    for part in ("shared.typ", template.name):
        (work / part).write_text((files("medood.reporting") / "templates" / part).read_text(encoding="utf-8"))
    (work / "shown.json").write_text(json.dumps(typesettable(record)), encoding="utf-8")
    (work / "words.json").write_text(json.dumps(Language(record["language"]).words), encoding="utf-8")
    target = template.with_suffix(".pdf")
    try:
        typst.compile(
            template,
            output=target,
            root=work,
            ignore_system_fonts=True,
            timestamp=datetime.fromisoformat(finished),
            pdf_standards=["a-3a"],
            sys_inputs=inputs,
        )
    except typst.TypstError as error:
        raise MedoodError(f"The report could not be typeset: {error}. Please report this with {name}.json.") from error
    return target
