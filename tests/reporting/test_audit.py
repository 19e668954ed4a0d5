"""What an audit asks of a report: flag rates, known failures, retention, and pages that are not left empty."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pypdf import PdfReader
from scipy.stats import spearmanr

from medood.config import resources
from medood.config.resources import software_sha256
from medood.detection.distribution_tests import drift
from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.outliers import OUTLIERS
from medood.reporting.pdf import report
from medood.screening.ledger.database import Ledger, Row
from medood.screening.ledger.run_metadata import ArchiveFindings, RunMetadata
from medood.screening.monitor.audit_facts import audit_facts, check_day, known_failures
from medood.screening.monitor.flag_rates import MOST, by_device, by_month
from medood.screening.run import screen
from tests.workflows.test_acceptance import wilson

FINISHED = RunMetadata(finished="2026-08-31T10:00:00+00:00", software="a" * 64)


def ledger_of(folder: Path, devices: dict[str, list[list[bool]]]) -> Ledger:
    """A ledger with the flags of each device's files, frame by frame."""
    ledger = Ledger(folder, create=True)
    rows, number = [], 0
    for name, files in devices.items():
        maker, _, model = name.partition("/")
        attributes = {"Manufacturer": maker, "ManufacturerModelName": model} if name else {}
        for frames in files:
            number += 1
            for frame, flagged in enumerate(frames):
                decision = "out_of_distribution" if flagged else "in_distribution"
                metadata = {"attributes": attributes}
                finding = "mirrored" if flagged else ""
                row = Row("a", str(number), frame, f"{number}", "scored", "", 1.0, 0.5, decision, metadata, file=number)
                rows.append(Row(**{**vars(row), "finding": finding}))
    ledger.add(rows)
    return ledger


def test_a_device_s_rate_counts_files_and_has_wilson_s_interval(tmp_path: Path) -> None:
    one, two = [[True, True, False], [False, False]] + [[False]] * 8, [[True]] * 3
    ledger = ledger_of(tmp_path / "run", {"Acme/X1": one, "Bolt/": two, "": [[False]]})
    rates = {rate.name: rate for rate in by_device(ledger)}
    assert {name: (rate.scans, rate.flagged) for name, rate in rates.items()} == {
        "Acme X1": (10, 1),
        "Bolt": (3, 3),
        "": (1, 0),
    }
    assert list(rates) == ["Acme X1", "Bolt", ""]
    for rate in rates.values():
        assert np.allclose(rate.interval, wilson(rate.flagged, rate.scans))
    facts = audit_facts(ledger, FINISHED, tmp_path / "none.md", "")
    assert facts["findings"] == [{"finding": "mirrored", "count": 5}]
    ledger.close()


def test_many_devices_are_counted_together(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path / "run", {f"Maker{i:02d}/": [[i % 2 == 0]] * (30 - i) for i in range(MOST + 3)})
    rates = by_device(ledger)
    ledger.close()
    assert [rate.name for rate in rates[:-1]] == [f"Maker{i:02d}" for i in range(MOST)]
    assert (rates[-1].name, rates[-1].scans, rates[-1].flagged) == ("*", 18 + 17 + 16, 18 + 16)


def test_months_of_earlier_runs_have_no_rate() -> None:
    months: list[dict[str, Any]] = [{"month": "2026-01", "scans": 9, "mean_p_value": 0.4}]
    assert by_month(ArchiveFindings(months=months)) == []
    assert by_month(None) == []
    few, enough = {**months[0], "sampled": 19, "flagged": 2}, {**months[0], "month": "2026-02", "sampled": 20, "flagged": 2}
    (rate,) = by_month(ArchiveFindings(months=[few, enough]))
    assert (rate.name, rate.scans, rate.flagged) == ("2026-02", 20, 2)


def test_the_interval_of_a_drift_holds_the_true_correlation_as_often_as_it_says() -> None:
    rng, inside, true = np.random.default_rng(0), 0, 6 / np.pi * np.arcsin(0.5 / 2)  # Spearman's of a normal pair
    for _ in range(300):
        pair = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 60)
        months = [f"{2000 + rank // 12}-{rank % 12 + 1:02d}" for rank in pair[:, 0].argsort().argsort()]
        result = drift(months, pair[:, 1].tolist())
        assert result is not None
        assert result.correlation == pytest.approx(spearmanr(pair[:, 0], pair[:, 1]).statistic)
        inside += result.interval[0] <= true <= result.interval[1]
    assert 0.92 <= inside / 300 <= 0.98


