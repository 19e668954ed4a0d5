"""Optional attributes of a DICOM header: an empty or unusable one counts as absent, and is noted by its name."""

from __future__ import annotations

import math
from typing import Any

import pydicom
from pydicom.datadict import dictionary_description
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence


class OptionalAttributes:
    """Reads attributes that a picture can do without.

    Args:
        header: the data set.

    Attributes:
        unusable: names of attributes that were asked for, are present and have no usable value, in the order of asking. A
            name is the data dictionary's (PS3.6), never a value.
    """

    def __init__(self, header: pydicom.Dataset) -> None:
        self._header = header
        self.unusable: list[str] = []

    def numbers(self, keyword: str) -> list[float]:
        """All values of a numeric attribute; empty where it is absent, or one of them is not a finite number."""
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
        """The value of a numeric attribute of multiplicity 1; none where it is absent or unusable."""
        values = self.numbers(keyword)
        if len(values) > 1:
            self.note(keyword)
        return values[0] if len(values) == 1 else None

    def code(self, keyword: str) -> str:
        """A code string in upper case, of multiplicity 1; empty where it is absent or unusable."""
        value = self._value(keyword)
        if value is None:
            return ""
        if isinstance(value, str):
            return value.strip().upper()
        self.note(keyword)
        return ""

    def first_item(self, keyword: str) -> pydicom.Dataset | None:
        """The first item of a sequence; none where it is absent, empty or no sequence."""
        value = self._value(keyword)
        if value is None:
            return None
        if isinstance(value, Sequence):
            return value[0]
        self.note(keyword)
        return None

    def note(self, keyword: str) -> None:
        """Count an attribute as unusable whose value was had and makes no sense."""
        name = dictionary_description(keyword)
        if name not in self.unusable:
            self.unusable.append(name)

    def _value(self, keyword: str) -> Any:
        """The value, none where the attribute is absent, empty or cannot be parsed."""
        if keyword not in self._header:
            return None
        try:
            value = self._header[keyword].value
            is_empty = value is None or (hasattr(value, "__len__") and not len(value))
        except Exception:  # pydicom parses a value when it is asked for, and raises many kinds
            is_empty = True
        if not is_empty:
            return value
        self.note(keyword)
        return None
