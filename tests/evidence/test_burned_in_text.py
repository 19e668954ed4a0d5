"""Text burnt into images: located, told from a radiograph's markers, and blanked in what a report shows."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from medood.config.schema import ReadConfig
from medood.errors import MedoodError
from medood.evidence import burned_in_text
from medood.evidence.burned_in_text import Box, blank, find_text
from medood.evidence.fault_codes import FaultName
from medood.evidence.findings import Correction
from medood.evidence.positions import POSITIONS
from medood.evidence.stroke_regions import stroke_regions
from medood.phantom.chest import frontal_chest
from medood.reporting import renderings
from medood.reporting.pdf import report
from medood.screening.ledger.database import Ledger
from medood.screening.run import screen
from medood.screening.run_options import RunOptions

Picture = npt.NDArray[np.float32]


def chest(*texts: tuple[str, int, int, int], side: int = 900) -> Picture:
    """A synthetic chest with texts, each at a column and row and of a size."""
    image = Image.fromarray(np.uint8(frontal_chest(0, 300).image * 255)).resize((side, side))
    draw = ImageDraw.Draw(image)
    for words, column, row, size in texts:
        draw.text((column, row), words, fill=255, font=ImageFont.load_default(size))
    return np.asarray(image, dtype=np.float32) / 255.0


def test_names_numbers_and_dates_are_found_where_they_are() -> None:
    places = {"DOE^JANE": (40, 30), "MRN 4471129": (500, 60), "12.04.2021": (60, 800)}
    boxes = find_text(chest(*((words, *place, 24) for words, place in places.items())))
    assert len(boxes) == 3
    assert [box.top for box in boxes] == sorted(box.top for box in boxes)
    for column, row in places.values():
        assert any(
            box.left * 900 <= column + 4 and box.top * 900 <= row + 6 and box.bottom * 900 >= row + 22 for box in boxes
        )


def test_markers_and_plain_radiographs_are_no_text() -> None:
    assert find_text(chest(("L", 820, 40, 40), ("AP PORTABLE", 30, 40, 30), ("12", 400, 30, 30))) == []
    assert find_text(chest()) == []
    assert find_text(chest(side=60)) == []


@pytest.mark.parametrize("size", [12, 20, 48])
@pytest.mark.parametrize("letters", [0, 255])
def test_strokes_are_where_letters_are_even_on_a_tube(size: int, letters: int) -> None:
    image = Image.new("L", (901, 701), 100)
    draw = ImageDraw.Draw(image)
    draw.line((300, 0, 420, 700), fill=160 if letters else 60, width=7)  # crosses the text, from edge to edge
    font = ImageFont.load_default(size)
    draw.text((260, 340), "DOE^JANE 12.04.2021", fill=letters, font=font)
    left, top, right, bottom = (int(edge) for edge in draw.textbbox((260, 340), "DOE^JANE 12.04.2021", font=font))
    covered = np.zeros((701, 901), dtype=bool)
    for region in stroke_regions(np.asarray(image)):
        covered[region] = True
    assert covered[top:bottom, left:right].all()
    assert covered.mean() < 0.25  # not much more than text and rim


@pytest.mark.parametrize("gap", [1, 2, 5, 8])
def test_letters_inside_a_tall_frame_have_strokes(gap: int) -> None:
    image = Image.new("L", (900, 700), 60)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    draw.text((40, 40), "DOE^JANE 4471129", fill=255, font=font)
    left, top, right, bottom = (int(edge) for edge in draw.textbbox((40, 40), "DOE^JANE 4471129", font=font))
    draw.rectangle((left - gap, top - gap, right + gap, top + 300), outline=255)
    covered = np.zeros((700, 900), dtype=bool)
    for region in stroke_regions(np.asarray(image)):
        covered[region] = True
    assert covered[top:bottom, left:right].all()


@pytest.mark.parametrize("size", [30, 44])
def test_bold_letters_of_a_small_image_are_found(size: int) -> None:
    image = Image.fromarray(np.uint8(frontal_chest(0, 256).image * 255))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    draw.text((10, 10), "DOE^JANE", fill=255, font=font, stroke_width=1, stroke_fill=255)
    boxes = find_text(np.asarray(image, dtype=np.float32) / 255.0)
    assert min(box.left for box in boxes) * 256 < 16
    assert max(box.right for box in boxes) * 256 > min(250, draw.textlength("DOE^JANE", font) - 4)


def test_what_is_wider_than_a_letter_or_fainter_has_no_strokes() -> None:
    image = Image.new("L", (900, 700), 100)
    draw = ImageDraw.Draw(image)
    draw.rectangle((200, 200, 500, 300), fill=220)
    draw.text((40, 40), "DOE^JANE", fill=115, font=ImageFont.load_default(24))
    assert stroke_regions(np.asarray(image)) == []


def test_where_strokes_are_everywhere_the_whole_image_is_searched() -> None:
    noise = np.random.default_rng(0).normal(0.4, 0.12, (900, 900)).astype(np.float32)
    written = chest(("DOE^JANE 4471129", 300, 420, 40)) > 0.99
    (box,) = find_text(np.where(written, 1.0, noise.clip(0, 0.9)).astype(np.float32))
    assert box.left * 900 < 310
    assert box.right * 900 > 600


@pytest.mark.parametrize(
    ("text", "is_marker"),
    [
        *((word, True) for word in ("L", "R.", "PA", "ap erect", "PORTABLE 2", "POATABLE", "8H", "2.0", "", "-- --")),
        *((word, False) for word in ("PORTER", "Li Wu", "L SMITH", "4471129", "1.2.1956", "12.03.56", "PA 4471129")),
        *((word, False) for word in ("Recht, A", "Mobley J", "Laterza", "Port", "12 34 56")),
    ],
)
def test_a_marker_names_nobody(text: str, is_marker: bool) -> None:
    assert burned_in_text._is_marker(text) == is_marker


@pytest.mark.parametrize("done", POSITIONS)
def test_boxes_of_a_corrected_image_come_back_to_their_place(done: str) -> None:
    stored = torch.zeros(80, 60)
    stored[10:20, 30:50] = 1.0
    corrected = POSITIONS[done](stored)
    rows, columns = (torch.nonzero(corrected.amax(axis) == corrected.max()).flatten() for axis in (1, 0))
    if done == "inverted":
        rows, columns = torch.arange(10, 20), torch.arange(30, 50)
    height, width = corrected.shape
    box = Box(int(columns[0]) / width, int(rows[0]) / height, (int(columns[-1]) + 1) / width, (int(rows[-1]) + 1) / height)
    (back,) = burned_in_text.as_stored([box], done)
    assert np.allclose((back.left, back.top, back.right, back.bottom), (30 / 60, 10 / 80, 50 / 60, 20 / 80))


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 3), (60, 900), (1, 1), (900, 8)])
def test_a_strip_is_searched_in_bounded_time(shape: tuple[int, int]) -> None:
    started = time.monotonic()
    assert find_text(np.random.default_rng(0).random(shape, dtype=np.float32)) == []
    assert time.monotonic() - started < 60


def test_a_scan_in_which_nobody_can_look_is_still_scored(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.uint8(chest() * 255)).save(tmp_path / "a.png")
    monkeypatch.setattr("medood.screening.read_worker.find_text", lambda _: 1 / 0)
    screen([tmp_path / "a.png"], tiny_detector, tmp_path / "run", fpr=0.06, read=ReadConfig(text=True))
    ledger = Ledger(tmp_path / "run")
    (row,) = ledger.rows()
    ledger.close()
    assert (row.status, row.metadata["text"]) == ("scored", None)


def test_a_blanked_place_has_one_grey_value_and_the_rest_is_as_it_was() -> None:
    image = np.random.default_rng(0).random((40, 50), dtype=np.float32)
    blanked = blank(image, [Box(0.2, 0.25, 0.4, 0.5), Box(0.98, 0.98, 1.0, 1.0)])
    assert np.ptp(blanked[10:20, 10:20]) == 0
    assert 0.3 < blanked[10, 10] < 0.7  # a median of the rim
    changed = blanked != image
    changed[10:20, 10:20] = changed[39:, 49:] = False
    assert not changed.any()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_report_blanks_what_it_shows_or_says_that_it_did_not(
    is_there: bool, tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    upside_down = np.uint8(chest()[::-1] * 255)
    image = Image.fromarray(upside_down)
    ImageDraw.Draw(image).text((200, 400), "DOE^JANE 4471129", fill=255, font=ImageFont.load_default(60))
    image.save(archive / "a.png")
    screen([archive], tiny_detector, tmp_path / "run", fpr=0.9)
    monkeypatch.setattr(burned_in_text, "is_available", lambda: is_there)
    for name in ("reporting.report_data", "reporting.evidence_cache"):
        monkeypatch.setattr(f"medood.{name}.is_available", lambda: is_there)
    report(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert any(("were looked for and blanked" if is_there else "were not looked for") in line for line in record["said"])
    (page,) = record["pages"]
    assert any("blanked" in reason for reason in page["reasons"]) == is_there
    assert "4471129" not in json.dumps(record)
    shown = picture_in(tmp_path / "run" / "report.html")
    assert (np.asarray(shown)[190:210, 100:340].max() < 240) == is_there
    assert bool(find_text(np.asarray(shown, dtype=np.float32) / 255.0)) != is_there


def picture_in(page: Path) -> Image.Image:
    """The largest picture of a report's page."""
    import base64
    import re

    codes = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page.read_text())
    pictures = [Image.open(io.BytesIO(base64.b64decode(code))).convert("L") for code in codes]
    return max(pictures, key=lambda picture: picture.size[0])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("rate", [{"fpr": 0.06}, {"fdr": 0.05}])