@pytest.mark.parametrize(("stated", "expected"), [("", "2027-02-28"), ("2031-12-31", "2031-12-31")])
def test_a_run_is_kept_for_six_months_or_as_stated(stated: str, expected: str, tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path / "run", {"": [[False]]})
    facts = audit_facts(ledger, FINISHED, tmp_path / "none.md", stated)
    ledger.close()
    assert (facts["keep_until"], facts["keep_stated"]) == (expected, bool(stated))
    assert facts["software"] == {"run": "a" * 64, "report": software_sha256()}


@pytest.mark.parametrize("day", ["20311231", "2031-W52-3", "soon", "2026-08-30", ""])
def test_a_day_that_is_none_or_past_is_refused(day: str) -> None:
    with pytest.raises(MedoodError, match="--keep-until"):
        check_day(day, str(FINISHED.finished))


def test_known_failures_are_the_list_of_the_card_in_plain_words() -> None:
    card = "# A\n\n- not this\n\n### Known failures\n\n- **Faint** ones, see [figures](x.md).\n  And more.\n- `b`\n\n"
    card += "Text\n\n- no more"
    assert known_failures(card) == ["Faint ones, see figures. And more.", "b"]
    for text, expected in (
        ("# A\n\nKnown failures are listed in B.\n\n- elsewhere", []),
        (
            "It cannot do much here.\n\n## Known failures\n\nOf these we know.\n\n- a\n\n- b\ngoes on\n\nText\n\n- no",
            ["a", "b goes on"],
        ),
        ("## Known failures\n\nNone yet.\n\n## More\n\n- no", []),
        ("## Known failures\n\n1. a\n2. b\n", ["a", "b"]),
        ("What it cannot do:\n- a", ["a"]),
    ):
        assert known_failures(text) == expected
    many = known_failures("## Known failures\n" + "".join(f"- {i}\n" for i in range(25)))
    assert many == [*map(str, range(20)), "…"]
    assert known_failures("") == []
    shipped = known_failures((resources.find_detector("cxr-small") / "README.md").read_text())
    assert len(shipped) == 3
    assert shipped[0].startswith("It does not find disease reliably.")


@pytest.mark.parametrize("language", ["en", "de"])
def test_four_scans_share_a_page_and_none_is_a_third_empty(tiny_detector: Path, tmp_path: Path, language: str) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    kinds = [kind for kind in OUTLIERS if kind != "mirrored"]
    for number in range(18):
        picture = OUTLIERS[kinds[number % len(kinds)]](number, 96)
        Image.fromarray(np.uint8(np.clip(picture, 0, 1) * 255)).save(archive / f"{number:02d}.png")
    Image.fromarray(np.uint8(frontal_chest(5, 96).image * 255)).save(archive / "chest.png")
    (archive / "no.png").write_bytes(b"no")
    screen([archive], tiny_detector, tmp_path / "run", fpr=0.5)
    pdf = report(tmp_path / "run", top=16, language=language)
    entries = len(json.loads((tmp_path / "run" / "record.json").read_text())["pages"])
    assert entries >= 12
    pages = PdfReader(pdf).pages
    counts = [len(re.findall(r"SHA-256 (?:[0-9a-f] ?){16}…", " ".join(page.extract_text().split()))) for page in pages]
    assert sum(counts) == entries
    within = [count for count in counts if count][1:-1]  # the first and the last share their page with other parts
    assert within == [4] * len(within)
    assert within
    for page in list(pages)[:-1]:
        heights: list[float] = []

        def note(words: str, outer: list[float], inner: list[float], *_: object, heights: list[float] = heights) -> None:
            if words.strip():
                heights.append(inner[4] * outer[1] + inner[5] * outer[3] + outer[5])

        page.extract_text(visitor_text=note)
        lowest = min(height for height in heights if height > 60)  # above the footer
        assert lowest < float(page.mediabox.height) / 3
