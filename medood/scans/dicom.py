"""DICOM to scans. pydicom parses and decodes; the grey scale is :mod:`medood.scans.grayscale`."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder
from pydicom.uid import UID, JPEGExtended12Bit

from medood.scans import grayscale
from medood.scans.scan import Grayscale, Identity, RefusedError, Scan, Status

#: Attributes copied to ``Scan.attributes``. None of them names a patient, a person or a date.
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

#: Pictures of more pixels than this are refused as ``too_large``.
MAX_PIXELS = 12_000 * 12_000


def is_dicom(content: bytes) -> bool:
    """True where the bytes carry the DICM prefix, or start like a data set without one (PS3.10 section 7)."""
    return content[128:132] == b"DICM" or content[:4] in (b"\x08\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")


def read_dicom(content: bytes, identity: Identity) -> Iterator[Scan]:
    """Yield one scan a frame.

    Args:
        content: the bytes of a DICOM file.
        identity: of the file; the frame number is filled in.

    Raises:
        RefusedError: the file has no picture that can be read; the reason says why.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = _parse(content)
        syntax = _check(dataset)
        attributes = _attributes(dataset, syntax)
        patient = str(dataset.get("PatientID", "") or "")
        for frame, (array, plugin) in enumerate(_frames(dataset, syntax)):
            try:
                unit, how = _unit_picture(array, dataset, syntax, plugin)
                if not np.isfinite(unit).all():
                    raise ValueError("some of them are not numbers")
            except (ValueError, TypeError, AttributeError, IndexError, KeyError, NotImplementedError) as error:
                raise RefusedError(Status.UNREADABLE, f"the grey values of frame {frame} cannot be made: {error}") from error
            yield Scan(
                identity=Identity(identity.source, identity.member, frame, identity.sha256),
                pixels=grayscale.as_pixels(unit),
                grayscale=how,
                spacing=_spacing(dataset),
                attributes=attributes,
                patient=hashlib.sha256(patient.encode()).hexdigest()[:16] if patient else "",
            )


def _parse(content: bytes) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(io.BytesIO(content), force=content[128:132] != b"DICM")
    except InvalidDicomError as error:
        raise RefusedError(Status.NOT_AN_IMAGE, "the file does not start like a DICOM file") from error
    except Exception as error:  # pydicom raises many kinds on damaged headers; none may stop a run
        raise RefusedError(Status.UNREADABLE, f"the DICOM header is damaged ({type(error).__name__})") from error


def _check(dataset: pydicom.Dataset) -> UID:
    """Refuse what cannot hold a picture and return the transfer syntax."""
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        sop_class = dataset.get("SOPClassUID")
        kind = UID(sop_class).name if sop_class else "an object of unknown class"
        raise RefusedError(Status.NO_PIXELS, f"the DICOM object ({kind}) holds no pixel data")
    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    if not syntax:
        little = dataset.original_encoding[1]
        syntax = pydicom.uid.ImplicitVRLittleEndian if little in (True, None) else pydicom.uid.ExplicitVRBigEndian
        if meta is None:
            dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
    try:
        rows, columns = int(dataset.Rows), int(dataset.Columns)
    except (AttributeError, TypeError, ValueError) as error:
        raise RefusedError(Status.UNREADABLE, "Rows or Columns is missing or not a number") from error
    if rows < 1 or columns < 1:
        raise RefusedError(Status.UNREADABLE, f"the picture is {rows} rows by {columns} columns; both must be above 0")
    if rows * columns > MAX_PIXELS:
        raise RefusedError(
            Status.TOO_LARGE, f"the picture has {rows} x {columns} pixels; the limit is {MAX_PIXELS:,} pixels"
        )
    return UID(syntax)


def _frames(dataset: pydicom.Dataset, syntax: UID) -> Iterator[tuple[npt.NDArray[Any], str]]:
    """Decoded frames ``[H, W]`` or ``[H, W, 3]`` and the plugin that made them, one at a time."""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise RefusedError(
            Status.UNSUPPORTED_SYNTAX, f"the transfer syntax {syntax.name} ({syntax}) has no decoder"
        ) from error
    plugins = [""] if not syntax.is_encapsulated else list(decoder.available_plugins)
    if not plugins:
        raise RefusedError(
            Status.UNSUPPORTED_SYNTAX,
            f"no installed decoder reads {syntax.name}; one of these would: {'; '.join(decoder.missing_dependencies)}",
        )
    failure = ""
    for plugin in plugins:
        try:
            iterator = decoder.iter_array(dataset, decoding_plugin=plugin)
            first, _ = next(iterator)
        except Exception as error:  # decoders are C libraries behind many exception types
            failure = failure or " ".join(str(error).split()) or type(error).__name__
            continue
        yield first, plugin or "pydicom"
        try:
            for array, _ in iterator:
                yield array, plugin or "pydicom"
        except Exception as error:
            raise RefusedError(Status.UNREADABLE, f"a later frame cannot be decoded ({type(error).__name__})") from error
        return
    if syntax == JPEGExtended12Bit and int(dataset.get("BitsStored", 8)) > 8:
        raise RefusedError(Status.UNSUPPORTED_SYNTAX, f"no installed decoder reads {syntax.name} with more than 8 bits")
    raise RefusedError(Status.UNREADABLE, f"the pixel data cannot be decoded: {failure[:300]}")


