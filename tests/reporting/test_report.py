from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import typst
from PIL import Image
from pypdf import PdfReader

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.progress import Progress
from medood.reporting.pdf import report, typeset, typesettable
from medood.reporting.renderings import RenderedEvidence, blend, draw_evidence, on_picture
from medood.reporting.report_data import ReportOptions, histogram, make_record, write_record
from medood.screening.ledger.database import Ledger, Row
from medood.screening.run import screen

HOSTILE = '#pagebreak() *b* $x$ "q" \\ <img src=x> [[ 日本語 العربية ไทย 😀'

REASONS = Path(__file__).parents[2] / "medood" / "reasons.json"


@pytest.fixture(scope="module")
def run(tiny_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A screened zip of two chests, three outliers and a broken file, with hostile names."""
    folder = tmp_path_factory.mktemp("screened")
    archive = folder / "archive.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for seed in (600, 601):
            opened.writestr(f"chest-{seed}.dcm", dicom_bytes(frontal_chest(seed, 96).image, str(seed)))
        for name, kind in (("ct.dcm", "ct_like"), (HOSTILE.replace("/", "") + ".dcm", "hand_like"), ("x" * 200, "inverted")):
            opened.writestr(name, dicom_bytes(OUTLIERS[kind](3, 96), name[:20]))
        opened.writestr("broken.dcm", b"no")
    screen([archive], tiny_detector, folder / "run", fpr=0.9)
    return folder / "run"


def text_of(pdf: Path) -> str:
    return " ".join(" ".join(page.extract_text() for page in PdfReader(pdf).pages).split())


def test_the_pdf_says_what_the_ledger_holds(run: Path, tiny_detector: Path) -> None:
    pdf = report(run, top=3)
    record = json.loads((run / "record.json").read_text())
    text = text_of(pdf)
    assert record["summary"]["scanned"] == 6
    assert record["summary"]["refused"] == 1
    assert Detector.load(tiny_detector).sha256[:12] in text
    assert "Limits of use" in text
    assert "Signature" in text
    assert "map of the score" in text
    assert "broken.dcm" in text
    assert "not_an_image" in text
    ledger = Ledger(run)
    keys = sorted(f"{row.sha256}:{row.frame}" for row in ledger.rows())
    ledger.close()
    assert record["inputs_sha256"] == hashlib.sha256("\n".join(keys).encode()).hexdigest()
    assert record["inputs_sha256"] in text.replace(" ", "")
    assert record["flagged"] == sorted(record["flagged"], key=lambda r: -r["score"])
    assert len(record["pages"]) == min(3, record["summary"]["flagged"])
    for page in record["pages"]:
        assert page["missing"] == ""
        assert page["nearest"]


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    first = report(run, top=2).read_bytes()
    assert first == report(run, top=2).read_bytes()


def test_a_report_without_pictures_holds_none(run: Path) -> None:
    with_pictures = PdfReader(report(run, top=2))
    drawn = [page for page in json.loads((run / "record.json").read_text())["pages"] if page["reasons"]]
    assert len(drawn) == 2
    shown = ("picture", "overlay", "unusual", "corrected")  # a map alone is for the page
    expected = sum(bool(page[name]) for page in drawn for name in shown)
    small = len(json.loads((run / "record.json").read_text())["flagged"])
    assert sum(len(page.images) for page in with_pictures.pages) == expected + small
    without = PdfReader(report(run, top=2, images=False))
    assert sum(len(page.images) for page in without.pages) == 0
    assert "left out of this report" in text_of(run / "report.pdf")


def test_no_patient_is_named(run: Path) -> None:
    text = text_of(report(run)) + (run / "record.json").read_text()
    assert "PHANTOM-" not in text
    assert "Phantom^" not in text


def test_hostile_text_is_shown_and_stops_nothing(run: Path) -> None:
    ledger = Ledger(run)
    metadata = ledger.metadata()
    ledger.close()
    detector = Detector.load(metadata.detector.folder)
    work = run.parent / "work"
    work.mkdir(exist_ok=True)
    record = make_record(run, detector, work, ReportOptions(top=5), Progress(quiet=True))
    for page in record["pages"]:
        page["source"] = HOSTILE * 300
        page["facts"] = [["Manufacturer", HOSTILE], ["Empty", ""]]
        page["score"] = None
    record["refused"][0]["reason"] = HOSTILE
    text = text_of(typeset(record, work))
    assert "img src" in text
    assert "U+65E5" in text.replace(" ", ""), "what the font lacks is spelled out"
    assert json.loads((work / "record.json").read_text())["refused"][0]["reason"] == HOSTILE


def test_the_fonts_have_what_is_not_spelled_out(tmp_path: Path) -> None:
    """PDF/A refuses a character without a glyph; a letter and its accent become one."""
    drawn = [c for code in range(0x3000) if typesettable(c := chr(code)) == c]
    assert len(drawn) > 1500
    (tmp_path / "some.json").write_text(json.dumps(drawn))
    source = '#set text(font: "Libertinus Serif")\n#for c in json("some.json") [#c ]\n'
    (tmp_path / "some.typ").write_text(source)
    typst.compile(
        tmp_path / "some.typ", output=tmp_path / "some.pdf", root=tmp_path, ignore_system_fonts=True, pdf_standards=["a-3a"]
    )
    assert typesettable({"a": ["e\u0301 日 😀 \u0e01"]}) == {"a": ["é [U+65E5] [U+1F600] [U+0E01]"]}


def test_the_report_is_tagged_and_carries_its_record(run: Path) -> None:
    opened = PdfReader(report(run, top=1))
    assert opened.attachments["record.json"][0] == (run / "record.json").read_bytes()
    assert opened.attachments["verdicts.csv"][0] == (run / "verdicts.csv").read_bytes()
    root = opened.trailer["/Root"]
    assert root["/MarkInfo"]["/Marked"]
    metadata = root["/Metadata"].get_data().decode()
    assert "<pdfaid:part>3<" in metadata
    assert "<pdfaid:conformance>A<" in metadata


def test_a_missing_or_changed_original_is_said(run: Path, tiny_detector: Path, tmp_path: Path) -> None:
    ledger = Ledger(run)
    row = next(ledger.scored())
    ledger.close()
    detector = Detector.load(tiny_detector)
    gone, other = replace(row, source=str(tmp_path / "gone.zip")), replace(row, sha256="0" * 64)
    drawn = list(draw_evidence([gone, row, other], detector, Path(), ReadConfig()))
    found = {id(row): made for row, made in drawn}
    assert "no longer" in str(found[id(gone)])
    assert isinstance(found[id(row)], RenderedEvidence), "what the others lack stops nothing"
    assert "changed" in str(found[id(other)])


def test_a_relative_source_is_found_from_another_folder(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a.dcm").write_bytes(dicom_bytes(OUTLIERS["ct_like"](1, 96), "a"))
    monkeypatch.chdir(tmp_path / "work")
    screen(["a.dcm"], tiny_detector, "run", fpr=0.9)
    monkeypatch.chdir(tmp_path)
    report(tmp_path / "work" / "run")
    record = (tmp_path / "work" / "run" / "record.json").read_text()
    assert json.loads(record)["pages"][0]["missing"] == ""
    assert str(tmp_path) not in record


def test_evidence_pictures_keep_the_shape_of_the_scan(run: Path, tiny_detector: Path, tmp_path: Path) -> None:
    Image.fromarray((frontal_chest(5, 128).image[:64] * 255).astype(np.uint8)).save(tmp_path / "wide.png")
    screen([tmp_path / "wide.png"], tiny_detector, tmp_path / "run", fpr=0.1)
    ledger = Ledger(tmp_path / "run")
    row = next(ledger.rows())
    ledger.close()
    ((_, drawn),) = draw_evidence([row], Detector.load(tiny_detector), Path(), ReadConfig())
    assert isinstance(drawn, RenderedEvidence)
    opened = {name: Image.open(io.BytesIO(content)) for name, content in drawn.images.items()}
    assert {"picture", "unusual", "places"} <= set(opened)
    modes = {"picture": "L", "corrected": "L", "map": "RGBA", "places": "RGBA"}
    for name, image in opened.items():
        assert (image.size, image.mode) == ((128, 64), modes.get(name, "RGB"))


def test_no_heat_leaves_the_picture_grey_and_full_heat_colours_it() -> None:
    grey = np.full((4, 4), 0.5, np.float32)
    cold, hot = (np.asarray(blend(grey, np.full((4, 4), heat, np.float32))) for heat in (0.0, 7.0))
    assert (cold == 128).all()
    assert (hot[..., 0] > hot[..., 2] + 80).all()


def test_nothing_flagged_all_flagged_and_nothing_scored(tiny_detector: Path, tmp_path: Path) -> None:
    (tmp_path / "chest.dcm").write_bytes(dicom_bytes(frontal_chest(0, 96).image, "0"))
    (tmp_path / "text.png").write_text("no")
    for name, sources in {"one": ["chest.dcm"], "none": ["text.png"]}.items():
        screen([tmp_path / s for s in sources], tiny_detector, tmp_path / name, fpr=0.06)
        assert "Rows by status" in text_of(report(tmp_path / name))


def test_mistakes_are_told(run: Path, tiny_detector: Path, tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match="is not a run"):
        report(tmp_path)
    other = tmp_path / "other"
    detector = Detector.load(tiny_detector)
    detector.metadata.config["name"] = "another"
    detector.save(other)
    with pytest.raises(MedoodError, match="was scored by the detector"):
        report(run, other)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    ledger = Ledger(copy)
    ledger.set_metadata(detector={**asdict(ledger.metadata().detector), "folder": "/nowhere"})
    ledger.close()
    with pytest.raises(MedoodError, match="--detector"):
        report(copy)
    assert report(copy, tiny_detector).is_file()


def test_patients_are_named_only_where_asked_for(run: Path) -> None:
    text = text_of(report(run, top=1, identifiers=True))
    record = json.loads((run / "record.json").read_text())
    assert record["identifiers"]
    assert dict(record["pages"][0]["facts"])["Patient name"].startswith("Phantom^")
    assert "This report names patients" in text
    assert "Phantom^" in text
    assert "This report names patients" in (run / "report.html").read_text()
    assert "Phantom^" not in text_of(report(run, top=1)) + (run / "report.html").read_text()


def test_a_german_report_says_nothing_in_english(run: Path) -> None:
    text = text_of(report(run, top=2, language="de"))
    record = json.loads((run / "record.json").read_text())
    assert record["refused"] and record["flagged"]
    assert all(line["reason"].startswith("höchstens") for line in record["flagged"])
    german = [texts["de"].partition("{")[0] for texts in json.loads(REASONS.read_text()).values()]
    assert all(any(beginning and line["reason"].startswith(beginning) for beginning in german) for line in record["refused"])
    for german in (
        "PRÜFBERICHT",
        "Grenzen der Verwendung",
        "Gemeldete Aufnahmen",
        "Unterschrift",
        "Dateien ohne Score",
        "Seite 1 von",
    ):
        assert german in text
    for english in ("Limits of use", "Signature", "Flagged", "scan as read", "page 1", "calibration"):
        assert english not in text
    with pytest.raises(MedoodError, match="expected one of en, de"):
        report(run, language="fr")


def test_nearest_scans_are_shown_where_the_user_has_them(run: Path, phantom_folder: Path) -> None:
    report(run, top=1)
    assert not any(scan["picture"] for scan in json.loads((run / "record.json").read_text())["pages"][0]["nearest"])
    before = sum(len(page.images) for page in PdfReader(run / "report.pdf").pages)
    report(run, top=1, training_scans=phantom_folder)
    nearest = json.loads((run / "record.json").read_text())["pages"][0]["nearest"]
    assert [bool(scan["picture"]) for scan in nearest[:3]] == [True] * 3
    for scan in nearest[:3]:
        found = list(phantom_folder.rglob(scan["file"]))
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in found] == [scan["sha256"]]
    assert sum(len(page.images) for page in PdfReader(run / "report.pdf").pages) == before + 3
    with pytest.raises(MedoodError, match="--training-scans"):
        report(run, training_scans=phantom_folder / "nowhere")


def test_a_full_disk_is_told_and_what_was_there_stays(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = report(run, top=1).read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medood.reporting.pdf.shutil.copyfile", full)
    with pytest.raises(MedoodError, match="No space left on device"):
        report(run, top=2)
    assert (run / "report.pdf").read_bytes() == before


def test_the_record_is_held_against_its_schema(run: Path, tmp_path: Path) -> None:
    report(run, top=2)
    record = json.loads((run / "record.json").read_text())
    write_record(record, tmp_path / "same.json")
    assert (tmp_path / "same.json").read_bytes() == (run / "record.json").read_bytes()
    for wrong in ({**record, "more": 1}, {**record, "schema_version": 2}, {**record, "flagged": [{"rank": 1}]}):
        with pytest.raises(jsonschema.ValidationError):
            write_record(wrong, tmp_path / "wrong.json")


def test_histogram_counts_everything_once() -> None:
    calibration, scores = np.linspace(0, 1, 100), np.array([-5.0, 0.5, 2.0, 1e9])
    made = histogram(calibration, scores, 0.95)
    assert sum(made["screened"]) == pytest.approx(1)
    assert sum(made["calibration"]) == pytest.approx(1)
    assert made["beyond"] == 1
    assert made["low"] == -5
    assert made["high"] == pytest.approx(3)
    assert histogram(calibration, np.zeros(0), float("inf"))["threshold"] is None


def test_rows_by_hand_need_no_facts(tmp_path: Path, tiny_detector: Path) -> None:
    row = Row("nowhere.png", "", 0, "1" * 64, "scored", "", 5.0, 0.01, "out_of_distribution")
    ((_, why),) = draw_evidence([row], Detector.load(tiny_detector), tmp_path, ReadConfig())
    assert isinstance(why, str)


def test_a_map_lies_on_the_picture_that_was_fitted_to_the_square() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[:, 4:] = 1.0
    squashed = on_picture(heat, (100, 50), "squash")
    assert squashed.shape == (100, 50)
    assert squashed[:, :15].max() < 0.1
    assert squashed[:, 35:].min() > 0.9
    boxed = on_picture(heat, (100, 50), "letterbox")  # the image lies in columns 25 to 75 of 100
    assert boxed.shape == (100, 50)
    assert boxed[:, :15].max() < 0.1
    assert boxed[:, 35:].min() > 0.9
