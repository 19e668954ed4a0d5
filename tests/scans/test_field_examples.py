"""Kinds of file that people complain about in public: the examples of MEDOOD_DATA, and variants of each kind made here."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.datadict import dictionary_description
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medood.config.schema import ReadConfig
from medood.scans.dicom.reader import read_dicom
from medood.scans.reader import read_content, read_scans
from medood.scans.scan import Identity, Refusal, RefusedError, Scan, Status
from tests.scans.films import encode, film, saved, write

FILM = film()
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
FIRST_ELEMENTS = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "AccessionNumber",
    "Modality",
]


def read(content: bytes) -> Scan:
    (scan,) = read_content(content, Identity("x", sha256="0" * 64), ReadConfig())
    return scan


def refused(content: bytes) -> RefusedError:
    with pytest.raises(RefusedError) as error:
        list(read_content(content, Identity("x"), ReadConfig()))
    return error.value


# The examples


def test_every_example_is_read_as_expected(medood_data: Path) -> None:
    with (medood_data / "field" / "expected.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["file"] not in ("patients", "man")]
    assert len(rows) >= 28
    wrong = []
    for row in rows:
        path = medood_data / "field" / row["file"]
        results = list(read_scans(path / "DICOMDIR" if path.is_dir() else path))
        scans = [result for result in results if isinstance(result, Scan)]
        refusals = [result for result in results if isinstance(result, Refusal)]
        means = [float(scan.pixels.mean()) for scan in scans]
        told = [refusal for refusal in refusals if len(refusal.reason) > 20 and "Error" not in refusal.reason]
        fits = {
            "scored": len(scans) == 1 and not refusals,
            "any honest": bool(scans) != bool(refusals),
            "unreadable": [r.status for r in refusals] == [Status.UNREADABLE] and "cut" in refusals[0].reason,
            "1 scan": len(scans) == 1 and not refusals,
            "2 scans": len(scans) == 2,
            "scan found": len(scans) == 2 and not refusals,
            "a scan or a row": bool(scans) and len(told) == 1,
        }[row["expected"]]
        right = all(abs(mean - float(row["mean_grey"])) < 0.002 for mean in means) if row["mean_grey"] else True
        lit = all(0.05 < mean < 0.95 for mean in means)
        if not (fits and right and lit and len(told) == len(refusals)):
            wrong.append((row["file"], row["expected"], means, [r.reason for r in refusals]))
    assert not wrong, wrong


#: What may become of a manifest: scans, or the beginning of a sentence.
MANIFESTS = {
    "chexpert.csv": "it does not exist",
    "folder.csv": "lists a folder",
    "noheader.csv": "the column 'file' is missing",
    "twofile.csv": "two columns",
    "url.csv": "names a URL",
    "windows_abs.csv": "another machine",
}


def test_every_manifest_is_read_or_says_what_is_wrong(medood_data: Path) -> None:
    found = sorted(path for path in (medood_data / "field" / "man").iterdir() if path.suffix.lower() == ".csv")
    assert len(found) >= 20
    for path in found:
        (result,) = read_scans(path)
        if path.name in MANIFESTS:
            assert isinstance(result, Refusal)
            assert MANIFESTS[path.name] in result.reason, path.name
        else:
            assert isinstance(result, Scan), (path.name, result)


def test_a_padded_patient_is_the_same_patient(medood_data: Path) -> None:
    folder = medood_data / "field" / "man"
    names = (
        "ok",
        "space_header",
        "space_header2",
        "upper",
        "patientID",
        "semicolon",
        "tab",
        "utf16",
        "crlf_bom",
        "sep_line",
    )
    patients = {
        result.patient for name in names for result in read_scans(folder / f"{name}.csv") if isinstance(result, Scan)
    }
    assert len(patients) == 1
    assert patients != {""}


# Bits: codestream precision, sign, spare bits


def compressed(words: np.ndarray, syntax: UID, precision: int, bits: int, *, signed: bool, **attributes: object) -> bytes:
    """The radiograph with its words in a codestream of ``precision`` bits, over ``bits`` stored."""
    content = write(FILM, 12, **attributes)
    data = pydicom.dcmread(io.BytesIO(content))
    data.file_meta.TransferSyntaxUID = syntax
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, int(signed)
    if syntax == JPEGLSLossless:
        assert precision == 16, "imagecodecs encodes words of 16 bits as such"
        stream = bytes(imagecodecs.jpegls_encode(words, level=0))
    elif syntax == RLELossless:
        stream = encode(words, 16, syntax)
    else:
        stream = bytes(imagecodecs.jpeg2k_encode(words, codecformat="j2k", reversible=True, bitspersample=precision))
    data.PixelData = encapsulate([stream])
    data["PixelData"].is_undefined_length = True
    data["PixelData"].VR = "OB"
    return saved(data)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(9, 17))
@pytest.mark.parametrize("spare", ["zero", "sign", "overlay"])
def test_mask_and_sign_follow_the_header_behind_every_codec(syntax: UID, signed: bool, bits: int, spare: str) -> None:
    """16-bit codestreams over 9 to 16 stored bits; what stands in the spare bits is none of the image."""
    stored = np.rint(FILM / 4095 * (2**bits - 1)).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
    words = stored & (2**bits - 1)
    if spare == "sign":
        words = stored & 0xFFFF
    elif spare == "overlay" and bits < 16:
        words = words | ((np.indices(FILM.shape).sum(axis=0) % 7 == 0).astype(np.int64) << bits)
    center = 0 if signed else 2 ** (bits - 1)
    content = compressed(words.astype(np.uint16), syntax, 16, bits, signed=signed, WindowCenter=center, WindowWidth=2**bits)
    expected = np.rint(FILM / 4095 * (2**bits - 1)) / (2**bits - 1)
    np.testing.assert_allclose(read(content).pixels[0], expected, atol=2 / 2**bits)


@pytest.mark.parametrize(("precision", "bits"), [(p, b) for p in range(9, 17) for b in range(9, 13) if p >= b])
def test_any_precision_from_the_stored_bits_up(precision: int, bits: int) -> None:
    words = np.rint(FILM / 4095 * (2**bits - 1)).astype(np.uint16)
    content = compressed(
        words, JPEG2000Lossless, precision, bits, signed=False, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits
    )
    np.testing.assert_allclose(read(content).pixels[0], words / (2**bits - 1), atol=2 / 2**bits)


def test_a_lossy_codestream_that_overshoots_is_clipped_not_wrapped() -> None:
    rng = np.random.default_rng(0)
    words = np.where(rng.random(FILM.shape) < 0.004, 4100, FILM).astype(np.uint16)  # as ringing beside white
    data = pydicom.dcmread(io.BytesIO(write(FILM, 12, **WINDOW)))
    data.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.91")
    stream = imagecodecs.jpeg2k_encode(words, codecformat="j2k", reversible=False, level=90, bitspersample=16)
    data.PixelData = encapsulate([bytes(stream)])
    data["PixelData"].is_undefined_length = True
    data["PixelData"].VR = "OB"
    assert np.abs(read(saved(data)).pixels[0] - np.minimum(words, 4095) / 4095).max() < 0.05


# Rasters of more than 8 bits and more than one channel


def deep(kind: str) -> np.ndarray:
    grey = (FILM * 16).astype(np.uint16)
    return {
        "grey": grey,
        "grey with alpha": np.stack([grey, np.full_like(grey, 40_000)], axis=-1),
        "rgb": np.stack([grey] * 3, axis=-1),
        "rgba": np.stack([grey] * 3 + [np.full_like(grey, 40_000)], axis=-1),
    }[kind]


@pytest.mark.parametrize("kind", ["grey", "grey with alpha", "rgb", "rgba"])
def test_a_png_of_16_bits_keeps_them(kind: str) -> None:
    plain, image = (read(bytes(imagecodecs.png_encode(deep(k)))).pixels for k in ("grey", kind))
    np.testing.assert_allclose(image, plain, atol=1e-6)


@pytest.mark.parametrize("kind", ["grey", "grey with alpha", "rgb", "rgba"])
@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize(
    "options",
    [{}, {"bigtiff": True}, {"byteorder": ">"}, {"tile": (32, 32)}, {"compression": "lzw"}, {"rowsperstrip": 7}],
    ids=lambda options: "-".join(map(str, options)) or "plain",
)
def test_a_tiff_of_any_depth_and_format_is_the_same_film(kind: str, dtype: str, options: dict[str, object]) -> None:
    values = deep(kind).astype(np.float64) / 65535
    scale = {"u": 1.0, "i": 1.0, "f": 0.0}[dtype[0]]
    if scale:
        info = np.iinfo(dtype)
        values = np.rint(values * (float(info.max) - float(info.min)) * 0.99 + float(info.min))
    photometric = "rgb" if kind.startswith("rgb") else "minisblack"
    alpha = {"extrasamples": ["unassalpha"]} if kind in ("rgba", "grey with alpha") else {}
    planar = {"planarconfig": "contig"} if values.ndim == 3 else {}
    stream = io.BytesIO()
    tifffile.imwrite(stream, values.astype(dtype), photometric=photometric, **planar, **alpha, **options)
    plain = read(bytes(imagecodecs.png_encode(deep("grey")))).pixels
    np.testing.assert_allclose(read(stream.getvalue()).pixels, plain, atol=1e-3)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f2"])
def test_a_tiff_in_planes_is_the_same_film(dtype: str) -> None:
    grey = (
        (FILM >> 4).astype("u1")
        if dtype == "u1"
        else (FILM * 16).astype(dtype)
        if dtype == "u2"
        else (FILM / 4095).astype("f2")
    )
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.stack([grey] * 3), photometric="rgb", planarconfig="separate")
    single = io.BytesIO()
    tifffile.imwrite(single, grey, photometric="minisblack")
    np.testing.assert_allclose(read(stream.getvalue()).pixels, read(single.getvalue()).pixels, atol=1e-4)


def test_signed_bytes_do_not_wrap() -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, (FILM // 16 - 128).astype(np.int8))
    pixels = read(stream.getvalue()).pixels[0]
    order = np.argsort(FILM, axis=None, kind="stable")
    assert (np.diff(pixels.ravel()[order]) >= -1e-6).all()


def test_what_is_not_supported_is_not_called_damaged() -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((16, 16, 4), np.uint8), photometric="separated")
    separated = refused(stream.getvalue())
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((16, 16, 3), np.uint8), photometric="cielab")
    lab = refused(stream.getvalue())
    twelve = refused(bytes(imagecodecs.jpeg8_encode(FILM.astype(np.uint16), bitspersample=12)))
    lossless = refused(bytes(imagecodecs.jpeg8_encode((FILM >> 4).astype(np.uint8), lossless=True)))
    for error, name in ((separated, "SEPARATED"), (lab, "CIELAB"), (twelve, "12 bits"), (lossless, "JPEG lossless")):
        assert error.status == Status.UNSUPPORTED_SYNTAX
        assert name in error.reason
        assert "damaged" not in error.reason


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
def test_a_cut_tiff_is_never_half_black(share: float, compression: str | None) -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, (FILM * 16).astype(np.uint16), compression=compression, rowsperstrip=8)
    whole = stream.getvalue()
    error = refused(whole[: int(len(whole) * share)])
    assert error.status == Status.UNREADABLE
    assert "cut" in error.reason


# Optional attributes without a usable value

OPTIONAL = (
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "WindowCenterWidthExplanation",
    "PresentationLUTShape",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelAspectRatio",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "StudyDate",
    "AcquisitionDate",
    "AcquisitionDateTime",
    "PatientID",
    "BodyPartExamined",
    "ViewPosition",
    "PatientOrientation",
    "Manufacturer",
    "SpecificCharacterSet",
)
ODD: dict[str, tuple[str, object]] = {
    "empty": ("LO", ""),
    "text": ("LO", "no finite value"),
    "several": ("LO", ["1", "", "x"]),
    "bytes": ("OB", b"\x01\x02\x03\x04"),
    "an empty sequence": ("SQ", Sequence([])),
    "a sequence of nothing": ("SQ", Sequence([Dataset()])),
    "not finite": ("LO", "nan"),
    "huge": ("LO", "1e400"),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("keyword", OPTIONAL)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=lambda uid: uid.keyword)
def test_an_optional_attribute_without_a_usable_value_counts_as_absent(keyword: str, odd: str, syntax: UID) -> None:
    """The radiograph is read as if the attribute were absent; where the grey scale would have needed it, that is said."""
    vr, value = ODD[odd]
    if (keyword, odd) == ("SpecificCharacterSet", "bytes"):
        vr, value = "LO", "\x01\x02"  # pydicom writes no other bytes there
    data = pydicom.dcmread(io.BytesIO(write(FILM, 12, **WINDOW, RescaleSlope=1, RescaleIntercept=0)))
    absent = pydicom.dcmread(io.BytesIO(write(FILM, 12, **WINDOW, RescaleSlope=1, RescaleIntercept=0)))
    if keyword in absent:
        del absent[keyword]
    with pydicom.config.disable_value_validation():
        data[keyword] = DataElement(keyword, vr, value, validation_mode=pydicom.config.IGNORE)
        stream = io.BytesIO()
        data.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(stream, data, implicit_vr=syntax.is_implicit_VR, little_endian=True, force_encoding=True)
    scan, without = read(stream.getvalue()), read(saved(absent))
    if not (keyword == "VOILUTFunction" and scan.grayscale.voi.endswith("of unknown function")):  # percentiles then
        np.testing.assert_array_equal(scan.pixels, without.pixels)
    if keyword in ("RescaleSlope", "WindowCenter", "WindowWidth"):
        assert f"no usable {dictionary_description(keyword)}" in scan.grayscale.ignored
    assert "Error" not in scan.grayscale.ignored


# Headers that map all pixels to one value


@pytest.mark.parametrize(
    "attributes",
    [
        {"RescaleSlope": 0, "RescaleIntercept": 0},
        {"RescaleSlope": 0, "RescaleIntercept": 2048},
        {"RescaleSlope": "1e-12", "RescaleIntercept": 0},
        {"RescaleSlope": 1, "RescaleIntercept": "1e9"},
        {"RescaleSlope": 1, "RescaleIntercept": "-1e9"},
        {"RescaleSlope": 1, "RescaleIntercept": "1e300"},
        {"WindowCenter": -5000, "WindowWidth": 10},
        {"WindowCenter": 50000, "WindowWidth": 10},
        {"WindowCenter": 2048, "WindowWidth": "1e12"},
    ],
    ids=str,
)
def test_a_header_that_makes_one_grey_of_all_pixels_is_not_obeyed_in_silence(attributes: dict[str, object]) -> None:
    scan = read(write(FILM, 12, **{**WINDOW, **attributes}))
    assert np.ptp(scan.pixels) > 0.6
    assert scan.grayscale.ignored.startswith("no usable") or "every pixel becomes the same" in scan.grayscale.voi


@pytest.mark.parametrize(("stated", "held"), [(16, 12), (16, 10), (16, 14), (14, 12), (12, 8)])
def test_a_voi_lut_that_holds_fewer_bits_than_it_states(stated: int, held: int) -> None:
    item = Dataset()
    item.LUTDescriptor = [4096, 0, stated]
    item["LUTDescriptor"].VR = "US"
    ramp = np.rint(np.arange(4096) / 4095 * (2**held - 1)).astype("<u2")
    item.LUTData = ramp.tobytes()
    item["LUTData"].VR = "OW"
    scan = read(write(FILM, 12, VOILUTSequence=[item]))
    np.testing.assert_allclose(scan.pixels[0], ramp[FILM] / (2**held - 1), atol=1e-5)
    assert f"of {held} bits, not the {stated} stated" in scan.grayscale.voi


# DICOM without a preamble


@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=UID.keyword.fget)
@pytest.mark.parametrize(
    "first",
    ["SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "AccessionNumber", "Modality"],
)
def test_a_data_set_that_begins_at_any_element_of_its_first_group(syntax: UID, first: str) -> None:
    data = pydicom.dcmread(io.BytesIO(write(FILM, 12, syntax, **WINDOW)))
    start = pydicom.tag.Tag(first)
    for tag in [tag for tag in data.keys() if tag < start]:  # noqa: SIM118
        del data[tag]
    if first not in data:
        setattr(data, first, {"StudyDate": "20200101", "ImageType": ["ORIGINAL", "PRIMARY"]}.get(first, "ISO_IR 100"))
    stream = io.BytesIO()
    little = syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(stream, without_meta(data), implicit_vr=syntax.is_implicit_VR, little_endian=little)
    np.testing.assert_allclose(read(stream.getvalue()).pixels[0], FILM / 4095, atol=1e-6)


def without_meta(data: Dataset) -> Dataset:
    bare = Dataset()
    bare.update({tag: data[tag] for tag in data.keys()})  # noqa: SIM118
    return bare


@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=UID.keyword.fget)
@pytest.mark.parametrize("prefix", [b"", b"DICM"])
def test_file_meta_information_without_a_preamble(syntax: UID, prefix: bytes) -> None:
    content = write(FILM, 12, syntax, **WINDOW)
    np.testing.assert_allclose(read(prefix + content[132:]).pixels[0], FILM / 4095, atol=1e-6)


def test_bytes_that_only_look_like_a_group_are_not_taken_for_dicom() -> None:
    for content in (b"\x08\x00\x00\x00" + b"\xff" * 60, b"\x02\x00" * 40, b"\x08\x00\x10\x00" + bytes(12)):
        assert refused(content).status in (Status.NOT_AN_IMAGE, Status.UNREADABLE, Status.NO_PIXELS)


# Cut files


@pytest.mark.parametrize("syntax", [*UNCOMPRESSED[:2], JPEGLSLossless, RLELossless], ids=UID.keyword.fget)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.97])
def test_a_cut_file_says_so(syntax: UID, share: float) -> None:
    whole = write(FILM, 12, syntax, **WINDOW)
    kept = whole[: int(len(whole) * share)]
    error = refused(kept)
    assert error.status == Status.UNREADABLE
    assert f"cut after {len(kept):,}" in error.reason


@pytest.mark.parametrize("missing", range(1, 9))
def test_a_compressed_film_that_lacks_only_its_delimiter_is_whole(missing: int) -> None:
    whole = write(FILM, 12, JPEGLSLossless, **WINDOW)
    np.testing.assert_allclose(read(whole[:-missing]).pixels[0], FILM / 4095, atol=1e-6)


@pytest.mark.parametrize("with_meta", [True, False])
def test_compressed_pixels_without_a_transfer_syntax_are_told_as_that(with_meta: bool) -> None:
    data = pydicom.dcmread(io.BytesIO(write(FILM, 12, JPEGLSLossless, **WINDOW)))
    if with_meta:
        del data.file_meta.TransferSyntaxUID
    stream = io.BytesIO()
    target = data if with_meta else without_meta(data)
    pydicom.dcmwrite(stream, target, implicit_vr=False, little_endian=True, force_encoding=True)
    assert "does not state its transfer syntax" in refused(stream.getvalue()).reason


# Padding behind pixels, and further objects behind a file


@pytest.mark.parametrize("padding", [2, 160, 512])
def test_zeros_behind_native_pixels_are_padding(padding: int) -> None:
    data = pydicom.dcmread(io.BytesIO(write(FILM, 12, **WINDOW)))
    data.PixelData += bytes(padding)
    scan = read(saved(data))
    np.testing.assert_allclose(scan.pixels[0], FILM / 4095, atol=1e-6)
    assert f"{padding} zero bytes" in scan.grayscale.ignored


def test_a_second_object_behind_the_first_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "two.dcm").write_bytes(write(FILM, 12, **WINDOW) + write(FILM // 2, 12, **WINDOW))
    first, second = read_scans(tmp_path / "two.dcm")
    assert isinstance(first, Scan)
    np.testing.assert_allclose(first.pixels[0], FILM / 4095, atol=1e-6)
    assert isinstance(second, Refusal)
    assert "not read" in second.reason


def test_frames_beyond_the_limit_are_a_row() -> None:
    content = write(np.stack([FILM] * 3), 12, frames=3)
    with pytest.raises(RefusedError, match="3 scans, the limit is 2") as error:
        list(read_dicom(content, Identity("x"), ReadConfig(max_frames=2)))
    assert error.value.status == Status.TOO_LARGE
    assert len(list(read_dicom(content, Identity("x"), ReadConfig(max_frames=2, frames="first")))) == 1


def test_a_signed_codestream_under_an_unsigned_header() -> None:
    """Values that are not negative are read; negative ones contradict the header and are refused."""
    data = pydicom.dcmread(io.BytesIO(write(FILM, 12, JPEG2000Lossless, **WINDOW)))
    for words in (FILM, FILM - 2048):
        stream = imagecodecs.jpeg2k_encode(words.astype(np.int16), codecformat="j2k", reversible=True, bitspersample=16)
        data.PixelData = encapsulate([bytes(stream)])
        data["PixelData"].is_undefined_length = True
        if words.min() >= 0:
            np.testing.assert_allclose(read(saved(data)).pixels[0], FILM / 4095, atol=1e-6)
        else:
            assert "negative" in refused(saved(data)).reason


def test_a_palette_of_8_bits_in_16_is_not_black_and_complex_values_are_not_read() -> None:
    palette = np.repeat(np.arange(256, dtype=np.uint16)[None], 3, axis=0)
    values = (FILM >> 4).astype(np.uint8)
    for colormap in (palette, palette * 257):
        stream = io.BytesIO()
        tifffile.imwrite(stream, values, photometric="palette", colormap=colormap)
        np.testing.assert_allclose(read(stream.getvalue()).pixels[0], values / 255, atol=1 / 255)
    stream = io.BytesIO()
    tifffile.imwrite(stream, values.astype(np.complex64))
    assert refused(stream.getvalue()).status == Status.UNSUPPORTED_SYNTAX


def test_padding_that_leaves_one_grey_is_not_obeyed() -> None:
    scan = read(write(FILM, 12, **WINDOW, PixelPaddingValue=0, PixelPaddingRangeLimit=4094))
    np.testing.assert_allclose(scan.pixels[0], FILM / 4095, atol=1e-6)
    assert scan.grayscale.ignored == "no usable Pixel Padding Value"


def palette(values: np.ndarray, bits: int) -> bytes:
    data = pydicom.dcmread(io.BytesIO(write(FILM >> 4, 8)))
    data.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, bits])
        data[f"{colour}PaletteColorLookupTableDescriptor"].VR = "US"
        setattr(data, f"{colour}PaletteColorLookupTableData", values.astype("<u2").tobytes())
    return saved(data)


def test_a_palette_of_one_grey_is_refused_and_a_narrow_one_is_not_black() -> None:
    assert "one grey" in refused(palette(np.zeros(256), 16)).reason
    for values in (np.arange(256) * 257, np.arange(256)):
        np.testing.assert_allclose(read(palette(values, 16)).pixels[0], (FILM >> 4) / 255, atol=1 / 255)


@pytest.mark.parametrize("keyword", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_functional_groups_that_are_none_count_as_absent(keyword: str) -> None:
    data = pydicom.dcmread(io.BytesIO(write(np.stack([FILM, FILM]), 12, frames=2, **WINDOW)))
    data.add(DataElement(keyword, "LO", "TEXT"))
    for scan in read_content(saved(data), Identity("x"), ReadConfig()):
        np.testing.assert_allclose(scan.pixels[0], FILM / 4095, atol=1e-6)
        assert "Functional Groups Sequence" in scan.grayscale.ignored


def test_an_empty_window_of_a_frame_leaves_the_one_that_is_stated() -> None:
    data = pydicom.dcmread(io.BytesIO(write(np.stack([FILM, FILM]), 12, frames=2, **WINDOW)))
    group, macro = Dataset(), Dataset()
    macro.WindowCenter = macro.WindowWidth = None
    group.FrameVOILUTSequence = [macro]
    data.PerFrameFunctionalGroupsSequence = [group, group]
    for scan in read_content(saved(data), Identity("x"), ReadConfig()):
        np.testing.assert_allclose(scan.pixels[0], FILM / 4095, atol=1e-6)
        assert "no usable Window Center" in scan.grayscale.ignored