def _unit_picture(
    array: npt.NDArray[Any], dataset: pydicom.Dataset, syntax: UID, plugin: str
) -> tuple[grayscale.Values, Grayscale]:
    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if array.ndim == 3 and array.shape[-1] == 3:
        top = 2.0 ** int(dataset.get("BitsStored", dataset.BitsAllocated)) - 1
        return grayscale.luminance(array.astype(np.float64) / top), Grayscale(voi="full range", plugin=plugin)
    if array.ndim != 2:
        raise ValueError(f"a frame has the shape {array.shape}; expected rows by columns, or three colours")
    if photometric == "PALETTE COLOR":
        colours = apply_color_lut(array, dataset)
        top = float(np.iinfo(colours.dtype).max)
        return grayscale.luminance(colours[..., :3].astype(np.float64) / top), Grayscale(
            modality_lut="palette", voi="full range", plugin=plugin
        )
    stored = array
    if not syntax.is_encapsulated and array.dtype.kind in "iu" and int(dataset.BitsAllocated) > 1:
        stored = grayscale.stored_values(
            array,
            int(dataset.BitsStored),
            int(dataset.get("HighBit", int(dataset.BitsStored) - 1)),
            signed=bool(dataset.get("PixelRepresentation", 0)),
        )
    padding = _padding(stored, dataset)
    values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
    unit, voi = _voi(values, dataset, padding)
    inverted = "no"
    if str(dataset.get("PresentationLUTShape", "")) == "INVERSE":
        inverted = "PresentationLUTShape INVERSE"
    elif photometric == "MONOCHROME1":
        inverted = "MONOCHROME1"
    if inverted != "no":
        unit = grayscale.invert(unit)
    if padding is not None:
        unit = np.where(padding, 0.0, unit)
    return unit, Grayscale(_modality_words(dataset), voi, inverted, plugin)


def _voi(
    values: grayscale.Values, dataset: pydicom.Dataset, padding: npt.NDArray[np.bool_] | None
) -> tuple[grayscale.Values, str]:
    table = dataset.get("VOILUTSequence")
    if table:
        item = table[0]
        entries, first, bits = (int(x) for x in item.LUTDescriptor)
        data = item.LUTData
        if isinstance(data, bytes):
            data = np.frombuffer(data, dtype="<u2" if len(data) >= 2 * (entries or 65536) else np.uint8)
        return (
            grayscale.voi_lut(values, np.asarray(data, dtype=np.float64), _signed(first, dataset, 16), bits),
            f"voi lut 1/{len(table)}",
        )
    centers, widths = _numbers(dataset.get("WindowCenter")), _numbers(dataset.get("WindowWidth"))
    if centers and widths:
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        words = f"window 1/{len(centers)} center={centers[0]:g} width={widths[0]:g} {function}"
        try:
            return grayscale.window(values, centers[0], widths[0], function), words
        except ValueError:
            return grayscale.percentile_window(values, padding), f"percentile 0.5-99.5, for the unusable {words}"
    return grayscale.percentile_window(values, padding), "percentile 0.5-99.5"


def _padding(stored: npt.NDArray[Any], dataset: pydicom.Dataset) -> npt.NDArray[np.bool_] | None:
    """Where the picture is padding (PS3.3 C.7.5.1.1.2), or none."""
    value = dataset.get("PixelPaddingValue")
    if value is None or isinstance(value, bytes):
        return None
    limit = dataset.get("PixelPaddingRangeLimit", value)
    bits = int(dataset.BitsStored)
    low, high = sorted(_signed(int(v), dataset, bits) for v in (value, limit if not isinstance(limit, bytes) else value))
    mask = np.asarray((stored >= low) & (stored <= high))
    return mask if mask.any() and not mask.all() else None


def _signed(value: int, dataset: pydicom.Dataset, bits: int) -> int:
    """A value of a signed picture that was written as unsigned, a common fault of writers, with its sign."""
    negative = int(dataset.get("PixelRepresentation", 0) or 0) == 1 and value >= 1 << (bits - 1)
    return value - (1 << max(bits, value.bit_length())) if negative else value


def _modality_words(dataset: pydicom.Dataset) -> str:
    if dataset.get("ModalityLUTSequence"):
        return "modality lut"
    if "RescaleSlope" in dataset and "RescaleIntercept" in dataset:
        return f"rescale slope={float(dataset.RescaleSlope):g} intercept={float(dataset.RescaleIntercept):g}"
    return "none"


def _numbers(value: Any) -> list[float]:
    if value is None or value == "":
        return []
    return [float(v) for v in (value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value])]


def _spacing(dataset: pydicom.Dataset) -> tuple[float, float] | None:
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            numbers = _numbers(dataset.get(name))
        except (TypeError, ValueError):
            continue
        if len(numbers) == 2 and min(numbers) > 0:
            return numbers[0], numbers[1]
    return None


def _attributes(dataset: pydicom.Dataset, syntax: UID) -> dict[str, str]:
    kept = {}
    for name in KEPT_ATTRIBUTES:
        try:
            value = dataset.get(name)
        except Exception:  # noqa: S112 - a value that cannot be parsed is left out, the picture is not lost for it
            continue
        if value not in (None, ""):
            text = "\\".join(str(v) for v in value) if isinstance(value, pydicom.multival.MultiValue) else str(value)
            kept[name] = "".join(c for c in text if c.isprintable())[:128]
    kept["TransferSyntax"] = syntax.name
    return kept
