from __future__ import annotations

import json
import pickle
import re
import string
from copy import deepcopy
from importlib.resources import files
from pathlib import Path

import pytest

from medood.reasons import Reason, both_reasons, from_stored, sentence
from medood.reporting.i18n.language import LANGUAGES

ROOT = Path(__file__).parents[1]
SENTENCES = json.loads((files("medood") / "reasons.json").read_text(encoding="utf-8"))


def test_a_reason_reads_as_its_sentence_and_keeps_code_and_values() -> None:
    reason = Reason("image_not_decoded", problem=Reason("file_cut", actual=1000, expected=2000))
    assert reason == "the image cannot be decoded: the file is cut after 1,000 of 2,000 bytes"
    assert reason.stored() == ["image_not_decoded", {"problem": ["file_cut", {"actual": 1000, "expected": 2000}]}]
    assert sentence(reason.stored(), "de").startswith("das Bild kann nicht dekodiert werden: die Datei bricht nach 1,000")


@pytest.mark.parametrize("copied", [deepcopy, lambda reason: pickle.loads(pickle.dumps(reason))])  # noqa: S301 - as Dask does
def test_a_copy_is_the_same_reason(copied) -> None:
    reason = both_reasons(Reason("flagged", p_value=0.01, limit=0.05), Reason("uncalibrated", stratum="PA"))
    assert (copied(reason), copied(reason).stored()) == (reason, reason.stored())
    assert from_stored(json.loads(json.dumps(reason.stored()))).stored() == reason.stored()


def test_either_of_two_reasons_may_be_missing() -> None:
    first = Reason("file_empty")
    assert (both_reasons(first, None), both_reasons(None, first), both_reasons(None, None)) == (first, first, "")


def test_every_sentence_takes_the_same_values_in_every_language() -> None:
    for code, texts in SENTENCES.items():
        assert list(texts) == list(LANGUAGES), code
        fields = [sorted((f, s) for _, f, s, _ in string.Formatter().parse(text) if f) for text in texts.values()]
        assert all(placed == fields[0] for placed in fields), code
        assert texts["en"] != texts["de"] or code == "both"


def test_every_code_is_used_and_every_used_code_has_a_sentence() -> None:
    code = "".join(path.read_text() for path in (ROOT / "medood").rglob("*.py"))
    used = set(re.findall(r'\bReason\(\s*"(\w+)"', code))
    assert used == set(SENTENCES)
