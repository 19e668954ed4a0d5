"""The same radiograph stored in every way gives the same image, and that image is the one the standard asks for."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from medood.config.schema import ReadConfig
from medood.scans.dicom.reader import read_dicom
from medood.scans.scan import Identity, RefusedError, Scan, Status
from tests.scans.films import LOSSLESS, LOSSY, NATIVE, film, saved, segmentation, write

FILM = film()
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}
EXACT = 1 / 255
NEAR = 4 / 255


def scans(content: bytes, **options: object) -> list[Scan]:
    return list(read_dicom(content, Identity("x", sha256="0" * 64), ReadConfig(**options)))  # type: ignore[arg-type]


def image(content: bytes) -> np.ndarray:
    (scan,) = scans(content)
    return scan.pixels[0]


def same(found: np.ndarray, tolerance: float = EXACT) -> None:
    """The radiograph over its 4096 values, as PS3.3 C.11.2.1.2 maps a window of center 2048 and width 4096."""
    np.testing.assert_allclose(found, FILM / 4095, atol=tolerance)


def test_the_film_is_read_as_it_was_written() -> None:
    np.testing.assert_allclose(image(write(FILM, **WINDOW)), FILM / 4095, atol=1e-6)


@pytest.mark.parametrize("syntax", NATIVE + LOSSLESS, ids=lambda uid: uid.keyword)
def test_every_lossless_transfer_syntax(syntax: UID) -> None:
    np.testing.assert_allclose(image(write(FILM, syntax=syntax, **WINDOW)), FILM / 4095, atol=1e-6)


@pytest.mark.parametrize("syntax", LOSSY, ids=lambda uid: uid.keyword)
def test_every_lossy_transfer_syntax(syntax: UID) -> None:
    if syntax == JPEGBaseline8Bit:
        same(image(write(FILM >> 4, 8, syntax, WindowCenter=128, WindowWidth=256)), NEAR)
    else:
        same(image(write(FILM, syntax=syntax, **WINDOW)), NEAR)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_any_number_of_bits(bits: int) -> None:
    stored = np.rint(FILM / 4095 * (2**bits - 1)).astype(np.int64)
    same(image(write(stored, bits, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits)))


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless], ids=lambda uid: uid.keyword)
def test_a_high_bit_that_is_not_the_lowest_place(syntax: UID) -> None:
    np.testing.assert_allclose(image(write(FILM, syntax=syntax, HighBit=15, **WINDOW)), FILM / 4095, atol=1e-6)


def test_bits_above_the_stored_ones_are_not_looked_at() -> None:
    parsed = pydicom.dcmread(io.BytesIO(write(FILM, **WINDOW)))
    words = np.frombuffer(parsed.PixelData, "<u2") | 0x5000  # overlay planes of old radiographs lie there
    parsed.PixelData = words.tobytes()
    same(image(saved(parsed)), 1e-6)


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS], ids=lambda uid: uid.keyword)
def test_signed_with_rescale(syntax: UID) -> None:
    linear = {"WindowCenter": 4096, "WindowWidth": 8190.5, "VOILUTFunction": "LINEAR_EXACT"}
    content = write(FILM - 1024, 16, syntax, RescaleSlope=2, RescaleIntercept=2048, **linear)
    same(image(content), 2e-3)


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless, JPEGLSLossless, JPEGLosslessSV1], ids=lambda uid: uid.keyword)
def test_twelve_signed_bits_in_sixteen(syntax: UID) -> None:
    content = write(FILM - 2048, 12, syntax, PixelRepresentation=1, WindowCenter=0, WindowWidth=4096)
    same(image(content), 1e-3)


@pytest.mark.parametrize("attributes", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}])
@pytest.mark.parametrize("both", [False, True])
def test_either_attribute_inverts_and_both_do_not_cancel(attributes: dict[str, str], both: bool) -> None:
    if both:
        attributes = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    (scan,) = scans(write(4095 - FILM, **WINDOW, **attributes))
    same(scan.pixels[0], 1e-6)
    assert scan.grayscale.inverted in ("MONOCHROME1", "PresentationLUTShape INVERSE")


def test_inversion_is_against_the_stored_range_not_the_maximum_of_the_data() -> None:
    dark = FILM // 2
    inverted = image(write(4095 - dark, PhotometricInterpretation="MONOCHROME1", **WINDOW))
    np.testing.assert_allclose(inverted, dark / 4095, atol=1e-6)


def lut(table: np.ndarray, first: int, bits: int) -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = [len(table) % 65536, first, bits]
    item.LUTData = table.astype("<u2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    return [item]


def test_a_window_and_the_equal_voi_lut_agree() -> None:
    values = np.arange(4096)
    windowed = np.clip((values - 1499.5) / 1999 + 0.5, 0, 1)
    table = np.rint(windowed * 65535)
    by_lut = scans(write(FILM, VOILUTSequence=lut(table, 0, 16)))[0]
    by_window = scans(write(FILM, WindowCenter=1500, WindowWidth=2000))[0]
    np.testing.assert_allclose(by_lut.pixels, by_window.pixels, atol=EXACT)
    assert by_lut.grayscale.voi == "voi lut 1/1"
    assert by_window.grayscale.voi == "window 1/1 center=1500 width=2000 LINEAR"


def test_a_voi_lut_comes_before_a_window_and_the_first_of_several_views_is_taken() -> None:
    table = np.rint(np.arange(4096) / 4095 * 255)
    content = write(FILM, VOILUTSequence=lut(table, 0, 8) + lut(table[::-1], 0, 8), WindowCenter=10, WindowWidth=20)
    (scan,) = scans(content)
    same(scan.pixels[0])
    assert scan.grayscale.voi == "voi lut 1/2"
    (scan,) = scans(write(FILM, WindowCenter=[2048, 10], WindowWidth=[4096, 20]))
    same(scan.pixels[0])
    assert scan.grayscale.voi == "window 1/2 center=2048 width=4096 LINEAR"


def test_a_voi_lut_of_a_big_endian_file() -> None:
    item = lut(np.arange(4096) * 16, 0, 16)
    item[0].LUTData = np.frombuffer(item[0].LUTData, "<u2").astype(">u2").tobytes()
    same(image(write(FILM, syntax=ExplicitVRBigEndian, VOILUTSequence=item)))


def test_a_modality_lut_comes_before_the_window() -> None:
    sequence = lut(4095 - np.arange(4096), 0, 16)
    sequence[0].ModalityLUTType = "US"
    (scan,) = scans(write(4095 - FILM, ModalityLUTSequence=sequence, **WINDOW))
    same(scan.pixels[0], 1e-6)
    assert scan.grayscale.modality_lut == "modality lut"


def test_the_window_is_in_units_after_rescale() -> None:
    content = write(FILM, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=1024, WindowWidth=4096)
    same(image(content), 1e-6)


def test_palette_colour_becomes_luminance() -> None:
    ramp = np.arange(256, dtype=np.uint8)
    attributes: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, data in (("Red", ramp), ("Green", 255 - ramp), ("Blue", 0 * ramp)):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        attributes[f"{colour}PaletteColorLookupTableData"] = data.tobytes()
    indices = FILM >> 4
    (scan,) = scans(write(indices, 8, **attributes))
    np.testing.assert_allclose(scan.pixels[0], (0.299 * indices + 0.587 * (255 - indices)) / 255, atol=EXACT)
    assert scan.grayscale.modality_lut == "palette"


def colours() -> np.ndarray:
    rgb = np.stack([FILM >> 4, 255 - (FILM >> 4), (FILM >> 5) + 60], axis=-1)
    return np.clip(rgb, 0, 255)


LUMINANCE = (colours() @ np.array([0.299, 0.587, 0.114])) / 255


@pytest.mark.parametrize("syntax", [*NATIVE, JPEGLosslessSV1, JPEGLSLossless], ids=lambda uid: uid.keyword)
def test_rgb_becomes_luminance(syntax: UID) -> None:
    np.testing.assert_allclose(image(write(colours(), 8, syntax)), LUMINANCE, atol=EXACT)


def test_planar_configuration() -> None:
    parsed = pydicom.dcmread(io.BytesIO(write(colours(), 8)))
    parsed.PlanarConfiguration = 1
    parsed.PixelData = np.ascontiguousarray(colours().astype(np.uint8).transpose(2, 0, 1)).tobytes()
    np.testing.assert_allclose(image(saved(parsed)), LUMINANCE, atol=EXACT)


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422"])
def test_ybr_becomes_luminance(photometric: str) -> None:
    rgb = colours().astype(np.float64)
    weights = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ybr = rgb @ weights.T + np.array([0, 128, 128])
    if photometric == "YBR_FULL_422":
        ybr[:, 1::2, 1:] = ybr[:, ::2, 1:]
    words = np.clip(np.rint(ybr), 0, 255).astype(np.uint8)
    parsed = pydicom.dcmread(io.BytesIO(write(colours(), 8)))
    parsed.PhotometricInterpretation = photometric
    packed = np.stack([words[:, ::2, 0], words[:, 1::2, 0], words[:, ::2, 1], words[:, ::2, 2]], axis=-1)
    parsed.PixelData = (words if photometric == "YBR_FULL" else packed).tobytes()
    np.testing.assert_allclose(image(saved(parsed)), LUMINANCE, atol=NEAR)


def test_one_bit_pictures() -> None:
    mask = FILM > 2000
    np.testing.assert_array_equal(image(segmentation(mask)), mask)


def test_overlays_are_left_out_and_that_is_said() -> None:
    parsed = pydicom.dcmread(io.BytesIO(write(FILM, **WINDOW)))
    for group in (0x6000, 0x6002):
        parsed.add_new((group, 0x0010), "US", FILM.shape[0])
        parsed.add_new((group, 0x0011), "US", FILM.shape[1])
        parsed.add_new((group, 0x3000), "OW", bytes(FILM.size // 8))
    (scan,) = scans(saved(parsed))
    same(scan.pixels[0], 1e-6)
    assert scan.grayscale.ignored == "2 overlays"


@pytest.mark.parametrize(
    ("attributes", "spacing", "source", "aspect"),
    [
        ({"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.3, 0.3]}, (0.2, 0.1), "PixelSpacing", 2.0),
        ({"ImagerPixelSpacing": [0.15, 0.15]}, (0.15, 0.15), "ImagerPixelSpacing", 1.0),
        ({"PixelAspectRatio": [3, 2]}, None, "none", 1.5),
        ({"PixelSpacing": [0, 0]}, None, "none", 1.0),
        ({}, None, "none", 1.0),
    ],
)
def test_spacing_and_where_it_is_from(attributes: dict[str, object], spacing: object, source: str, aspect: float) -> None:
    (scan,) = scans(write(FILM, **attributes))
    assert (scan.spacing, scan.spacing_source, scan.aspect) == (spacing, source, aspect)


def several(syntax: UID) -> bytes:
    stack = np.stack([FILM, FILM // 2, FILM // 3, FILM // 4, FILM // 5])
    return write(stack, syntax=syntax, frames=5, **WINDOW)


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize(
    ("choice", "expected"), [("all", [0, 1, 2, 3, 4]), ("first", [0]), ("middle", [2]), ("every 2", [0, 2, 4])]
)
def test_frames_become_scans(syntax: UID, choice: str, expected: list[int]) -> None:
    found = scans(several(syntax), frames=choice)
    assert [scan.identity.frame for scan in found] == expected
    for scan in found:
        np.testing.assert_allclose(scan.pixels[0], FILM // (scan.identity.frame + 1) / 4095, atol=1e-3)


def test_an_enhanced_object_has_the_grey_scale_and_spacing_of_each_frame() -> None:
    parsed = pydicom.dcmread(io.BytesIO(several(NATIVE[1])))
    del parsed.WindowCenter, parsed.WindowWidth
    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 0.25]
    shared.PixelMeasuresSequence = [measures]
    parsed.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for index in range(5):
        rescale, window = Dataset(), Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = index + 1, 0, "US"
        window.WindowCenter, window.WindowWidth = 2048, 4096
        group = Dataset()
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [rescale], [window]
        groups.append(group)
    parsed.PerFrameFunctionalGroupsSequence = groups
    for scan in scans(saved(parsed)):
        np.testing.assert_allclose(scan.pixels[0], FILM / 4095, atol=2e-3)
        assert scan.spacing == (0.5, 0.25)
        assert scan.grayscale.modality_lut == f"rescale slope={scan.identity.frame + 1} intercept=0"


CONTRADICTIONS = {
    "a row more": {"Rows": 97},
    "a column less": {"Columns": 79},
    "a column more": {"Columns": 81},
    "eight bits": {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
    "more bits than allocated": {"BitsStored": 17},
    "three samples": {"SamplesPerPixel": 3},
    "another photometric interpretation": {"PhotometricInterpretation": "RGB"},
    "no photometric interpretation": {"PhotometricInterpretation": None},
    "one that does not exist": {"PhotometricInterpretation": "MONOCHROM"},
    "no columns": {"Columns": 0},
    "frames that are not there": {"NumberOfFrames": 4},
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
@pytest.mark.parametrize("syntax", [NATIVE[1], *LOSSLESS], ids=lambda uid: uid.keyword)
def test_a_header_that_contradicts_its_pixel_data_is_refused(what: str, syntax: UID) -> None:
    parsed = pydicom.dcmread(io.BytesIO(write(FILM, syntax=syntax, **WINDOW)))
    for name, value in CONTRADICTIONS[what].items():
        setattr(parsed, name, value) if value is not None else delattr(parsed, name)
    with pytest.raises(RefusedError) as refused:
        scans(saved(parsed))
    assert refused.value.status == Status.UNREADABLE
    assert "Secret" not in refused.value.reason


@pytest.mark.parametrize("syntax", [NATIVE[1], *LOSSLESS], ids=lambda uid: uid.keyword)
def test_frames_that_the_header_does_not_count_are_not_dropped_in_silence(syntax: UID) -> None:
    parsed = pydicom.dcmread(io.BytesIO(several(syntax)))
    del parsed.NumberOfFrames
    with pytest.raises(RefusedError):
        scans(saved(parsed))


@pytest.mark.parametrize("declared", LOSSLESS + LOSSY, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.keyword)
def test_another_transfer_syntax_than_the_data_never_gives_another_picture(syntax: UID, declared: UID) -> None:
    content = write(FILM, syntax=syntax, **WINDOW)
    parsed = pydicom.dcmread(io.BytesIO(content))
    parsed.file_meta.TransferSyntaxUID = declared
    try:
        found = scans(saved(parsed))
    except RefusedError as refused:
        assert refused.status in (Status.UNREADABLE, Status.UNSUPPORTED_SYNTAX)
    else:
        same(found[0].pixels[0], 1e-6)


@pytest.mark.parametrize("syntax", [s for s in LOSSLESS if s != RLELossless], ids=lambda uid: uid.keyword)
def test_the_samples_of_a_codestream_lie_lowest_whatever_high_bit_says(syntax: UID) -> None:
    parsed = pydicom.dcmread(io.BytesIO(write(FILM, syntax=syntax, **WINDOW)))
    parsed.HighBit = 15
    same(image(saved(parsed)), 1e-6)


def refused(content: bytes, status: Status = Status.UNREADABLE) -> str:
    with pytest.raises(RefusedError) as error:
        scans(content)
    assert error.value.status == status
    return error.value.reason


@pytest.mark.parametrize("high_bit", [16, 20, 31])
def test_a_high_bit_outside_the_word_is_refused(high_bit: int) -> None:
    parsed = pydicom.dcmread(io.BytesIO(write(FILM, **WINDOW)))
    parsed.HighBit = high_bit
    assert "High Bit" in refused(saved(parsed))


def test_colours_outside_their_bits_are_refused() -> None:
    parsed = pydicom.dcmread(io.BytesIO(write(colours(), 8)))
    parsed.PixelRepresentation = 1
    refused(saved(parsed))
    parsed = pydicom.dcmread(io.BytesIO(write(colours() * 16, 12)))
    parsed.BitsStored, parsed.HighBit = 8, 7
    refused(saved(parsed))


def test_colours_of_a_codestream_are_over_its_own_bits() -> None:
    parsed = pydicom.dcmread(io.BytesIO(write(colours(), 8, JPEGLosslessSV1)))
    parsed.BitsAllocated, parsed.BitsStored, parsed.HighBit = 16, 12, 11
    np.testing.assert_allclose(image(saved(parsed)), LUMINANCE, atol=EXACT)


RAMP = np.arange(4096) * 16


@pytest.mark.parametrize("entries", [100, 4095])
def test_a_lut_shorter_than_its_descriptor_counts_as_absent(entries: int) -> None:
    item = lut(RAMP, 0, 16)
    item[0].LUTData = RAMP[:entries].astype("<u2").tobytes()
    assert_counts_as_absent("VOILUTSequence", item)


@pytest.mark.parametrize("bits", [0, 1, 17, 40])
def test_a_lut_of_impossible_depth_counts_as_absent(bits: int) -> None:
    assert_counts_as_absent("VOILUTSequence", lut(RAMP, 0, bits))


def assert_counts_as_absent(keyword: str, value: object) -> None:
    """The radiograph is read as without the attribute, and its name is noted."""
    (scan,) = read_dicom(write(FILM, **WINDOW, **{keyword: value}), Identity("x"))
    assert np.array_equal(scan.pixels[0], image(write(FILM, **WINDOW)))
    assert scan.grayscale.ignored == f"no usable {dictionary_description(keyword)}"


@pytest.mark.parametrize("vr", ["OW", "US"])
def test_a_lut_of_eight_bits_two_entries_a_word(vr: str) -> None:
    item = lut(RAMP, 0, 8)
    packed = (np.arange(4096) >> 4).astype(np.uint8)
    item[0].LUTData = packed.tobytes() if vr == "OW" else packed.view("<u2").tolist()
    item[0]["LUTData"].VR = vr
    same(image(write(FILM, VOILUTSequence=item)))
    modality = [Dataset()]
    modality[0].update(item[0])
    same(image(write(FILM, ModalityLUTSequence=modality, WindowCenter=128, WindowWidth=256)))


def test_the_first_value_of_a_lut_is_signed_where_the_values_are() -> None:
    table = np.arange(4096) * 16
    signed = FILM - 2048
    as_unsigned = 65536 - 2048
    same(image(write(signed, 16, ModalityLUTSequence=lut(table, as_unsigned, 16), WindowCenter=32768, WindowWidth=65536)))
    same(image(write(signed, 16, VOILUTSequence=lut(table, as_unsigned, 16))))
    rescaled = {"RescaleSlope": 1, "RescaleIntercept": -2048}
    same(image(write(FILM, VOILUTSequence=lut(table, as_unsigned, 16), **rescaled)))
    # behind a modality LUT values are never negative
    high = lut(np.arange(4096) + 34000, as_unsigned, 16)
    same(image(write(signed, 16, ModalityLUTSequence=high, VOILUTSequence=lut(table, 34000, 16))))


def test_a_deflated_bomb_is_refused_early() -> None:
    import resource
    import zlib

    small = write(FILM, syntax=NATIVE[3], **WINDOW)
    start = 144 + int.from_bytes(small[140:144], "little")
    pack = zlib.compressobj(9, wbits=-15)
    bomb = small[:start] + pack.compress(bytes(300 * 1024**2)) + pack.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "unpacks to more" in refused(bomb, Status.TOO_LARGE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    refused(small[:-40])
    (scan,) = scans(small)
    assert scan.attributes["TransferSyntax"] == "Deflated Explicit VR Little Endian"


def test_a_segmented_palette_that_unfolds_without_end_is_refused() -> None:
    linear = np.array([0, 1, 5] + [1, 65535, 9] * 300, "<u2").tobytes()
    attributes: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        attributes[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        attributes[f"Segmented{colour}PaletteColorLookupTableData"] = linear
    assert "expands" in refused(write(FILM >> 4, 8, **attributes))


def test_an_enhanced_object_without_a_group_for_each_frame_is_refused() -> None:
    parsed = pydicom.dcmread(io.BytesIO(several(NATIVE[1])))
    parsed.PerFrameFunctionalGroupsSequence = [Dataset(), Dataset()]
    assert "functional groups" in refused(saved(parsed))


def test_a_signed_codestream_under_an_unsigned_header_is_refused() -> None:
    import imagecodecs
    from pydicom.encaps import encapsulate

    parsed = pydicom.dcmread(io.BytesIO(write(FILM, syntax=LOSSLESS[4], **WINDOW)))
    signed = imagecodecs.jpeg2k_encode((FILM - 2048).astype(np.int16), codecformat="j2k", reversible=True, bitspersample=12)
    parsed.PixelData = encapsulate([bytes(signed)])
    assert "unsigned" in refused(saved(parsed))


def test_a_jpeg_2000_frame_without_all_its_tiles_is_refused() -> None:
    from medood.scans.dicom.bitstream_header import describe

    parsed = pydicom.dcmread(io.BytesIO(write(FILM, syntax=LOSSLESS[4], **WINDOW)))
    data = bytearray(next(iter(pydicom.encaps.generate_frames(parsed.PixelData, number_of_frames=1))))
    assert describe(bytes(data)).rows == 96
    place = data.index(b"\xff\x51")
    for offset, value in ((6, 800), (10, 960)):  # Xsiz and Ysiz, with the tiles as they were
        data[place + offset : place + offset + 4] = value.to_bytes(4, "big")
    with pytest.raises(ValueError, match="tiles but hold fewer"):
        describe(bytes(data))


@pytest.mark.parametrize("padding", [b"", b"\0\0", b"    ", b"\xff\xff", b" "])
def test_padding_behind_an_end_marker(padding: bytes) -> None:
    from pydicom.encaps import encapsulate

    parsed = pydicom.dcmread(io.BytesIO(write(FILM, syntax=JPEGLosslessSV1, **WINDOW)))
    data = next(iter(pydicom.encaps.generate_frames(parsed.PixelData, number_of_frames=1))).rstrip(b"\0")
    parsed.PixelData = encapsulate([data + padding])
    same(image(saved(parsed)), 1e-6)


def test_padding_of_float_pictures() -> None:
    parsed = pydicom.dcmread(io.BytesIO(write(FILM)))
    values = (FILM / 4095).astype("<f4")
    values[:5] = -99999
    parsed.FloatPixelData, parsed.FloatPixelPaddingValue = values.tobytes(), -99999
    parsed.BitsAllocated = 32
    del parsed.PixelData, parsed.BitsStored, parsed.HighBit, parsed.PixelRepresentation
    found = image(saved(parsed))
    assert found[:5].max() == 0
    assert found[5:].max() == 1
    assert 0.2 < found[5:].mean() < 0.9


def test_a_class_identifier_that_runs_on_into_the_patient_is_not_shown() -> None:
    parsed = pydicom.dcmread(io.BytesIO(write(FILM)))
    parsed.SOPClassUID = parsed.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    del parsed.PixelData
    data = bytearray(saved(parsed))
    place = data.index(b"\x08\x00\x16\x00UI")
    data[place + 6 : place + 8] = (200).to_bytes(2, "little")
    try:
        reason = refused(bytes(data), Status.NOT_AN_IMAGE)
    except AssertionError:
        reason = refused(bytes(data))
    assert "Secret" not in reason
