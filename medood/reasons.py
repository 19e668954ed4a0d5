"""Why a scan was refused or flagged, as a code with values; the sentences are in ``reasons.json``, in every language."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

#: A reason as it is stored: its code and its values, which may be reasons themselves.
Stored = list[Any]
Value: TypeAlias = "str | int | float | Reason"


class Reason(str):
    """A reason that reads as its English sentence and keeps the code and the values for other languages.

    Args:
        code: name of the sentence in ``reasons.json``.
        values: what the sentence is filled in with: numbers, text that is the same in every language, or reasons.
    """

    code: str
    values: dict[str, Value]

    def __new__(cls, code: str, /, **values: Value) -> Reason:
        """Fill in the English sentence."""
        self = super().__new__(cls, _sentences()[code]["en"].format(**values))
        self.code, self.values = code, values
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return from_stored, (self.stored(),)

    def stored(self) -> Stored:
        """The code and the values, ready for JSON."""
        return [self.code, {k: v.stored() if isinstance(v, Reason) else v for k, v in self.values.items()}]


def from_stored(stored: Stored) -> Reason:
    """The reason that :meth:`Reason.stored` gave."""
    code, values = stored
    return Reason(code, **{name: from_stored(v) if isinstance(v, list) else v for name, v in values.items()})


def sentence(stored: Stored, language: str) -> str:
    """A stored reason in words.

    Args:
        stored: what :meth:`Reason.stored` gave.
        language: one of ``medood.reporting.i18n.language.LANGUAGES``.
    """
    code, values = stored
    words = {name: sentence(value, language) if isinstance(value, list) else value for name, value in values.items()}
    return _sentences()[code][language].format(**words)


def both_reasons(first: Reason | None, second: Reason | None) -> Reason | Literal[""]:
    """Two reasons as one, either of which may be missing; an empty text if both are."""
    if first is None or second is None:
        return first or second or ""
    return Reason("both", first=first, second=second)


@cache
def _sentences() -> Mapping[str, Mapping[str, str]]:
    sentences: dict[str, dict[str, str]] = json.loads((files("medood") / "reasons.json").read_text(encoding="utf-8"))
    return sentences
