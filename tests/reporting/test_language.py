from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from medood.errors import MedoodError
from medood.reporting.i18n.language import LANGUAGES, Language

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "medood" / "reporting" / "templates"


def test_every_sentence_is_there_in_every_language_with_the_same_values() -> None:
    every = {code: Language(code).words for code in LANGUAGES}
    for name, english in every["en"].items():
        for code in LANGUAGES:
            placed = [
                sorted((field, spec) for _, field, spec, _ in string.Formatter().parse(text) if field)
                for text in (english, every[code][name])
            ]
            assert placed[0] == placed[1], f"{name} in {code}"
    assert sum(every["en"][name] == every["de"][name] for name in every["en"]) < 12, "left in English"


def test_templates_and_code_say_only_what_is_there_and_nothing_there_is_unsaid() -> None:
    words = Language("en").words
    typst = "".join(path.read_text() for path in TEMPLATES.glob("*.typ"))
    said = set(re.findall(r'\bt\("([^"]+)"', typst))
    said |= set(re.findall(r"\{\{t:([^}]+)\}\}", (TEMPLATES / "page.html").read_text()))
    said |= set(re.findall(r'(?:say\(|words\[)"([^"]+)"', (TEMPLATES / "page.js").read_text()))
    assert said <= set(words)
    code = "".join(path.read_text() for path in [*(ROOT / "medood").rglob("*.py"), *TEMPLATES.iterdir()])
    places = {f"{row} {column}" for row in ("upper", "middle", "lower") for column in ("left", "centre", "right")}
    assert [
        name for name in words if not re.search(f"[\"']{re.escape(name)}[\"']", code) and name not in said | places
    ] == []


def test_a_language_that_is_not_there_is_told() -> None:
    with pytest.raises(MedoodError, match="expected one of en, de"):
        Language("xx")
