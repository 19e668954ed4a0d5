"""Read DICOM objects as scans: parse, check, decode the pixel data, and apply the grey-scale pipeline."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pydicom
from pydicom.datadict import dictionary_description
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    UID_dictionary,
)

from medood.config.schema import ReadConfig
from medood.reasons import Reason
from medood.scans.dicom.attributes import OptionalAttributes
from medood.scans.dicom.grayscale_pipeline import SAMPLES, colours_of, grey_picture
from medood.scans.dicom.parser import PIXEL_KEYWORDS, parse_dicom
from medood.scans.dicom.pixel_data import Frame, decode_frames, number_of_frames
from medood.scans.frames import wanted_frames
from medood.scans.scan import ContradictionError, Identity, RefusedError, Scan, Status, describe_error, patient_hash
from medood.scans.selection import parse_selection

#: Attributes copied to ``Scan.attributes``. None of them names a person or states a date.
KEPT_ATTRIBUTES = (
    "Modality",
    "BodyPartExamined",
    "ViewPosition",
    "PatientOrientation",
    "PhotometricInterpretation",
    "Manufacturer",
    "ManufacturerModelName",
    "Rows",
    "Columns",
    "BitsStored",
    "NumberOfFrames",
)

#: Longest attribute value that is kept: the maximum of the value representation LO.
_LONGEST = 64
_FILE_SET = "1.2.840.10008.1.3.10"
#: SOP classes of objects that are not images, by the prefix of their UID (PS3.4 annex B), and their plain names.
_NO_PICTURES = {
    _FILE_SET: Reason("kind_file_set"),
    "1.2.840.10008.5.1.4.1.1.88.": Reason("kind_structured_report"),
    "1.2.840.10008.5.1.4.1.1.104.": Reason("kind_document"),
    "1.2.840.10008.5.1.4.1.1.9.": Reason("kind_waveform"),
    "1.2.840.10008.5.1.4.1.1.11.": Reason("kind_presentation_state"),
    "1.2.840.10008.5.1.4.1.1.481.3": Reason("kind_structures"),
    **dict.fromkeys((f"1.2.840.10008.5.1.4.1.1.481.{n}" for n in (4, 5, 6, 7, 8, 9)), Reason("kind_radiotherapy")),
    "1.2.840.10008.5.1.4.1.1.66": Reason("kind_raw"),
    "1.2.840.10008.5.1.4.1.1.67": Reason("kind_mapping"),
    "1.2.840.10008.5.1.4.1.1.4.2": Reason("kind_spectroscopy"),
    "1.2.840.10008.5.1.4.34.": Reason("kind_workflow"),
    "1.2.840.10008.5.1.4.38.": Reason("kind_hanging_protocol"),
    "1.2.840.10008.5.1.4.39.": Reason("kind_colour_palette"),
}


#: SOP classes whose pixel data are not an image.
_NOT_PICTURES = {
    UID("1.2.840.10008.5.1.4.1.1.481.2"): Reason("kind_dose"),
    UID("1.2.840.10008.5.1.4.1.1.66.4"): Reason("kind_segmentation"),
    UID("1.2.840.10008.5.1.4.1.1.66.7"): Reason("kind_segmentation"),
    UID("1.2.840.10008.5.1.4.1.1.30"): Reason("kind_parametric_map"),
}


def read_dicom(content: bytes, identity: Identity, options: ReadConfig | None = None, least_side: int = 0) -> Iterator[Scan]:
    """Yield one scan per frame.

    Args:
        content: the bytes of a DICOM file.
        identity: identity of the file; the frame number is filled in.
        options: the frames and objects to read, and the largest image.
        least_side: pixels that each side must keep where a frame can be decoded at a lower resolution; 0 decodes it whole.

    Raises:
        RefusedError: the file has no readable image, or is not selected; the reason says why.
    """
    options = options or ReadConfig()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = parse_dicom(content, options)
        dataset = file.dataset
        if options.select:
            _check_selection(dataset, options.select)
        if not any(name in dataset for name in PIXEL_KEYWORDS):
            raise _without_pixels(dataset, file.cut)
        if (uid := _sop_class(dataset)) in _NOT_PICTURES:
            raise RefusedError(
                Status.NOT_AN_IMAGE, Reason("not_an_image_of_class", kind=_NOT_PICTURES[uid], sop_class=uid.name)
            )
        if file.cut:
            raise RefusedError(Status.UNREADABLE, file.cut)
        syntax = _check(dataset, options)
        attributes, patient = (
            _attributes(dataset, DeflatedExplicitVRLittleEndian if file.is_deflated else syntax),
            _patient(dataset),
        )
        month = _month(dataset)
        frame_indices = wanted_frames(options.frames, number_of_frames(dataset), options.max_frames)
        for index, frame in zip(frame_indices, decode_frames(dataset, syntax, frame_indices, least_side), strict=True):
            scan = _reduced_scan(dataset, index, frame) if frame.reduction else None
            if frame.reduction and scan is None:
                (frame,) = decode_frames(dataset, syntax, range(index, index + 1))
            scan = scan or _frame_scan(dataset, index, frame)
            frame_identity = Identity(identity.source, identity.member, index, identity.sha256)
            yield replace(scan, identity=frame_identity, attributes=attributes, month=month, patient=patient)
        if file.behind:
            raise RefusedError(Status.UNREADABLE, file.behind)


def _reduced_scan(dataset: pydicom.Dataset, index: int, frame: Frame) -> Scan | None:
    """One reduced frame as a scan; None if the whole one has to tell: its percentiles differ, and so may its errors."""
    try:
        scan = _frame_scan(dataset, index, frame)
    except RefusedError:
        return None
    return None if scan.grayscale.voi.startswith("percentile") else scan


def _frame_scan(dataset: pydicom.Dataset, index: int, frame: Frame) -> Scan:
    """One frame as a scan, without what all frames share."""
    try:
        header, unusable = _frame_header(dataset, index)
        pixels, grayscale = grey_picture(frame, header)
        ignored = ", ".join(filter(None, [grayscale.ignored, *map("no usable {}".format, unusable)]))
        spacing, spacing_source, aspect = _geometry(header)
        return Scan(
            identity=Identity(""),
            pixels=pixels,
            grayscale=replace(grayscale, ignored=ignored),
            spacing=spacing,
            spacing_source=spacing_source,
            aspect=aspect,
            colours=colours_of(frame, header),
            reduction=frame.reduction,
        )
    except Exception as error:  # an attribute of the wrong type or range fails wherever it is used
        problem = describe_error(error, Reason("attribute_unusable"))
        raise RefusedError(Status.UNREADABLE, Reason("grey_values_not_computed", frame=index, problem=problem)) from error


def _check_selection(dataset: pydicom.Dataset, select: str) -> None:
    if not parse_selection(select).matches(dataset):
        raise RefusedError(Status.NOT_SELECTED, Reason("not_selected", select=select))


def _check(dataset: pydicom.Dataset, options: ReadConfig) -> UID:
    """Refuse a data set that cannot hold an image or contradicts itself; return the transfer syntax."""
    try:
        rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
    except (AttributeError, TypeError, ValueError) as error:
        raise RefusedError(Status.UNREADABLE, Reason("rows_columns_missing")) from error
    if rows < 1 or columns < 1:
        raise RefusedError(Status.UNREADABLE, Reason("rows_columns_not_positive", rows=rows, columns=columns))
    if rows * columns > options.max_pixels:
        raise RefusedError(
            Status.TOO_LARGE, Reason("image_over_limit", rows=rows, columns=columns, limit=options.max_pixels)
        )
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric not in SAMPLES:
        raise RefusedError(Status.UNREADABLE, Reason("photometric_unknown", expected=", ".join(SAMPLES)))
    if SAMPLES[photometric] != samples:
        raise RefusedError(
            Status.UNREADABLE,
            Reason("photometric_contradicts_samples", photometric=photometric, samples=samples),
        )
    dataset.SamplesPerPixel = samples
    return transfer_syntax(dataset)


def _sop_class(dataset: pydicom.Dataset) -> UID:
    return UID(str(dataset.get("SOPClassUID") or getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID") or ""))


def _without_pixels(dataset: pydicom.Dataset, cut: Reason | None) -> RefusedError:
    uid = _sop_class(dataset)
    for beginning, kind in _NO_PICTURES.items():
        if uid.startswith(beginning):
            reason = Reason("not_an_image", kind=kind)
            if uid in UID_dictionary:  # with a damaged length, a UID may run on into other attributes
                reason = Reason("not_an_image_of_class", kind=kind, sop_class=uid.name)
            return RefusedError(Status.NOT_AN_IMAGE, reason)
    if cut:
        return RefusedError(Status.UNREADABLE, cut)
    sop_class = uid.name if uid in UID_dictionary else Reason("unknown_sop_class")
    return RefusedError(Status.NO_PIXELS, Reason("no_pixel_data", kind=sop_class))


def transfer_syntax(dataset: pydicom.Dataset) -> UID:
    """Return the file's transfer syntax; if not stated, the encoding in which the data set was parsed."""
    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if not syntax:
        implicit, little = dataset.original_encoding
        if little is False:
            syntax = ExplicitVRBigEndian
        else:
            syntax = ImplicitVRLittleEndian if implicit in (True, None) else ExplicitVRLittleEndian
        if _is_compressed(dataset):
            problem = Reason("compressed_unstated")
            raise RefusedError(Status.UNREADABLE, problem)
        if meta is None:
            dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
    return UID(syntax)


