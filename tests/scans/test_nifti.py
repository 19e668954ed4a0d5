"""NIfTI volumes: orientation, grey values, damage."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medood.config.schema import ReadConfig
from medood.scans.nifti import read_nifti
from medood.scans.reader import read_scans
from medood.scans.scan import Identity, Refusal, RefusedError, Scan, Status

SHAPE = (7, 6, 5)


def marked(axes: str) -> bytes:
    """A volume stored along ``axes``; its values fall by 1 to the right, by 10 to the front, by 100 to the head."""
    right, front, head = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    volume = (1000 - right - 10 * front - 100 * head).astype(np.int16)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    target = nibabel.orientations.axcodes2ornt(axes)
    turn = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), target)
    orientations = nibabel.orientations.apply_orientation(volume, turn)
    image = nibabel.Nifti1Image(orientations, affine @ nibabel.orientations.inv_ornt_aff(turn, SHAPE))
    image.header.set_xyzt_units("mm")
    image.header["cal_min"], image.header["cal_max"] = 0, 1000
    return bytes(image.to_bytes())


def scans(content: bytes, **options: object) -> list[Scan]:
    return list(read_nifti(content, Identity("x"), ReadConfig(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "ASR", "SPL", "PIR"])
@pytest.mark.parametrize(
    ("plane", "shape", "spacing", "down", "across", "through"),
    [
        ("axial", (6, 7), (2, 1), 10, 1, -100),
        ("coronal", (5, 7), (3, 1), 100, 1, -10),
        ("sagittal", (5, 6), (3, 2), 100, 10, -1),
    ],
)
def test_however_it_is_stored_a_slice_is_seen_as_on_a_film(
    axes: str, plane: str, shape: tuple[int, int], spacing: tuple[float, float], down: int, across: int, through: int
) -> None:
    """Head or front up, the patient's right on the left: values rise by what the opposite direction falls."""
    found = scans(marked(axes), plane=plane)
    first = found[0].pixels[0] * 1000
    assert first.shape == shape
    np.testing.assert_allclose(np.diff(first, axis=0), down, atol=1e-3)
    np.testing.assert_allclose(np.diff(first, axis=1), across, atol=1e-3)
    np.testing.assert_allclose(found[1].pixels[0] * 1000 - first, through, atol=1e-3)
    assert found[0].spacing == pytest.approx(spacing)
    assert found[0].spacing_source == "NIfTI affine"
    assert found[0].aspect == pytest.approx(spacing[0] / spacing[1])
    assert found[0].grayscale.voi == "window cal_min=0 cal_max=1000"


def test_frames_of_a_series_in_time(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    content = bytes(nibabel.Nifti1Image(volume, np.eye(4)).to_bytes())
    found = scans(content, frames="every 6")
    assert [scan.identity.frame for scan in found] == [0, 6, 12]
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    assert len(list(read_scans(tmp_path))) == 18
    low, high = np.percentile(volume, (0.5, 99.5))
    expected = np.clip((volume[::-1, ::-1, 2, 1].T - low) / (high - low), 0, 1)
    np.testing.assert_allclose(scans(content)[8].pixels[0], expected, atol=1e-6)


@pytest.mark.parametrize("slope", [2.0, -2.0])
def test_slope_and_intercept(slope: float) -> None:
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    content = bytearray(nibabel.Nifti1Image(stored, np.eye(4)).to_bytes())
    content[112:120] = np.array([slope, 100], "<f4").tobytes()
    (scan, *_) = scans(bytes(content))
    values = stored * slope + 100
    low, high = np.percentile(values, (0.5, 99.5))
    np.testing.assert_allclose(scan.pixels[0], np.clip((values[::-1, ::-1, 0].T - low) / (high - low), 0, 1), atol=1e-6)
    assert scan.grayscale.modality_lut == f"rescale slope={slope:g} intercept=100"


def test_colour_volumes_and_flat_ones_and_those_that_hold_no_number() -> None:
    colour = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    colour["G"] = 255
    assert scans(bytes(nibabel.Nifti1Image(colour, np.eye(4)).to_bytes()))[0].pixels.mean() == pytest.approx(0.587, abs=1e-3)
    flat = np.full((3, 4, 5), 7, dtype=np.int16)
    assert scans(bytes(nibabel.Nifti1Image(flat, np.eye(4)).to_bytes()))[0].pixels.max() == 0
    nothing = np.full((3, 4, 5), np.nan, dtype=np.float32)
    with pytest.raises(RefusedError, match="no finite value"):
        scans(bytes(nibabel.Nifti1Image(nothing, np.eye(4)).to_bytes()))
    odd = np.zeros((3, 4, 5), dtype=np.complex64)
    with pytest.raises(RefusedError, match="expected numbers"):
        scans(bytes(nibabel.Nifti1Image(odd, np.eye(4)).to_bytes()))


def test_a_volume_without_orientation_says_so() -> None:
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), None)
    (scan, *_) = scans(bytes(image.to_bytes()))
    assert scan.attributes["Orientation"] == "not stated"
    assert scan.spacing is None


def test_a_header_that_describes_more_than_the_file_holds_allocates_nothing(tmp_path: Path) -> None:
    content = bytearray(marked("RAS"))
    content[42:48] = np.array([32767, 32767, 32767], "<i2").tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(content))
    (refusal,) = read_scans(tmp_path / "a.nii")
    assert isinstance(refusal, Refusal)
    assert refusal.status == Status.UNREADABLE
    assert "it is cut" in refusal.reason


@pytest.mark.parametrize(("offset", "value"), [(44, 5), (46, 4), (70, 2), (72, 8)])
def test_a_header_that_contradicts_its_data_is_refused(offset: int, value: int) -> None:
    """dim[2], dim[3], datatype and bitpix: each would give sheared or missing slices."""
    content = bytearray(marked("RAS"))
    content[offset : offset + 2] = value.to_bytes(2, "little")
    with pytest.raises(RefusedError) as refused:
        scans(bytes(content))
    assert refused.value.status == Status.UNREADABLE
