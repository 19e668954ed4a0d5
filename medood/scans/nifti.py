"""Read NIfTI volumes with nibabel, one scan per slice."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.affines import voxel_sizes

from medood.config.schema import ReadConfig
from medood.reasons import Reason
from medood.scans import grayscale
from medood.scans.frames import wanted_frames
from medood.scans.scan import Grayscale, Identity, RefusedError, Scan, Status

# nibabel logs its header corrections; anything that matters here becomes a refusal

#: For each plane, in a volume oriented right-anterior-superior: the slice axis, the row axis and the column axis.
#: As on a radiograph, rows run towards the feet or the back, columns towards the patient's left or from front to back.
PLANES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
_CIFTI = range(3000, 3100)
_SINGLE = {348: (344, b"n+1\0"), 540: (4, b"n+2\0\r\n\x1a\n")}
_PAIR = {348: (344, b"ni1\0"), 540: (4, b"ni2\0\r\n\x1a\n")}


def is_nifti(content: bytes) -> bool:
    """Return whether the bytes begin like a NIfTI-1, NIfTI-2 or Analyze header."""
    return len(content) >= 348 and _header_size(content) in _SINGLE


def _header_size(content: bytes) -> int:
    little, big = int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big")
    return little if little in _SINGLE else big


def read_nifti(content: bytes, identity: Identity, options: ReadConfig | None = None) -> Iterator[Scan]:
    """Yield one scan per slice, from feet to head, back to front or left to right, one time point after another.

    Grey values are scaled by the header's ``cal_min`` to ``cal_max`` if stated, else by the 0.5th to 99.5th percentile
    of the whole volume, so that slices can be compared.

    Args:
        content: the bytes of a single-file NIfTI, unpacked.
        identity: identity of the file; the frame number is filled in.
        options: the plane, the slices to read and the largest image.

    Raises:
        RefusedError: the file holds no readable volume.
    """
    options = options or ReadConfig()
    volume_image = _parse(content)
    volume, affine_stated = _volume(volume_image, content), _has_orientation(volume_image)
    array, sizes = _orient(volume, volume_image.affine)
    colour = array.dtype.names is not None
    plane = _plane(array, options.plane)
    axis, down, across = PLANES[plane]
    slices, times = array.shape[axis], array.shape[3]
    if array.shape[down] * array.shape[across] > options.max_pixels:
        raise RefusedError(
            Status.TOO_LARGE,
            Reason("slice_over_limit", rows=array.shape[down], columns=array.shape[across], limit=options.max_pixels),
        )
    modality_lut, low, high, voi = ("none", 0.0, 1.0, "full range") if colour else _window(volume_image, array)
    spacing, source = _spacing(sizes[down], sizes[across]) if affine_stated else (None, "none")
    attributes = {"Format": "NIfTI", "Plane": plane, "Slices": str(slices), "Times": str(times)}
    if not affine_stated:
        attributes["Orientation"] = "not stated"
    for frame in wanted_frames(options.frames, slices * times, options.max_frames):
        time, place = divmod(frame, slices)
        image = np.take(array[..., time], place, axis=axis).T[::-1, ::-1]
        if colour:
            rgb = np.stack([image[name] for name in ("R", "G", "B")], axis=-1)
            unit = grayscale.luminance(rgb, 255.0)[0].astype(np.float64)
        else:
            unit = np.clip((image.astype(np.float64) - low) / (high - low or 1.0), 0.0, 1.0)
        yield Scan(
            identity=Identity(identity.source, identity.member, frame, identity.sha256),
            pixels=grayscale.as_pixels(np.nan_to_num(unit)),
            grayscale=Grayscale(modality_lut=modality_lut, voi=voi, plugin="nibabel"),
            spacing=spacing,
            spacing_source=source,
            aspect=spacing[0] / spacing[1] if spacing else 1.0,
            attributes=attributes,
        )


def _plane(array: npt.NDArray[Any], plane: str) -> str:
    """Return the slice plane: that of the volume if it is one voxel deep along a single axis, else the requested one."""
    thin = [name for name, (axis, _, _) in PLANES.items() if array.shape[axis] == 1]
    return thin[0] if len(thin) == 1 else plane


def _parse(content: bytes) -> Any:
    size = _header_size(content)
    place, magic = _PAIR[size]
    if content[place : place + len(magic)] == magic:
        raise RefusedError(Status.NOT_AN_IMAGE, Reason("nifti_pair"))
    place, magic = _SINGLE[size]
    if content[place : place + len(magic)] != magic:
        raise RefusedError(Status.NOT_AN_IMAGE, Reason("analyze_header"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = nibabel.Nifti1Image if size == 348 else nibabel.Nifti2Image
            image = kind.from_bytes(content)
    except Exception as error:  # nibabel raises many kinds on damaged headers
        raise RefusedError(Status.UNREADABLE, Reason("nifti_header_damaged")) from error
    if int(image.header["intent_code"]) in _CIFTI:
        raise RefusedError(Status.NOT_AN_IMAGE, Reason("cifti_matrix"))
    return image


def _volume(image: Any, content: bytes) -> npt.NDArray[Any]:
    """Return the unscaled stored values ``[X, Y, Z, ...]``; a file that is too short is refused before any allocation."""
    shape = [int(n) for n in image.shape]
    offset, needed = int(image.dataobj.offset), int(image.header.get_data_dtype().itemsize)
    for length in shape:
        needed *= length
    if not shape or min(shape) < 1:
        raise RefusedError(Status.UNREADABLE, Reason("volume_shape", shape=str(shape)))
    if offset + needed > len(content):
        raise RefusedError(Status.UNREADABLE, Reason("volume_cut", expected=offset + needed, actual=len(content)))
    raw = type(image.header)(content[: _header_size(content)], check=False)  # as stored, without nibabel's corrections
    if int(raw["bitpix"]) != 8 * image.header.get_data_dtype().itemsize:
        raise RefusedError(Status.UNREADABLE, Reason("datatype_contradicts_bitpix"))
    if any(content[offset + needed :]):
        raise RefusedError(
            Status.UNREADABLE,
            Reason("volume_surplus", expected=offset + needed, actual=len(content)),
        )
    values = np.frombuffer(content, image.header.get_data_dtype(), needed // image.header.get_data_dtype().itemsize, offset)
    return values.reshape(shape + [1] * (3 - len(shape)), order="F")


def _has_orientation(image: Any) -> bool:
    return int(image.header["qform_code"]) > 0 or int(image.header["sform_code"]) > 0


def _window(image: Any, array: npt.NDArray[Any]) -> tuple[str, float, float, str]:
    """Return the modality step in words, the stored values that become 0 and 1, and the VOI step in words."""
    if array.dtype.kind not in "iuf":
        raise RefusedError(Status.UNREADABLE, Reason("volume_type", type=str(array.dtype)))
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)  # nibabel clears them in the header it read
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        slope, intercept = 1.0, 0.0
    words = "none" if (slope, intercept) == (1.0, 0.0) else f"rescale slope={slope:g} intercept={intercept:g}"
    low, high = float(image.header["cal_min"]), float(image.header["cal_max"])
    if np.isfinite([low, high]).all() and high > low:
        return words, (low - intercept) / slope, (high - intercept) / slope, f"window cal_min={low:g} cal_max={high:g}"
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if finite.size == 0:
        raise RefusedError(Status.UNREADABLE, Reason("volume_without_finite_value"))
    first, last = grayscale.DEFAULT_PERCENTILES if slope > 0 else grayscale.DEFAULT_PERCENTILES[::-1]
    low, high = (float(v) for v in np.percentile(finite, (first, last)))
    if low == high:
        low, high = (float(v) for v in np.percentile(finite, (0, 100) if slope > 0 else (100, 0)))
    return words, low, high, "percentile 0.5-99.5 of the volume"


def _orient(volume: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> tuple[npt.NDArray[Any], list[float]]:
    """Return the volume ``[X, Y, Z, times]`` reoriented to right-anterior-superior, and its voxel sizes in mm."""
    try:
        orientation = nibabel.io_orientation(affine)
        if not np.isfinite(orientation).all():
            raise ValueError("an axis has no direction")
        sizes = voxel_sizes(affine)
        orientations = nibabel.apply_orientation(volume, orientation)
    except Exception as error:  # a singular or non-finite affine fails in linear algebra
        raise RefusedError(Status.UNREADABLE, Reason("nifti_affine_damaged")) from error
    of_axis = [float(sizes[int(np.flatnonzero(orientation[:, 0] == axis)[0])]) for axis in range(3)]
    return orientations.reshape(*orientations.shape[:3], -1), of_axis


def _spacing(row: float, column: float) -> tuple[tuple[float, float] | None, str]:
    if not (np.isfinite([row, column]).all() and row > 0 and column > 0 and 0.01 <= row / column <= 100):
        return None, "none"
    return (row, column), "NIfTI affine"
