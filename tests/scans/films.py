"""One radiograph stored in any way that DICOM allows, written with encoders that the readers do not use."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pack_bits
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
LOSSLESS = (RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless)
LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)


def film(rows: int = 96, columns: int = 80) -> npt.NDArray[np.int64]:
    """A smooth chest-like image of 12 bits with fine structure, no two sides alike."""
    y, x = np.mgrid[0:rows, 0:columns] / np.array([rows, columns]).reshape(2, 1, 1)
    lungs = np.exp(-(((x - 0.3) / 0.14) ** 2 + ((y - 0.45) / 0.3) ** 2))
    lungs += 0.8 * np.exp(-(((x - 0.72) / 0.12) ** 2 + ((y - 0.5) / 0.28) ** 2))
    image = 0.85 - 0.6 * lungs + 0.1 * y + 0.03 * np.sin(40 * x) * np.sin(23 * y)
    image[:6, :9] = 1.0
    return np.rint(np.clip(image, 0, 1) * 4095).astype(np.int64)


def write(stored: npt.NDArray[Any], bits_stored: int = 12, syntax: UID = ExplicitVRLittleEndian, **attributes: Any) -> bytes:
    """A CR file with these stored values, ``[H, W]``, ``[H, W, 3]`` or with frames in front; None removes an attribute."""
    signed = int(stored.min() < 0)
    frames = attributes.pop("frames", None)
    samples = 3 if stored.shape[-1] == 3 else 1
    bits = 8 if bits_stored <= 8 else 16
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, UID("1.2.840.10008.5.1.4.1.1.1")
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["film"])
    encoding = {"is_implicit_VR": syntax == ImplicitVRLittleEndian, "is_little_endian": syntax != ExplicitVRBigEndian}
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, **encoding)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.Modality = "Secret^Name", "SECRET-ID", "CR"
    data.Rows, data.Columns = stored.shape[1:3] if frames else stored.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = samples, "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits_stored, bits_stored - 1, signed
    if frames:
        data.NumberOfFrames = frames
    for name, value in attributes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    shift = data.HighBit - bits_stored + 1
    mask = ((1 << bits_stored) - 1) << shift if shift else (1 << bits) - 1
    words = ((stored << shift) & mask).astype(f"u{bits // 8}")
    if not syntax.is_encapsulated:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        data.PixelData = words.astype(words.dtype.newbyteorder(order)).tobytes()
    else:
        each = words if frames else words[None]
        data.PixelData = encapsulate([encode(frame, bits_stored, syntax) for frame in each])
        data["PixelData"].is_undefined_length = True
    data["PixelData"].VR = "OB" if bits == 8 or syntax.is_encapsulated else "OW"
    return saved(data)


def encode(words: npt.NDArray[Any], bits_stored: int, syntax: UID) -> bytes:
    """One frame's codestream."""
    if syntax == RLELossless:
        return _rle(words)
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        predictor = 1 if syntax == JPEGLosslessSV1 else 4
        colours = {"colorspace": "RGB", "outcolorspace": "RGB"} if words.ndim == 3 else {}
        return bytes(
            imagecodecs.jpeg8_encode(words, lossless=True, predictor=predictor, bitspersample=bits_stored, **colours)
        )
    if syntax in (JPEGLSLossless, JPEGLSNearLossless):
        return bytes(imagecodecs.jpegls_encode(words, level=0 if syntax == JPEGLSLossless else 2))
    if syntax in (JPEG2000Lossless, JPEG2000):
        level = {} if syntax == JPEG2000Lossless else {"level": 60}
        options = {"codecformat": "j2k", "reversible": syntax == JPEG2000Lossless, "bitspersample": bits_stored}
        return bytes(imagecodecs.jpeg2k_encode(words, **options, **level))
    if syntax in (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K):
        level = {} if syntax != HTJ2K else {"level": 0.0005}
        return bytes(imagecodecs.htj2k_encode(words, reversible=syntax != HTJ2K, **level))
    return bytes(imagecodecs.jpeg8_encode(words, level=98, bitspersample=bits_stored))


def _rle(words: npt.NDArray[Any]) -> bytes:
    """PS3.5 annex G with literal runs only: one segment a byte plane, most significant first."""
    planes = words.reshape(-1, 1).view(np.uint8)[:, ::-1] if words.dtype.itemsize > 1 else words.reshape(-1, 1)
    rows = planes.shape[0] // words.shape[0]
    segments = []
    for plane in planes.T:
        segment = b""
        for line in np.ascontiguousarray(plane).reshape(-1, rows):
            raw = line.tobytes()
            segment += b"".join(bytes([len(raw[i : i + 128]) - 1]) + raw[i : i + 128] for i in range(0, len(raw), 128))
        segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = np.cumsum([64, *(len(s) for s in segments[:-1])])
    header = np.zeros(16, dtype="<u4")
    header[0], header[1 : len(segments) + 1] = len(segments), offsets
    return header.tobytes() + b"".join(segments)


def saved(data: Dataset) -> bytes:
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def segmentation(mask: npt.NDArray[np.bool_]) -> bytes:
    """A one-bit image."""
    data = write(np.zeros(mask.shape, dtype=np.int64), 8)
    parsed = dcmread(io.BytesIO(data))
    parsed.BitsAllocated, parsed.BitsStored, parsed.HighBit = 1, 1, 0
    parsed.PixelData = pack_bits(mask.astype(np.uint8).ravel())
    return saved(parsed)


def probes() -> dict[str, str]:
    """What ``medood doctor`` decodes: a small radiograph in each encapsulated transfer syntax, as base64."""
    small = film(24, 20)
    files = {}
    for syntax in (*LOSSLESS, *LOSSY, HTJ2KLosslessRPCL):
        eight = syntax == JPEGBaseline8Bit
        window = {"WindowCenter": 128 if eight else 2048, "WindowWidth": 256 if eight else 4096}
        files[str(syntax)] = base64.b64encode(
            write(small >> 4 if eight else small, 8 if eight else 12, syntax, **window)
        ).decode()
    return files


if __name__ == "__main__":  # python -m tests.scans.radiographs > medood/scans/probes.json
    print(json.dumps(probes(), indent=1))
