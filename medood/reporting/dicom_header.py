"""A scan's header as new DICOM objects of its study can take it over: what has no legal value is left open, not guessed."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ComputedRadiographyImageStorage, UID_dictionary
from pydicom.valuerep import DA, DT, STR_VR, TM

from medood.scans.dicom.parser import PIXEL_KEYWORDS

#: Attributes that every object must have, and may leave empty (type 2); what a header leaves out stays open.
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
#: Attributes by which a new object refers to the scan.
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_DATES_AND_TIMES = {"DA": DA, "TM": TM, "DT": DT}
#: In the place of a SOP class that is not the standard's, while an object is made; see :func:`refer_to`.
_STAND_IN = ComputedRadiographyImageStorage


def missing_identity(source: Dataset) -> list[str]:
    """Keywords of what a new object must refer to and the header lacks."""
    return [name for name in _IDENTITY if not source.get(name)]


def usable_header(source: Dataset) -> Dataset:
    """The header with what is missing or has no legal value left open, and its text in Unicode.

    Args:
        source: a parsed object; it is changed.
    """
    with warnings.catch_warnings(action="ignore"):
        _settle_character_set(source)
        for tag in list(source.keys()):
            if not _is_usable(source, tag):
                del source[tag]
    if "SpecificCharacterSet" in source:
        source.SpecificCharacterSet = "ISO_IR 192"
    for name in _TYPE_2:
        if name not in source:
            setattr(source, name, "")
    if source.PatientSex not in ("M", "F", "O"):
        source.PatientSex = ""
    if not source.get("Modality"):
        source.Modality = "OT"
    if source.SOPClassUID not in UID_dictionary:
        source.SOPClassUID = _STAND_IN
    return source


def refer_to(made: Dataset, instance: str, sop_class: str) -> None:
    """Let an object's references to a scan name the SOP class that the scan states, where a stand-in took its place."""
    for item in _items(made):
        if item.get("ReferencedSOPInstanceUID") == instance and "ReferencedSOPClassUID" in item:
            item.ReferencedSOPClassUID = UID(sop_class)


def orientation(source: Dataset) -> tuple[str, str] | None:
    """Where rows and columns run to (PS3.3 C.7.6.1.1.1), as stated, or as the direction cosines say."""
    stated, cosines = source.get("PatientOrientation"), source.get("ImageOrientationPatient")
    if stated and len(stated) == 2 and all(set(str(axis)) <= set("LRAPHF") and axis for axis in stated):
        return str(stated[0]), str(stated[1])
    try:
        axes = np.array(cosines, dtype=np.float64).reshape(2, 3)
    except (TypeError, ValueError):
        return None
    names = [("LPH" if axis[i] > 0 else "RAF")[i] for axis in axes for i in [int(np.abs(axis).argmax())]]
    return names[0], names[1]


def _settle_character_set(source: Dataset) -> None:
    """Where the character set is not stated, or is none of the standard's (PS3.3 C.12.1.1.2), take UTF-8 if the text is."""
    stated = source.get("SpecificCharacterSet") or ""
    terms = [stated] if isinstance(stated, str) else list(stated)
    if any(terms) and all(term in python_encoding for term in terms):
        return
    raw = [element.value for element in source.values() if isinstance(element, RawDataElement) and element.VR in STR_VR]
    text = b"".join(value for value in raw if isinstance(value, bytes))
    if text.isascii() and not any(terms):
        return
    try:
        text.decode("utf-8")
        term = "ISO_IR 192"
    except UnicodeDecodeError:
        term = "ISO_IR 100"
    source.SpecificCharacterSet = term
    source.set_original_encoding(*source.original_encoding, python_encoding[term])


def _is_usable(source: Dataset, tag: Any) -> bool:
    """Whether a value can be had, and is a date, a time or a single name where it should be one."""
    try:
        element = source[tag]
        if element.keyword in PIXEL_KEYWORDS:
            return True
        if element.VR == "SQ":
            return all(_is_usable(item, inner) for item in element.value for inner in list(item.keys()))
        return _is_legal(element)
    except Exception:  # pydicom raises many kinds on values that are not of their type
        return False


def _is_legal(element: DataElement) -> bool:
    values = element.value if isinstance(element.value, MultiValue) else [element.value]
    if element.VR == "PN" and len(values) > 1:
        return False
    if element.VR in _DATES_AND_TIMES:
        parsed = [_DATES_AND_TIMES[element.VR](value) for value in values if value]
        if element.VR == "DA" and len(parsed) == 1:
            element.value = parsed[0].strftime("%Y%m%d")  # ACR-NEMA wrote 2020.01.02
    return True


def _items(dataset: Dataset) -> list[Dataset]:
    found = [dataset]
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                found += _items(item)
    return found
