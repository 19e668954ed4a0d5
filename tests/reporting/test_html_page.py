from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pypdf import PdfReader

from medood.detection.detector import Detector
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.reporting.pdf import report
from medood.screening.ledger.database import Ledger, Row
from medood.screening.run import screen

HOSTILE = "</script><img src=x onerror=alert(1)> {{data}} ${x} 日本 \u202e.dcm".replace("/", "\u2215")
#: Nothing of the browser may reach for the network.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def run(tiny_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A screened folder of 12 chests, 6 outliers and two broken files, one of them with a hostile name."""
    folder = tmp_path_factory.mktemp("paged") / "scans"
    folder.mkdir()
    for seed in range(12):
        (folder / f"chest-{seed:02d}.dcm").write_bytes(dicom_bytes(frontal_chest(700 + seed, 96).image, str(seed)))
    for i, kind in enumerate(("ct_like", "hand_like", "inverted", "rotated", "upside_down", "lateral_like")):
        (folder / f"{kind}.dcm").write_bytes(dicom_bytes(OUTLIERS[kind](i, 96), kind))
    (folder / HOSTILE).write_bytes(b"no")
    (folder / "broken.dcm").write_bytes(b"")
    screen([folder], tiny_detector, folder.parent / "run", fpr=0.4)
    report(folder.parent / "run", top=5)
    return folder.parent / "run"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        reason = "no Chromium is installed; this test clicks through the page in one"
        if os.environ.get("MEDOOD_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser, run: Path) -> Iterator[Page]:
    """The page, opened; whatever it complains of or reaches for fails the test."""
    yield from opened(chromium, run)


def opened(browser: Browser, run: Path) -> Iterator[Page]:
    context = browser.new_context(accept_downloads=True, offline=True, viewport={"width": 1300, "height": 900})
    found = context.new_page()
    complaints: list[str] = []
    found.on("console", lambda message: complaints.append(message.text))
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("dialog", lambda dialog: complaints.append(dialog.message))
    found.on(
        "request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or complaints.append(request.url)
    )
    found.goto((run / "report.html").as_uri())
    yield found
    context.close()
    assert complaints == []


def names(page: Page) -> list[str]:
    return page.locator("#rows tr td:nth-child(2)").all_inner_texts()


def record_of(run: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((run / "record.json").read_text())
    return made


def test_the_page_is_one_file_that_lets_nothing_else_run(run: Path) -> None:
    text = (run / "report.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    assert not re.search(r"\{\{|\}\}", text.split('id="data"')[0].split("</style>")[1])
    assert len(re.findall("<script", text)) == 2
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    before = (run / "report.html").read_bytes()
    report(run, top=5)
    assert (run / "report.html").read_bytes() == before


def test_the_table_holds_every_row_and_hostile_names_as_text(page: Page, run: Path) -> None:
    shown = names(page)
    assert len(shown) == record_of(run)["summary"]["scanned"] == 20
    assert any("onerror=alert(1)" in name for name in shown)
    small = page.locator("table img")
    assert small.count() == len(record_of(run)["thumbnails"]) == record_of(run)["summary"]["flagged"]
    assert all(small.nth(i).get_attribute("src").startswith("data:image/jpeg") for i in range(small.count()))
    assert page.locator("h1").inner_text() == "Scans that do not belong"


def test_filtering_and_sorting(page: Page, run: Path) -> None:
    page.fill("#filter", "CT_LIKE")
    assert len(names(page)) == 1
    assert "1 of 20 rows" in page.inner_text("#showing")
    page.fill("#filter", "nothing is called so")
    assert page.inner_text("#showing") == "No row matches."
    page.fill("#filter", "")
    page.select_option("#which", "out_of_distribution")
    assert len(names(page)) == record_of(run)["summary"]["flagged"]
    page.select_option("#which", "refused")
    assert len(names(page)) == 2
    page.select_option("#which", "in_distribution")
    page.click("th[data-sort=score] button")
    scores = [float(text) for text in page.locator("#rows td:nth-child(4)").all_inner_texts()]
    assert scores == sorted(scores)
    assert page.get_attribute("th[data-sort=score]", "aria-sort") == "ascending"
    page.click("th[data-sort=score] button")
    assert page.get_attribute("th[data-sort=score]", "aria-sort") == "descending"
    assert [float(text) for text in page.locator("#rows td:nth-child(4)").all_inner_texts()] == scores[::-1]


def test_the_slider_says_what_would_be_flagged_and_changes_nothing(page: Page, run: Path) -> None:
    ledger = Ledger(run)
    scores = np.array([row.score for row in ledger.scored()])
    threshold = ledger.metadata().threshold
    ledger.close()
    calibration = Detector.load(record_detector(run)).calibration.scores
    flagged = record_of(run)["summary"]["flagged"]
    assert int((scores > threshold).sum()) == flagged
    assert f"would flag {flagged} of {len(scores)} scans" in page.inner_text("#would")
    low, high = (float(page.get_attribute("#threshold", name) or 0) for name in ("min", "max"))
    for share in (0.1, 0.5, 0.9):
        page.locator("#threshold").fill(str(low + share * (high - low)))
        at = float(page.input_value("#threshold"))
        thumb, box = 16, page.locator("#threshold").bounding_box() or {}
        stands = box["x"] + thumb / 2 + (box["width"] - thumb) * (at - low) / (high - low)
        mark = page.evaluate("document.querySelector('#histogram line').getBoundingClientRect().x")
        assert abs(stands - mark) < 2, "the slider stands below the mark in the histogram"
        told = page.inner_text("#would")
        assert f"would flag {int((scores > at).sum())} of {len(scores)} scans" in told
        expected = round(100 * float((calibration > at).mean()), 2)
        assert f"and {expected:g} % of the calibration scans" in told
    page.click("#reset")
    assert f"would flag {flagged} of" in page.inner_text("#would")
    page.focus("#threshold")
    page.keyboard.press("ArrowLeft")
    assert page.input_value("#threshold") != str(threshold)


def record_detector(run: Path) -> str:
    folder: str = Ledger.read_metadata(run).detector.folder
    return folder


def test_the_viewer_by_mouse_and_keyboard(page: Page, run: Path) -> None:
    first = record_of(run)["pages"][0]
    page.keyboard.press("n")
    assert first["sha256"] in page.inner_text("#facts")
    assert page.inner_text("#place") == "1 of 20"
    assert page.locator("#picture").evaluate("image => image.complete && image.naturalWidth > 0")
    assert page.locator("#map").evaluate("image => image.complete && image.naturalWidth > 0")
    assert page.inner_text("#reasons li >> nth=0") == first["reasons"][0]
    for key, mode in (("1", "picture"), ("2", "map"), ("3", "unusual"), ("4", "both")):
        page.keyboard.press(key)
        assert page.get_attribute("#figure", "class") == mode
        assert page.locator("[data-mode][aria-pressed=true]").get_attribute("data-mode") == mode
    assert page.locator("#map").is_visible()
    assert page.locator("#places").is_visible()
    assert page.locator("#peak").is_visible() == (first["peak"] is not None)
    page.click("[data-mode=picture]")
    assert not page.locator("#map").is_visible()
    page.keyboard.press("n")
    assert page.inner_text("#place") == "2 of 20"
    page.keyboard.press("p")
    page.keyboard.press("p")
    assert page.inner_text("#place") == "1 of 20"
    page.locator("#rows button").nth(7).click()
    assert page.locator("#picture").is_visible(), "small, where there is no more"
    assert not page.locator("#map").is_visible()
    assert "--top N" in page.inner_text("#missing")
    page.locator("#rows button").nth(19).click()
    assert page.is_disabled("#agree")


def test_a_review_is_exported_and_put_into_the_report(page: Page, run: Path, tmp_path: Path) -> None:
    pages = record_of(run)["pages"]
    page.fill("#reviewer", "=R. Nurse")
    page.keyboard.press("Tab")
    page.locator("#rows button").nth(0).click()
    page.keyboard.press("a")
    assert page.get_attribute("#agree", "aria-pressed") == "true"
    page.keyboard.press("n")
    page.keyboard.press("d")
    page.keyboard.press("m")
    page.keyboard.type('=a hand, "left" and p')
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    page.keyboard.press("a")
    page.keyboard.press("a")  # taken back
    assert page.inner_text("#reviewed") == "2 reviewed"
    assert page.locator("#rows tr").nth(0).locator("td").nth(5).inner_text() == "agreed"
    saved = {}
    for kind in ("json", "csv"):
        with page.expect_download() as download:
            page.click(f"#{kind}")
        saved[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[kind])
    with saved["csv"].open(newline="") as stream:
        assert next(csv.DictReader(stream))["reviewer"] == "'=R. Nurse", "no spreadsheet takes it for a formula"
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    reviews = []
    for kind in ("json", "csv"):
        text = " ".join(
            " ".join(one.extract_text() for one in PdfReader(report(copy, top=5, review=saved[kind])).pages).split()
        )
        assert "2 of" in text
        assert "1 agreed, 1 disagreed, by =R. Nurse" in text
        assert '=a hand, "left" and p' in text
        reviews.append({k: v for k, v in record_of(copy)["review"].items() if k != "sha256"})
    assert reviews[0] == reviews[1]
    assert [page["review"] for page in record_of(copy)["pages"][:3]] == ["agree", "disagree", ""]
    assert sorted(entry["key"] for entry in reviews[0]["entries"]) == sorted(page["key"] for page in pages[:2])


def test_an_exported_review_is_gone_on_with_and_another_run_s_is_not(page: Page, run: Path, tmp_path: Path) -> None:
    first = record_of(run)["pages"][0]
    body = {"medood_review": 1, "run": record_of(run)["run_name"], "reviewer": "R", "reviews": []}
    body["reviews"] = [{"key": first["key"], "verdict": "agree", "note": "<b>x</b>"}]
    (tmp_path / "mine.json").write_text(json.dumps(body))
    (tmp_path / "other.json").write_text(json.dumps({**body, "run": "0" * 16}))
    page.set_input_files("#import", tmp_path / "other.json")
    expect(page.locator("#reviewed")).to_contain_text("another run")
    page.set_input_files("#import", tmp_path / "mine.json")
    expect(page.locator("#reviewed")).to_contain_text("1 reviews")
    page.keyboard.press("n")
    assert page.get_attribute("#agree", "aria-pressed") == "true"
    assert page.input_value("#note") == "<b>x</b>"


def test_everything_has_a_name_for_a_screen_reader(page: Page) -> None:
    page.keyboard.press("n")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, img:not([hidden])")]
        .filter((e) => e.offsetParent !== null)
        .filter((e) => !(e.innerText || e.hasAttribute("alt") || e.getAttribute("aria-label") || e.labels?.length))
        .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("[role=status]").count() >= 3
    assert page.get_attribute("html", "lang") == "en"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_five_thousand_rows(chromium: Browser, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "many"
    shutil.copytree(run, copy)
    ledger = Ledger(copy)
    drawn = np.random.default_rng(0).normal(size=5000)
    ledger.add(
        Row(f"archive/{i:05d}.dcm", "", 0, f"{i:064x}", "scored", "", float(drawn[i]), 0.5, "in_distribution")
        for i in range(5000)
    )
    ledger.close()
    report(copy, top=1)
    for page in opened(chromium, copy):
        assert "5020 of 5020 rows, page 1 of 51" in page.inner_text("#showing")
        assert page.locator("#rows tr").count() == 100
        took = page.evaluate(
            """() => { const started = performance.now(); const box = document.querySelector("#filter");
            for (const text of ["0", "04", "049", ""]) { box.value = text; box.dispatchEvent(new Event("input")); }
            document.querySelector("th[data-sort=name] button").click(); return performance.now() - started; }"""
        )
        assert took < 3000
        page.click("#after")
        assert "page 2 of 51" in page.inner_text("#showing")


def test_a_run_without_a_score_has_a_page_too(chromium: Browser, tiny_detector: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no")
    screen([tmp_path / "text.png"], tiny_detector, tmp_path / "run", fpr=0.1)
    report(tmp_path / "run", language="de")
    for page in opened(chromium, tmp_path / "run"):
        assert len(names(page)) == 1
        assert "0 von 0 Aufnahmen" in page.inner_text("#would")
        assert page.get_attribute("html", "lang") == "de"


def test_a_run_of_several_kinds_has_no_single_threshold(chromium: Browser, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "kinds"
    shutil.copytree(run, copy)
    ledger = Ledger(copy)
    ledger.set_metadata(threshold=None)
    ledger.close()
    report(copy, top=0)
    flagged = record_of(copy)["summary"]["flagged"]
    assert flagged > 0
    for page in opened(chromium, copy):
        assert f"no single threshold: it flagged {flagged} of 18 scans" in page.inner_text("#would")
        page.locator("#threshold").fill(page.get_attribute("#threshold", "min") or "")
        assert "would flag" in page.inner_text("#would")
        page.click("#reset")
        assert "no single threshold" in page.inner_text("#would")


def test_few_flagged_of_very_many_are_counted_exactly_and_what_is_left_out_is_said(
    chromium: Browser, run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "very-many"
    shutil.copytree(run, copy)
    ledger = Ledger(copy)
    low = -1e3 - np.arange(30_000.0)
    ledger.add(Row(f"{i}", "", 0, f"{i:064x}", "scored", "", float(low[i]), 0.5, "in_distribution") for i in range(len(low)))
    ledger.close()
    report(copy, top=0)
    flagged = record_of(copy)["summary"]["flagged"]
    for page in opened(chromium, copy):
        assert f"would flag {flagged} of 30018 scans" in page.inner_text("#would")
        assert "10000 highest scores" in page.inner_text(".table")
        page.locator("#threshold").fill(page.get_attribute("#threshold", "min") or "")
        told = re.search(r"would flag (\d+) of", page.inner_text("#would"))
        assert told is not None
        assert int(told[1]) == pytest.approx(30_017, abs=5)


def test_a_review_with_one_wrong_entry_changes_nothing(page: Page, run: Path, tmp_path: Path) -> None:
    first = record_of(run)["pages"][0]["key"]
    body = {"medood_review": 1, "run": record_of(run)["run_name"], "reviewer": "R"}
    (tmp_path / "half.json").write_text(
        json.dumps(body | {"reviews": [{"key": first, "verdict": "agree", "note": ""}, None]})
    )
    page.set_input_files("#import", tmp_path / "half.json")
    expect(page.locator("#reviewed")).to_contain_text("nothing was taken over")
    page.keyboard.press("n")
    assert page.get_attribute("#agree", "aria-pressed") == "false"


def test_the_focus_stays_on_the_row_that_was_opened(page: Page) -> None:
    button = page.locator("#rows button").nth(2)
    name = button.inner_text()
    button.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("a")
    assert page.evaluate("document.activeElement.textContent") == name


def test_an_entry_is_found_reviewed_and_opened_with_all_that_is_told_with_it(
    chromium: Browser, tiny_detector: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    shades = [Image.fromarray((OUTLIERS["ct_like"](n, 96) * 255).astype(np.uint8)) for n in range(3)]
    shades[0].save(tmp_path / "in" / "frames.tiff", save_all=True, append_images=shades[1:])
    odd = Image.fromarray((OUTLIERS["inverted"](1, 96) * 255).astype(np.uint8))
    odd.save(tmp_path / "in" / "first.png")
    odd.save(tmp_path / "in" / "second.jpg", quality=95)
    shutil.copy(tmp_path / "in" / "second.jpg", tmp_path / "in" / "zz-same-bytes.jpg")
    screen([tmp_path / "in"], tiny_detector, tmp_path / "run", fpr=0.9)
    report(tmp_path / "run", top=3)
    record = record_of(tmp_path / "run")
    assert len(record["flagged"]) == 2, "the file of three frames, and the image that is there twice"
    for page in opened(chromium, tmp_path / "run"):
        assert len(names(page)) == 3, "two entries, and the copy without a score"
        page.select_option("#which", "refused")
        assert [Path(name).name for name in names(page)] == ["zz-same-bytes.jpg"]
        page.select_option("#which", "all")
        hidden = next(key for key, lead in record["groups"].items() if lead == record["pages"][0]["key"])
        for name in ("first.png", "second.jpg"):
            page.fill("#filter", name)
            assert "with 1 more" in names(page)[0], "found by the name of any scan of the entry"
        page.fill("#filter", "")
        page.keyboard.press("Escape")
        page.locator("#rows button").nth(0).click()
        assert "Reviewed together" in page.inner_text("#reasons")
        page.click("#agree")
        page.uncheck("#entries")
        assert len(names(page)) == 6
        row = page.locator(f"#rows tr[data-key='{hidden}']").first
        assert row.locator("td").nth(5).inner_text() == "agreed"
        row.locator("button").click()
        page.click("#agree")  # taken back, for this one alone
        page.check("#entries")
        page.select_option("#which", "unreviewed")
        assert len(names(page)) == 2, "an entry is not reviewed until all of it is"
