"""One entry per file, near-duplicates grouped; what was drawn once is kept."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.outliers import OUTLIERS
from medood.reporting.entries import SAME_FILE, SAME_PICTURE, entries_of
from medood.reporting.evidence_cache import NAME, EvidenceCache
from medood.reporting.pdf import report
from medood.screening.ledger.database import Ledger, Row
from medood.screening.ledger.run_metadata import RunMetadata
from medood.screening.run import screen

METADATA = RunMetadata(started="2026-01-01T00:00:00+00:00")


def row(source: str, frame: int, score: float, sha256: str = "") -> Row:
    digest = sha256 or f"{abs(hash(source)):064x}"[:64]
    return Row(source, "", frame, digest, "scored", "", score, 0.01, "out_of_distribution")


def look(*bits: int) -> bytes:
    packed = np.zeros(256, np.uint8)
    packed[list(bits)] = 1
    return np.packbits(packed).tobytes()


def test_frames_of_a_file_and_nearly_the_same_pictures_are_one_entry() -> None:
    rows = [row("a", 3, 9.0), row("b", 0, 8.0), row("a", 1, 7.0), row("c", 3, 6.0), row("d", 0, 5.0), row("c", 1, 4.0)]
    looks = {
        (rows[0].sha256, 3): look(),
        (rows[2].sha256, 1): look(200),
        (rows[1].sha256, 0): look(*range(100)),
        (rows[3].sha256, 3): look(1, 2),
        (rows[5].sha256, 1): look(200, 201),
        (rows[4].sha256, 0): look(*range(95)),
    }
    entries = entries_of(rows, looks)
    assert [(entry.row.source, entry.row.frame) for entry in entries] == [("a", 3), ("b", 0)]
    told = [[(other.source, other.frame, why) for other, why in entry.others] for entry in entries]
    assert told == [[("a", 1, SAME_FILE), ("c", 3, SAME_PICTURE), ("c", 1, SAME_PICTURE)], [("d", 0, SAME_PICTURE)]]
    assert sum(1 + len(entry.others) for entry in entries) == len(rows), "every scan is told once"
    apart = entries_of(rows, {})
    assert [entry.row.source for entry in apart] == ["a", "b", "c", "d"], "what could not be read stands alone"


def test_copies_of_a_follower_follow_too() -> None:
    rows = [row(name, 0, 9.0 - number) for number, name in enumerate("abc")]
    looks = {(rows[0].sha256, 0): look(), (rows[1].sha256, 0): look(1), (rows[2].sha256, 0): look(1)}
    (entry,) = entries_of(rows, looks)
    assert [other.source for other, _ in entry.others] == ["b", "c"]


def test_one_frame_alike_does_not_bind_the_others() -> None:
    """Two radiographs that begin with the same blank frame are two entries."""
    rows = [row("a", 0, 9.0), row("b", 0, 8.0), row("b", 1, 7.0)]
    looks = {(rows[0].sha256, 0): look(), (rows[1].sha256, 0): look(), (rows[2].sha256, 1): look(*range(50))}
    assert [entry.row.source for entry in entries_of(rows, looks)] == ["a", "b"]


def test_two_members_of_one_name_are_two_entries() -> None:
    rows = [row("a.zip", 0, 9.0, "1" * 64), row("a.zip", 0, 8.0, "2" * 64)]
    assert len(entries_of(rows, {})) == 2


def test_ten_thousand_noisy_copies_are_grouped_within_seconds() -> None:
    rows = [row(str(number), 0, 9.0, f"{number:064x}") for number in range(10_000)]
    draw = np.random.default_rng(0)
    looks = {(some.sha256, 0): look(*draw.integers(0, 256, 3)) for some in rows}
    assert sum(1 + len(entry.others) for entry in entries_of(rows, looks)) == 10_000


@pytest.fixture(scope="module")
def run(tiny_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of four frames, the same outlier twice (once compressed anew), and two others."""
    folder = tmp_path_factory.mktemp("entries")
    (folder / "in").mkdir()
    shades = [Image.fromarray((OUTLIERS["ct_like"](n, 96) * 255).astype(np.uint8)) for n in range(4)]
    shades[0].save(folder / "in" / "frames.tiff", save_all=True, append_images=shades[1:])
    inverted = Image.fromarray((OUTLIERS["inverted"](1, 96) * 255).astype(np.uint8))
    inverted.save(folder / "in" / "inverted.png")
    inverted.save(folder / "in" / "inverted-again.jpg", quality=95)
    Image.fromarray((frontal_chest(5, 96).image * 255).astype(np.uint8)).save(folder / "in" / "chest.png")
    Image.fromarray((OUTLIERS["upside_down"](1, 96) * 255).astype(np.uint8)).save(folder / "in" / "upside.png")
    screen([folder / "in"], tiny_detector, folder / "run", fpr=0.9)
    return folder / "run"


def record_of(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "record.json").read_text()))


def test_a_report_has_one_entry_a_file_and_a_thumbnail_of_every_flagged_scan(run: Path) -> None:
    report(run, top=10)
    record = json.loads((run / "record.json").read_text())
    names = [Path(entry["source"]).name for entry in record["flagged"]]
    assert len(names) == len(set(names))
    assert names.count("frames.tiff") == 1
    assert {"inverted.png", "inverted-again.jpg"} & set(names) != {"inverted.png", "inverted-again.jpg"}, (
        "one of the two is told with the other"
    )
    told = sum(1 + entry["same_file"] + entry["same_picture"] for entry in record["flagged"])
    assert told == record["summary"]["flagged"] == len(record["thumbnails"])
    assert all(entry["thumbnail"] for entry in record["flagged"])
    assert len(record["pages"]) == len(record["flagged"])
    assert set(record["groups"].values()) <= {entry["key"] for entry in record["flagged"]}


