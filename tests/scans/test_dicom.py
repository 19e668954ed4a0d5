from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.scans.dicom.reader import read_dicom
from medood.scans.reader import read_scans
from medood.scans.scan import Identity, Refusal, RefusedError, Scan, Status
from tests.scans.films import film, saved, write

PICTURE = np.linspace(0, 1, 48 * 40).reshape(48, 40)


def changed(**attributes: object) -> bytes:
    """A phantom with some attributes set, or removed where the value is None."""
    data = pydicom.dcmread(io.BytesIO(dicom_bytes(PICTURE, "two")))
    for name, value in attributes.items():
        if value is None:
            del data[name]
        else:
            setattr(data, name, value)
    return encoded(data)


def encoded(data: Dataset) -> bytes:
    stream = io.BytesIO()
    data.save_as(stream)
    return stream.getvalue()


def read(content: bytes) -> Scan:
    return next(read_dicom(content, Identity("x", sha256="0" * 64)))


@pytest.mark.parametrize("name", ["one", "two", "three", "four"])
def test_a_phantom_is_read_as_it_was_drawn_whatever_its_photometric_interpretation(name: str) -> None:
    scan = read(dicom_bytes(PICTURE, name))
    assert scan.pixels.shape == (1, 48, 40)
    assert scan.pixels.dtype == np.float32
    assert np.abs(scan.pixels[0] - PICTURE).max() < 1 / 1000
    assert scan.grayscale.voi == "window 1/1 center=2048 width=4096 LINEAR"


def test_both_photometric_interpretations_occur_among_phantoms() -> None:
    seen = {read(dicom_bytes(PICTURE, f"n{i}")).grayscale.inverted for i in range(8)}
    assert seen == {"no", "PresentationLUTShape INVERSE"}


