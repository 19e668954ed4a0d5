"""Names that strangers chose, as text that a terminal or a spreadsheet shows and does not obey."""

from __future__ import annotations

import unicodedata

#: A cell that begins so is a formula to a spreadsheet, full-width forms among them; one that begins with an apostrophe is
#: taken for guarded.
FORMULA = tuple("=+-@\t\r\n'＝＋－＠")
_CONTROL = ("Cc", "Cs", "Zl", "Zp")
#: Characters that turn the direction of what follows, and so can show a name as another one.
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str, keep: str = "\n\t") -> str:
    """Text with control characters and lone surrogates spelled out, such as ``\\x1b``.

    Args:
        text: any text.
        keep: control characters that stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not _is_control(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def spreadsheet_cell(text: str) -> str:
    """Text for a CSV file: control characters are spelled out, and an apostrophe stands before what would be a formula.

    Whoever needs the exact name removes that apostrophe, or takes JSON lines or Parquet.
    """
    return f"'{visible(text, keep='')}" if text.startswith(FORMULA) else visible(text, keep="")


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _CONTROL or character in _DIRECTION
