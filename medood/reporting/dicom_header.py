"""Prepare a scan's header for new DICOM objects of its study: illegal values are left empty, never guessed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
from highdicom import sr
from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ComputedRadiographyImageStorage, UID_dictionary, generate_uid
from pydicom.valuerep import DA, DT, STR_VR, TM

from medood.scans.dicom.parser import PIXEL_KEYWORDS
from medood.screening.ledger.run_metadata import RunMetadata

#: Attributes that every object must have but may leave empty (type 2); those that the header lacks stay empty.
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
#: Attributes with which a new object refers to the scan.
IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_DATES_AND_TIMES = {"DA": DA, "TM": TM, "DT": DT}
#: Stands in for a SOP class that is not in the standard while an object is built; see :func:`refer_to`.
_STAND_IN = ComputedRadiographyImageStorage


def missing_identity(source: Dataset) -> list[str]:
    """Keywords of the identifiers that a new object needs and the header lacks."""
    return [name for name in IDENTITY if not source.get(name)]


def usable_header(source: Dataset) -> Dataset:
    """Leave missing and illegal values of a header empty and convert its text to Unicode.

    Args:
        source: a parsed object; modified in place.
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


def refer_to(dataset: Dataset, instance: str, sop_class: str) -> None:
    """Restore the scan's own SOP class in an object's references to it, where a stand-in replaced it."""
    for item in _items(dataset):
        if item.get("ReferencedSOPInstanceUID") == instance and "ReferencedSOPClassUID" in item:
            item.ReferencedSOPClassUID = UID(sop_class)


def set_times(dataset: Dataset, finished: datetime, uid: Callable[[str], str]) -> Dataset:
    """Replace the current time by the run's end and random UIDs by derived ones, so that a run gives the same bytes."""
    day, time = finished.strftime("%Y%m%d"), finished.strftime("%H%M%S")
    for element in dataset.iterall():
        if element.keyword in ("ContentDate", "InstanceCreationDate", "DateOfSecondaryCapture"):
            element.value = day
        elif element.keyword in ("ContentTime", "InstanceCreationTime", "TimeOfSecondaryCapture"):
            element.value = time
        elif element.keyword == "ContributionDateTime":
            element.value = day + time
        elif element.keyword == "DimensionOrganizationUID":
            element.value = uid("dimensions")
    return dataset


def device_observer(metadata: RunMetadata) -> sr.ObserverContext:
    """The detector of a run as the device that observed (TID 1004)."""
    return sr.ObserverContext(
        codes.DCM.Device,
        sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=["medood", metadata.detector.sha256]),
            name="medood",
            manufacturer_name="medood",
            model_name=(metadata.detector.name or "detector")[:64],
            serial_number=metadata.detector.sha256[:16],
        ),
    )


def orientation(source: Dataset) -> tuple[str, str] | None:
    """Patient directions of rows and columns (PS3.3 C.7.6.1.1.1), as stated or from the direction cosines."""
    stated_axes, cosines = source.get("PatientOrientation"), source.get("ImageOrientationPatient")
    if stated_axes and len(stated_axes) == 2 and all(set(str(axis)) <= set("LRAPHF") and axis for axis in stated_axes):
        return str(stated_axes[0]), str(stated_axes[1])
    try:
        axes = np.array(cosines, dtype=np.float64).reshape(2, 3)
    except (TypeError, ValueError):
        return None
    names = [("LPH" if axis[i] > 0 else "RAF")[i] for axis in axes for i in [int(np.abs(axis).argmax())]]
    return names[0], names[1]


def _settle_character_set(source: Dataset) -> None:
    """Set a missing or non-standard character set (PS3.3 C.12.1.1.2): UTF-8 if the text decodes, else Latin-1."""
    character_set = source.get("SpecificCharacterSet") or ""
    terms = [character_set] if isinstance(character_set, str) else list(character_set)
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
    """Whether a value can be read and, where it must be a date, a time or a single name, is one."""
    try:
        element = source[tag]
        if element.keyword in PIXEL_KEYWORDS:
            return True
        if element.VR == "SQ":
            return all(_is_usable(item, inner) for item in element.value for inner in list(item.keys()))
        return _is_legal(element)
    except Exception:  # pydicom raises many kinds of exception for malformed values
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
    items = [dataset]
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                items += _items(item)
    return items