def test_monochrome1_without_presentation_shape_is_inverted() -> None:
    plain = read(changed(PresentationLUTShape=None, PhotometricInterpretation="MONOCHROME2"))
    inverted = read(changed(PresentationLUTShape=None, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(inverted.pixels, 1 - plain.pixels, atol=1e-6)
    assert inverted.grayscale.inverted == "MONOCHROME1"


def test_ct_in_hounsfield_units_is_windowed() -> None:
    scan = read(dicom_bytes(PICTURE, "ct", modality="CT"))
    assert np.abs(scan.pixels[0] - PICTURE).max() < 1 / 500
    assert scan.grayscale.modality_lut == "rescale slope=1 intercept=0"
    assert scan.spacing == (1.4, 1.4)


def test_no_window_falls_back_to_percentiles_and_says_so() -> None:
    scan = read(changed(WindowCenter=None, WindowWidth=None))
    assert scan.grayscale.voi == "percentile 0.5-99.5"
    assert scan.pixels.min() == 0
    assert scan.pixels.max() == 1


def test_a_window_of_no_width_falls_back_and_says_so() -> None:
    scan = read(changed(WindowWidth=0))
    assert scan.grayscale.voi.startswith("percentile 0.5-99.5, instead of the unusable window 1/1")


def test_no_patient_attribute_is_kept() -> None:
    scan = read(dicom_bytes(PICTURE, "somebody"))
    assert "somebody" not in repr(scan.attributes)
    assert scan.patient
    assert "somebody" not in scan.patient


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (dicom_bytes(PICTURE, "two")[:1500], Status.UNREADABLE),
        (dicom_bytes(PICTURE, "two")[:-1000], Status.UNREADABLE),
        (changed(PixelData=None), Status.NO_PIXELS),
        (changed(Rows=None), Status.UNREADABLE),
        (changed(Rows=60000, Columns=60000), Status.TOO_LARGE),
        (changed(BitsAllocated=13), Status.UNREADABLE),
        (dicom_bytes(PICTURE, "two").replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"), Status.UNSUPPORTED_SYNTAX),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(content: bytes, status: Status) -> None:
    with pytest.raises(RefusedError) as refused:
        list(read_dicom(content, Identity("x")))
    assert refused.value.status == status
    assert len(refused.value.reason) > 10


def test_flipped_bytes_in_a_header_never_raise(tmp_path: Path) -> None:
    """Damage parses lazily in pydicom: wherever it shows, the file becomes a row."""
    content = dicom_bytes(PICTURE, "two")
    rng = np.random.default_rng(0)
    for i in range(400):
        damaged = bytearray(content)
        damaged[int(rng.integers(132, 1500))] ^= int(rng.integers(1, 256))
        (tmp_path / "a.dcm").write_bytes(bytes(damaged))
        results = list(read_scans(tmp_path / "a.dcm"))
        assert results, i
        assert all(np.isfinite(r.pixels).all() for r in results if isinstance(r, Scan)), i


def test_values_that_are_no_numbers_count_as_absent() -> None:
    how = read(changed(WindowCenter="nan")).grayscale
    assert (how.voi, how.ignored) == ("percentile 0.5-99.5", "no usable Window Center")
    how = read(changed(RescaleSlope="1e400", WindowCenter=None, WindowWidth=None)).grayscale
    assert (how.modality_lut, how.ignored) == ("none", "no usable Rescale Slope")


def test_colour_of_twelve_bits_in_sixteen_is_not_dark() -> None:
    data = pydicom.dcmread(io.BytesIO(dicom_bytes(PICTURE, "two")))
    data.PhotometricInterpretation, data.SamplesPerPixel, data.PlanarConfiguration = "RGB", 3, 0
    data.PixelData = np.full((48, 40, 3), 4095, "<u2").tobytes()
    assert read(encoded(data)).pixels.min() == pytest.approx(1)


def test_padding_and_voi_lut_of_signed_pictures_written_as_unsigned() -> None:
    data = pydicom.dcmread(io.BytesIO(dicom_bytes(PICTURE, "ct", modality="CT")))
    stored = np.rint(PICTURE * 1000 - 100).astype("<i2")
    stored[:5] = -2000
    data.PixelData = stored.tobytes()
    data.BitsStored, data.HighBit = 16, 15
    data.add_new("PixelPaddingValue", "US", 65536 - 2000)
    del data.WindowCenter, data.WindowWidth
    scan = read(encoded(data))
    assert scan.pixels[0, :5].max() == 0
    assert scan.pixels[0, 5:].max() == 1
    assert scan.pixels[0, 6:8].max() < 0.3
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [1200, 65536 - 100, 8])
    item.add_new("LUTData", "OW", np.clip(np.arange(1200) // 4, 0, 255).astype("<u2").tobytes())
    data.VOILUTSequence = [item]
    assert read(encoded(data)).pixels[0, -1].min() > 0.9


def test_pixel_data_without_a_value_are_counted_as_no_bytes() -> None:
    data = pydicom.dcmread(io.BytesIO(dicom_bytes(PICTURE, "two")))
    data["PixelData"].value = None
    with pytest.raises(RefusedError, match="the pixel data hold 0 bytes, the header describes"):
        read(encoded(data))


def test_a_frame_that_cannot_be_decoded_keeps_the_frames_before_it(tmp_path: Path) -> None:
    data = pydicom.dcmread(io.BytesIO(dicom_bytes(PICTURE, "two")))
    data.NumberOfFrames = 3
    data.PixelData = data.PixelData * 2 + data.PixelData[:100]
    (tmp_path / "a.dcm").write_bytes(encoded(data))
    *scans, last = read_scans(tmp_path / "a.dcm")
    assert isinstance(last, Refusal)
    assert last.identity.frame == len(scans)


@pytest.mark.parametrize(
    ("uid", "words"),
    [
        ("1.2.840.10008.5.1.4.1.1.481.2", "a distribution of radiation dose (RT Dose Storage)"),
        ("1.2.840.10008.5.1.4.1.1.66.4", "a segmentation (Segmentation Storage)"),
        ("1.2.840.10008.5.1.4.1.1.30", "a map of measured values (Parametric Map Storage)"),
    ],
)
def test_pixel_data_that_are_no_picture_are_refused(uid: str, words: str) -> None:
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(frontal_chest(1, 32).image, "x")))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid
    stream = io.BytesIO()
    dataset.save_as(stream)
    with pytest.raises(RefusedError, match=re.escape(words)) as caught:
        list(read_dicom(stream.getvalue(), Identity("x")))
    assert caught.value.status == Status.NOT_AN_IMAGE


@pytest.mark.parametrize("rows", [23, 25])
def test_rle_whose_length_contradicts_the_header_is_refused(rows: int) -> None:
    content = pydicom.dcmread(io.BytesIO(write(film(24, 20), syntax=RLELossless)))
    content.Rows = rows
    with pytest.raises(RefusedError, match="decoded") as refused:
        list(read_dicom(saved(content), Identity("film")))
    assert refused.value.status == Status.UNREADABLE
