"""Read optional attributes of a DICOM header: an empty or unusable one counts as absent, and its name is recorded."""

from __future__ import annotations

import math
from typing import Any

import pydicom
from pydicom.datadict import dictionary_description
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence


class OptionalAttributes:
    """Reader for attributes that an image does not require.

    Args:
        header: the data set.

    Attributes:
        unusable: names of requested attributes that are present but have no usable value, in the order of the requests.
            Names come from the data dictionary (PS3.6); values are never included.
    """

    def __init__(self, header: pydicom.Dataset) -> None:
        self._header = header
        self.unusable: list[str] = []

    def numbers(self, keyword: str) -> list[float]:
        """Return all values of a numeric attribute; empty if it is absent or one of them is not a finite number."""
        value = self._value(keyword)
        if value is None:
            return []
        try:
            values = [float(v) for v in (value if isinstance(value, (list, tuple, MultiValue)) else [value])]
        except (TypeError, ValueError, OverflowError):
            values = []
        if not values or not all(math.isfinite(v) for v in values):
            self.note(keyword)
            return []
        return values

    def number(self, keyword: str) -> float | None:
        """Return the value of a numeric attribute of multiplicity 1; None if it is absent or unusable."""
        values = self.numbers(keyword)
        if len(values) > 1:
            self.note(keyword)
        return values[0] if len(values) == 1 else None

    def code(self, keyword: str) -> str:
        """Return a code string of multiplicity 1 in upper case; empty if it is absent or unusable."""
        value = self._value(keyword)
        if value is None:
            return ""
        if isinstance(value, str):
            return value.strip().upper()
        self.note(keyword)
        return ""

    def first_item(self, keyword: str) -> pydicom.Dataset | None:
        """Return the first item of a sequence; None if it is absent, empty or not a sequence."""
        value = self._value(keyword)
        if value is None:
            return None
        if isinstance(value, Sequence):
            return value[0]
        self.note(keyword)
        return None

    def note(self, keyword: str) -> None:
        """Record an attribute as unusable because its value makes no sense."""
        name = dictionary_description(keyword)
        if name not in self.unusable:
            self.unusable.append(name)

    def _value(self, keyword: str) -> Any:
        """Return the value; None if the attribute is absent, empty or cannot be parsed."""
        if keyword not in self._header:
            return None
        try:
            value = self._header[keyword].value
            is_empty = value is None or (hasattr(value, "__len__") and not len(value))
        except Exception:  # pydicom parses values on access, and raises many exception types
            is_empty = True
        if not is_empty:
            return value
        self.note(keyword)
        return None