def _is_compressed(dataset: pydicom.Dataset) -> bool:
    """Return whether pixel data without a transfer syntax are fragments or a bare codestream."""
    if "PixelData" not in dataset or not isinstance(dataset.PixelData, bytes):
        return False
    element = dataset["PixelData"]
    return bool(element.is_undefined_length) or element.value.startswith((b"\xff\xd8\xff", b"\xff\x4f\xff\x51"))


def _frame_header(dataset: pydicom.Dataset, index: int) -> tuple[pydicom.Dataset, list[str]]:
    """Return the attributes of one frame; an enhanced object's functional groups (PS3.3 C.7.6.16) take precedence.

    Returns:
        the header, and the names of groups and attributes that count as absent because they are empty or of the wrong type.
    """
    optional = OptionalAttributes(dataset)
    shared = optional.first_item("SharedFunctionalGroupsSequence")
    has_each = optional.first_item("PerFrameFunctionalGroupsSequence") is not None
    if shared is None and not has_each:
        return dataset, optional.unusable
    header = pydicom.Dataset()
    header.update({tag: element for tag, element in dataset.items() if tag not in _BULK})
    groups = [] if shared is None else [shared]
    if has_each:
        frame_groups = dataset.PerFrameFunctionalGroupsSequence
        if len(frame_groups) < number_of_frames(dataset):
            raise ContradictionError(Reason("functional_groups", groups=len(frame_groups), frames=number_of_frames(dataset)))
        groups.append(frame_groups[index])
    unusable = optional.unusable
    for group in groups:
        inner = OptionalAttributes(group)
        for name in _MACROS:
            macro = inner.first_item(name)
            for tag, element in macro.items() if macro is not None else ():
                if element.value in (None, b"", ""):
                    unusable.append(dictionary_description(tag))
                else:
                    header[tag] = element
        unusable += inner.unusable
    return header, list(dict.fromkeys(unusable))


