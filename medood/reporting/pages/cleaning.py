"""The issues of a data set as a page of contact sheets."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medood.errors import MedoodError
from medood.output_folder import atomic_write
from medood.reporting.pages.style import count, page, text

#: Kinds of issue, in the order in which they are listed.
KINDS = ("unreadable", "fault", "outlier", "exact_duplicate", "near_duplicate", "header_differs", "burned_in_text")
#: What each kind of issue is called, and what to know of it.
_HEADINGS = {
    "unreadable": ("Cannot be read", "No image could be taken from these files; the reason stands beside each."),
    "fault": ("Faults", "Rotated, mirrored, inverted, cropped, or another kind of image; by score, highest first."),
    "outlier": (
        "Outliers",
        "Unlike what was learned: disease, devices, other patients, or chance at the stated rate.",
    ),
    "exact_duplicate": ("Exact duplicates", "The same bytes as an earlier file."),
    "near_duplicate": ("Near duplicates", "Nearly the same image as an earlier one: another size, compression or name."),
    "header_differs": (
        "Header and image differ",
        "The attributes beside each say something else than the image shows: another body part, view or modality.",
    ),
    "burned_in_text": (
        "Text in the image",
        "Names, numbers or dates may be burnt into these images, at as many places as stand beside each.",
    ),
}


@dataclass(frozen=True)
class Issue:
    """One issue of one scan.

    Attributes:
        file: path of the file or archive.
        member: name inside an archive, or empty.
        frame: number of the frame, from 0.
        issue: one of ``KINDS``.
        detail: why it cannot be read, which fault or abnormality, what a duplicate crosses (``patients``, ``splits``),
            which attributes of the header differ, or the number of places of text.
        other: the scan that this one duplicates, or empty.
        score: the out-of-distribution score; none if it has none.
        p_value: the conformal p-value, likewise.
    """

    file: str
    member: str
    frame: int
    issue: str
    detail: str = ""
    other: str = ""
    score: float | None = None
    p_value: float | None = None


def write_page(
    issues: Sequence[Issue],
    clean: int,
    scans: int,
    thumbnails: Mapping[tuple[str, str, int], bytes | None],
    target: Path,
    shown: int,
    *,
    text_looked_for: bool,
) -> None:
    """Write the page.

    Args:
        issues: the issues, in order.
        clean: number of scans without an issue.
        scans: number of scans, and of files that hold none.
        thumbnails: JPEG by file, member and frame, of those that have one.
        target: the file to write.
        shown: number of issues of each kind that are shown.
        text_looked_for: whether text in the images was.

    Raises:
        MedoodError: it cannot be written.
    """
    by_kind = {kind: [issue for issue in issues if issue.issue == kind] for kind in KINDS}
    if not text_looked_for:
        del by_kind["burned_in_text"]
    counts = ", ".join(f"{len(listed):,} {kind.replace('_', ' ')}" for kind, listed in by_kind.items())
    body = f"<p>{count(clean, 'scan')} of {scans:,} without an issue. Issues: {counts}. All of them are in issues.csv.</p>"
    for kind, listed in by_kind.items():
        if listed:
            heading, explanation = _HEADINGS[kind]
            more = f" The first {shown} of {len(listed):,}." if len(listed) > shown else ""
            cells = "".join(_cell(issue, thumbnails) for issue in listed[:shown])
            body += f'<h2>{heading}: {len(listed):,}</h2><p>{explanation}{more}</p><ul class="sheet">{cells}</ul>'
    try:
        with atomic_write(target) as partial:
            partial.write_text(page("Issues of a data set", body), encoding="utf-8")
    except OSError as error:
        raise MedoodError(f"{target} cannot be written: {error.strerror or error}.") from error


def _cell(issue: Issue, thumbnails: Mapping[tuple[str, str, int], bytes | None]) -> str:
    thumbnail = thumbnails.get((issue.file, issue.member, issue.frame))
    image = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}">' if thumbnail else ""
    name = Path(issue.member or issue.file).name + (f", {issue.frame}" if issue.frame else "")
    lines = [name, issue.detail.replace("_", " "), f"like {issue.other}" if issue.other else ""]
    lines.append(f"p = {issue.p_value:.3g}" if issue.p_value is not None and not issue.other else "")
    return f"<li>{image}{'<br>'.join(text(line) for line in lines if line)}</li>"
