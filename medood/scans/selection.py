"""Select DICOM objects with a small expression language over attributes, parsed by a grammar and never run as code.

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
        text: the selection as written.
        test: the predicate on a data set.
    """

    text: str
    test: Test

    def matches(self, dataset: pydicom.Dataset) -> bool:
        """Return whether the object is selected. An absent attribute is not equal to, larger or smaller than any value."""
        return self.test(dataset)


@lru_cache(maxsize=16)
def parse_selection(text: str) -> Selection:
    """Parse a selection.

    Values are compared as numbers if both sides are numbers (an age such as ``045Y`` in years), else as text, ignoring
    case. If an attribute has several values, one match is enough.

    Raises:
        MedoodError: the text is not a selection, or names an attribute that DICOM does not define.
    """
    try:
        if len(text) > _MAX_LENGTH:
            raise MedoodError(f"The selection has {len(text):,} characters; the limit is {_MAX_LENGTH:,}.")
        return Selection(text, _Meaning().transform(_PARSER.parse(text)))
    except UnexpectedInput as error:
        ended = getattr(getattr(error, "token", None), "type", "") == "$END" or error.pos_in_stream is None
        near = "its end" if ended else repr(text[error.pos_in_stream :][:20])
        raise MedoodError(f"The selection {text[:200]!r} cannot be read at {near}. Expected e.g. {_EXAMPLE}.") from error
    except RecursionError as error:
        raise MedoodError("The selection nests too many brackets.") from error
    except VisitError as error:
        if isinstance(error.orig_exc, MedoodError):
            raise error.orig_exc from error
        raise


@v_args(inline=True)
class _Meaning(Transformer[Token, Test]):
    """Turn the parse tree, from the leaves up, into one predicate."""

    def any(self, *tests: Test) -> Test:
        return lambda dataset: any(test(dataset) for test in tests)

    def all(self, *tests: Test) -> Test:
        return lambda dataset: all(test(dataset) for test in tests)

    def negate(self, test: Test) -> Test:
        return lambda dataset: not test(dataset)

    def compare(self, name: Token, operator: Token, value: str) -> Test:
        read = _reader(name)
        if operator == "!=":
            return lambda dataset: not any(_compare(attribute_value, value) == 0 for attribute_value in read(dataset))
        outcomes = {"==": (0,), "<": (-1,), ">": (1,), "<=": (-1, 0), ">=": (0, 1)}[operator]
        return lambda dataset: any(_compare(attribute_value, value) in outcomes for attribute_value in read(dataset))

    def among(self, name: Token, *values: str) -> Test:
        read = _reader(name)
        return lambda dataset: any(
            _compare(attribute_value, value) == 0 for attribute_value in read(dataset) for value in values
        )

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
    """Return a function that reads an attribute's values from a data set as text; empty if absent or unparsable."""
    keyword = str(name)
    if keyword not in keyword_dict:
        nearest = difflib.get_close_matches(keyword, keyword_dict, n=1, cutoff=0.0)
        raise MedoodError(f"The selection names {keyword!r}, which is not a DICOM attribute. Did you mean {nearest[0]!r}?")

    def read(dataset: pydicom.Dataset) -> list[str]:
        meta = getattr(dataset, "file_meta", None)
        try:
            value: Any = dataset.get(keyword)
            if value is None and meta is not None:
                value = meta.get(keyword)
            values = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
            return [str(v).strip() for v in values if v not in (None, "")]
        except Exception:  # an unparsable value counts as absent
            return []

    return read


def _compare(attribute_value: str, value: str) -> int | None:
    """Compare two values: -1, 0 or 1; None if they cannot be compared."""
    left, right = _number(attribute_value), _number(value)
    if left is None or right is None:
        first, second = attribute_value.casefold(), value.casefold()
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