_BULK = frozenset(
    pydicom.tag.Tag(name) for name in (*PIXEL_KEYWORDS, "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
)
_MACROS = ("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence")


def _geometry(header: pydicom.Dataset) -> tuple[tuple[float, float] | None, str, float]:
    """Return the spacing in mm, its source attribute, and the height of a pixel over its width."""
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        pair = OptionalAttributes(header).numbers(name)
        if len(pair) == 2 and min(pair) > 0 and 0.01 <= pair[0] / pair[1] <= 100:
            if name == "PixelAspectRatio":
                return None, "none", pair[0] / pair[1]
            return (pair[0], pair[1]), name, pair[0] / pair[1]
    return None, "none", 1.0


def _patient(dataset: pydicom.Dataset) -> str:
    try:
        patient = str(dataset.get("PatientID", "") or "")
    except Exception:  # an unparsable value cannot distinguish patients
        return ""
    return patient_hash(patient)


def _month(dataset: pydicom.Dataset) -> str:
    """Return the month of acquisition, else of the study; empty if neither is a date."""
    for name in ("AcquisitionDate", "AcquisitionDateTime", "StudyDate"):
        try:
            match = re.fullmatch(r"((?:19|20)\d\d)(0[1-9]|1[0-2])[0-3]\d.*", str(dataset.get(name, "") or ""))
        except Exception:  # noqa: S112 - an unparsable value is not a date
            continue
        if match:
            return f"{match[1]}-{match[2]}"
    return ""


def _attributes(dataset: pydicom.Dataset, syntax: UID) -> dict[str, str]:
    attributes = {}
    for name in KEPT_ATTRIBUTES:
        try:
            value = dataset.get(name)
        except Exception:  # noqa: S112 - an unparsable value is omitted, but the image is kept
            continue
        if value not in (None, ""):
            text = "\\".join(str(v) for v in value) if isinstance(value, pydicom.multival.MultiValue) else str(value)
            if len(text) <= _LONGEST and text.isprintable():  # a value of damaged length may include the patient's name
                attributes[name] = text
    attributes["TransferSyntax"] = syntax.name
    return attributes
