"""Escape untrusted names, so that a terminal or spreadsheet displays them and does not interpret them."""

from __future__ import annotations

import unicodedata

#: Spreadsheets take a cell that begins with one of these characters (or their full-width forms) for a formula, and a
#: leading apostrophe for the guard against that.
FORMULA = tuple("=+-@\t\r\n'＝＋－＠")
_CONTROL = ("Cc", "Cs", "Zl", "Zp")
#: Bidirectional control characters, which can make one name look like another.
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str, keep: str = "\n\t") -> str:
    """Escape control characters and lone surrogates, for example as ``\\x1b``.

    Args:
        text: any text.
        keep: control characters to leave as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or not _is_control(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def spreadsheet_cell(text: str) -> str:
    """Escape text for a CSV cell: control characters are escaped, and a would-be formula gets a leading apostrophe.

    For the exact name, remove that apostrophe, or use JSON lines or Parquet.
    """
    return f"'{visible(text, keep='')}" if text.startswith(FORMULA) else visible(text, keep="")


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _CONTROL or character in _DIRECTION
