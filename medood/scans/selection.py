"""Which DICOM objects to take: a small language over attributes, parsed by a grammar and never evaluated as code.

``Modality in (CR, DX) and BodyPartExamined == CHEST and not (ViewPosition == LL) and PatientAge >= 18``
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pydicom
from lark import Lark, Token, Transformer, UnexpectedInput, v_args
from lark.exceptions import VisitError
from pydicom.datadict import keyword_dict

from medood.errors import MedoodError

_GRAMMAR = r"""
?start: any
?any: all (_OR all)*
?all: one (_AND one)*
?one: _NOT one -> negate | "(" any ")" | test
test: NAME OPERATOR value             -> compare
    | NAME _IN "(" value ("," value)* ")"      -> among
    | NAME _NOT _IN "(" value ("," value)* ")" -> outside
    | NAME _EXISTS                    -> exists
value: WORD | NAME | QUOTED
_OR.3: /or\b/i
_AND.3: /and\b/i
_NOT.3: /not\b/i
_IN.3: /in\b/i
_EXISTS.3: /exists\b/i
OPERATOR: "==" | "!=" | "<=" | ">=" | "<" | ">"
NAME.2: /[A-Za-z][A-Za-z0-9]*/
WORD: /[^\s(),'"<>=!]+/
QUOTED: /"[^"]*"/ | /'[^']*'/
%ignore /\s+/
"""
_EXAMPLE = "Modality in (CR, DX) and BodyPartExamined == CHEST"
_MAX_LENGTH = 4096

Test = Callable[[pydicom.Dataset], bool]


@dataclass(frozen=True)
class Selection:
    """A parsed selection.

    Attributes:
        text: as it was written.
        test: what it means.
    """

    text: str
    test: Test

    def matches(self, dataset: pydicom.Dataset) -> bool:
        """True where the object is selected. An absent attribute equals nothing, and is neither larger nor smaller."""
        return self.test(dataset)


@lru_cache(maxsize=16)
def parse_selection(text: str) -> Selection:
    """Parse a selection.

    Comparisons are of numbers where both sides are numbers (an age such as ``045Y`` is its years), else of text without
    regard to case. Of an attribute with several values one is enough.

    Raises:
        MedoodError: the text is no selection, or names an attribute that DICOM does not know.
    """
    try:
        if len(text) > _MAX_LENGTH:
            raise MedoodError(f"The selection has {len(text):,} characters; at most {_MAX_LENGTH:,} are read.")
        return Selection(text, _Meaning().transform(_PARSER.parse(text)))
    except UnexpectedInput as error:
        ended = getattr(getattr(error, "token", None), "type", "") == "$END" or error.pos_in_stream is None
        near = "its end" if ended else repr(text[error.pos_in_stream :][:20])
        raise MedoodError(f"The selection {text[:200]!r} cannot be read at {near}. Expected e.g. {_EXAMPLE}.") from error
    except RecursionError as error:
        raise MedoodError("The selection has too many brackets inside brackets.") from error
    except VisitError as error:
        if isinstance(error.orig_exc, MedoodError):
            raise error.orig_exc from error
        raise


@v_args(inline=True)
class _Meaning(Transformer[Token, Test]):
    """The parse tree from its leaves up to one test."""

    def any(self, *tests: Test) -> Test:
        return lambda dataset: any(test(dataset) for test in tests)

    def all(self, *tests: Test) -> Test:
        return lambda dataset: all(test(dataset) for test in tests)

    def negate(self, test: Test) -> Test:
        return lambda dataset: not test(dataset)

    def compare(self, name: Token, operator: Token, value: str) -> Test:
        read = _reader(name)
        if operator == "!=":
            return lambda dataset: not any(_compare(found, value) == 0 for found in read(dataset))
        wanted = {"==": (0,), "<": (-1,), ">": (1,), "<=": (-1, 0), ">=": (0, 1)}[operator]
        return lambda dataset: any(_compare(found, value) in wanted for found in read(dataset))

    def among(self, name: Token, *values: str) -> Test:
        read = _reader(name)
        return lambda dataset: any(_compare(found, value) == 0 for found in read(dataset) for value in values)

    def outside(self, name: Token, *values: str) -> Test:
        among = self.among(name, *values)
        return lambda dataset: not among(dataset)

    def exists(self, name: Token) -> Test:
        read = _reader(name)
        return lambda dataset: bool(read(dataset))

    def value(self, token: Token) -> str:
        return str(token[1:-1] if token.type == "QUOTED" else token)


_PARSER = Lark(_GRAMMAR, parser="lalr")


def _reader(name: Token) -> Callable[[pydicom.Dataset], list[str]]:
    """What reads the attribute's values off a data set, as text; empty where it is absent or cannot be parsed."""
    keyword = str(name)
    if keyword not in keyword_dict:
        nearest = difflib.get_close_matches(keyword, keyword_dict, n=1, cutoff=0.0)
        raise MedoodError(f"The selection names {keyword!r}, which is no DICOM attribute. Did you mean {nearest[0]!r}?")

    def read(dataset: pydicom.Dataset) -> list[str]:
        meta = getattr(dataset, "file_meta", None)
        try:
            value: Any = dataset.get(keyword)
            if value is None and meta is not None:
                value = meta.get(keyword)
            values = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
            return [str(v).strip() for v in values if v not in (None, "")]
        except Exception:  # a value that cannot be parsed is no value
            return []

    return read


def _compare(found: str, value: str) -> int | None:
    """-1, 0 or 1; none where they cannot be compared."""
    left, right = _number(found), _number(value)
    if left is None or right is None:
        first, second = found.casefold(), value.casefold()
        return (first > second) - (first < second)
    return (left > right) - (left < right)


def _number(text: str) -> float | None:
    age = re.fullmatch(r"([0-9]{3})([DWMY])", text)
    if age:
        return int(age[1]) / {"D": 365.25, "W": 365.25 / 7, "M": 12, "Y": 1}[age[2]]
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number == number else None