def test_screening_lists_scans_with_text_flagged_or_not(
    tiny_detector: Path, tmp_path: Path, workers: int, rate: dict[str, float]
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for name, texts in (("plain", ()), ("named", (("DOE^JANE 4471129", 40, 30, 30),))):
        Image.fromarray(np.uint8(chest(*texts) * 255)).save(archive / f"{name}.png")
    read, options = ReadConfig(text=True), RunOptions(workers=workers)
    screen([archive], tiny_detector, tmp_path / "run", read=read, options=options, **rate)
    ledger = Ledger(tmp_path / "run")
    rows = {Path(row.source).stem: row for row in ledger.rows()}
    ledger.close()
    assert rows["plain"].metadata["text"] == []
    assert rows["plain"].finding != FaultName.BURNED_IN_TEXT
    assert rows["named"].finding in (FaultName.BURNED_IN_TEXT, *(() if rows["named"].p_value > 0.06 else FaultName))
    ((left, top, right, bottom),) = rows["named"].metadata["text"]
    assert left < 45 / 900 < 0.3 < right < 0.5
    assert 0 <= top < 40 / 900 < 55 / 900 < bottom < 0.1
    assert b"4471129" not in (tmp_path / "run" / "ledger.sqlite").read_bytes()


def test_text_needs_the_extra(tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burned_in_text, "is_available", lambda: False)
    with pytest.raises(MedoodError, match="extra text"):
        screen([tmp_path], tiny_detector, tmp_path / "run", read=ReadConfig(text=True))


@pytest.mark.parametrize("done", ["turned by 90 degrees clockwise", "turned by 180 degrees", "mirrored"])
def test_text_that_the_correction_sets_upright_is_blanked_in_both_pictures(done: str) -> None:
    undo = {"turned by 90 degrees clockwise": "turned by 90 degrees counter-clockwise"}.get(done, done)
    upright = torch.from_numpy(chest(("DOE^JANE 4471129", 300, 60, 30)))
    stored = POSITIONS[undo](upright).contiguous().numpy()
    assert find_text(stored) == []
    boxes = renderings._texts(stored, Correction(done, 0.5, 1.0, torch.zeros(1, 8, 8)))
    assert len(boxes) == 1
    blanked = POSITIONS[done](torch.from_numpy(blank(stored, boxes))).contiguous().numpy()
    assert find_text(blanked) == []
    assert np.mean(blanked != upright.numpy()) < 0.1