def test_accepted_scans_have_a_thumbnail_where_asked_for(run: Path, tiny_detector: Path, tmp_path: Path) -> None:
    folder = tmp_path / "strict"
    screen([run.parent / "in"], tiny_detector, folder, fpr=0.06)
    report(folder, top=0)
    record = json.loads((folder / "record.json").read_text())
    assert record["summary"]["accepted"] >= 1
    assert len(record["thumbnails"]) == record["summary"]["flagged"]
    report(folder, top=0, accepted=1)
    assert len(json.loads((folder / "record.json").read_text())["thumbnails"]) == record["summary"]["flagged"] + 1


def test_a_report_made_again_draws_nothing_and_needs_no_file(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = report(copy, top=4).read_bytes()
    reads = list[object]()
    monkeypatch.setattr("medood.reporting.renderings.read_original_scans", lambda rows, *_: reads.extend(rows) or iter(()))
    assert report(copy, top=4).read_bytes() == before
    assert reads == []
    report(copy, top=2, language="de")
    assert reads == [], "another language or fewer entries need nothing new"
    assert all(not page["missing"] for page in json.loads((copy / "record.json").read_text())["pages"])


def test_pictures_stay_when_a_review_is_put_in_and_the_scans_are_gone(
    run: Path, tiny_detector: Path, tmp_path: Path
) -> None:
    shutil.copytree(run.parent / "in", tmp_path / "in")
    screen([tmp_path / "in"], tiny_detector, tmp_path / "run", fpr=0.9)
    report(tmp_path / "run", top=3)
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    shutil.rmtree(tmp_path / "in")
    review = {"medood_review": 1, "run": record["run_name"], "reviewer": "R", "reviews": []}
    review["reviews"] = [{"key": record["pages"][0]["key"], "verdict": "agree", "note": ""}]
    (tmp_path / "review.json").write_text(json.dumps(review))
    report(tmp_path / "run", top=3, review=tmp_path / "review.json")
    again = json.loads((tmp_path / "run" / "record.json").read_text())
    assert again["review"]["agree"] == 1
    assert [page["picture"] for page in again["pages"]] == [page["picture"] for page in record["pages"]]
    assert all(page["picture"] for page in again["pages"])


def test_what_another_detector_drew_and_a_damaged_cache_are_drawn_anew(
    run: Path, tiny_detector: Path, tmp_path: Path
) -> None:
    detector = Detector.load(tiny_detector)
    ledger = Ledger(run)
    some = next(ledger.scored())
    ledger.close()
    key = f"{some.sha256}:{some.frame}"
    cache = EvidenceCache(tmp_path, detector, METADATA)
    cache.keep_thumbnail(key, b"jpeg", bytes(32))
    cache.close()
    same = EvidenceCache(tmp_path, detector, METADATA)
    assert same.thumbnail(key) == (b"jpeg", bytes(32))
    assert same.evidence(key) is None
    same.close()
    detector.sha256 = "0" * 64
    other = EvidenceCache(tmp_path, detector, METADATA)
    assert other.thumbnail(key) is None
    other.close()
    detector.sha256 = Detector.load(tiny_detector).sha256
    read_so = EvidenceCache(tmp_path, detector, METADATA)
    read_so.keep_thumbnail(key, b"jpeg", bytes(32))
    read_so.close()
    otherwise = EvidenceCache(tmp_path, detector, replace(METADATA, read=ReadConfig(frames="middle")))
    assert otherwise.thumbnail(key) is None, "another frame lies under the same number"
    otherwise.close()
    (tmp_path / NAME).write_bytes(b"no database" * 1000)
    anew = EvidenceCache(tmp_path, detector, METADATA)
    anew.keep_thumbnail(key, b"jpeg", bytes(32))
    assert anew.thumbnail(key) is not None
    anew.close()


def test_a_half_warm_cache_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    made = []
    for first in (5, 2):
        copy = tmp_path / str(first)
        shutil.copytree(run, copy)
        (copy / NAME).unlink(missing_ok=True)
        report(copy, top=first)
        made.append(report(copy, top=5).read_bytes())
    assert made[0] == made[1]


def test_a_cache_that_is_damaged_inside_is_drawn_again_or_told(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    report(copy, top=2)
    content = bytearray((copy / NAME).read_bytes())
    for start in range(3 * 4096, len(content), 4096):
        content[start : start + 64] = b"x" * 64
    (copy / NAME).write_bytes(content)
    try:
        report(copy, top=2)
    except MedoodError as error:
        assert "Delete it" in str(error)
    (copy / NAME).unlink()
    assert report(copy, top=2).is_file()


def test_a_report_without_pictures_keeps_none(run: Path, tiny_detector: Path, tmp_path: Path) -> None:
    screen([run.parent / "in"], tiny_detector, tmp_path / "run", fpr=0.9)
    report(tmp_path / "run", images=False)
    assert not (tmp_path / "run" / NAME).exists()
    assert json.loads((tmp_path / "run" / "record.json").read_text())["thumbnails"] == {}


def test_a_thumbnail_is_a_small_jpeg(run: Path, tiny_detector: Path) -> None:
    report(run, top=1)
    cache = EvidenceCache(run, Detector.load(tiny_detector), Ledger.read_metadata(run))
    kept = cache.thumbnail(json.loads((run / "record.json").read_text())["flagged"][0]["key"])
    cache.close()
    assert kept is not None
    image = Image.open(io.BytesIO(kept[0]))
    assert image.format == "JPEG"
    assert max(image.size) <= 128
