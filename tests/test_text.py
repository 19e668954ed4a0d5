"""Names that outliers chose, for terminals and spreadsheets."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medood.text import FORMULA, spreadsheet_cell, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain.dcm", "plain.dcm"),
        ("Müller 東京.dcm", "Müller 東京.dcm"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\rb", "a\\rb"),
        ("a\u202egnp.dcm", "a\\u202egnp.dcm"),
        ("\udce9", "\\udce9"),
        ("two\nlines\t", "two\nlines\t"),
    ],
)
def test_control_characters_are_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "'"])
def test_what_a_spreadsheet_would_run_stands_behind_an_apostrophe(start: str) -> None:
    cell = spreadsheet_cell(f'{start}HYPERLINK("http://x")')
    assert cell.startswith("'")
    assert cell.isprintable()


@given(st.text())
def test_a_cell_is_one_line_never_a_formula_and_tells_texts_apart(text: str) -> None:
    cell = spreadsheet_cell(text)
    assert not cell.startswith(tuple(set(FORMULA) - {"'"}))
    assert not set(cell) & set("\n\r\t\x1b\0")
    stream = io.StringIO()
    csv.writer(stream).writerow([cell])
    assert next(csv.reader(io.StringIO(stream.getvalue()))) == [cell]
