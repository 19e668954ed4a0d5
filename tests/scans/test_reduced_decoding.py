"""Compressed images are decoded at the lowest resolution that suffices, with the grey scale of the whole image."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medood.config.schema import PreprocessConfig, ReadConfig
from medood.errors import MedoodError
from medood.scans.dicom import pixel_data, reduced_decoding
from medood.scans.dicom.reader import read_dicom
from medood.scans.raster import read_raster
from medood.scans.reader import check_options, least_side_for
from medood.scans.scan import Identity, Reduction, RefusedError, Scan
from medood.scans.transforms import network_input, preprocessing, resize_reduced
from medood.screening.ledger.database import Ledger
from medood.screening.run import screen
from tests.scans import films
from tests.scans.films import film

ROWS, COLUMNS, SIDE = 640, 512, 64
REDUCES = (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless)


def write(image: Any, bits: int, syntax: UID, **attributes: Any) -> bytes:
    """A file with a window over all of its range."""
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    return films.write(image, bits, syntax, **window | attributes)


def scans(content: bytes, least_side: int = 0) -> list[Scan]:
    return list(read_dicom(content, Identity("film"), None, least_side))


def means(scan: Scan, factor: int) -> Any:
    """The means of blocks of a whole image, ``[H / factor, W / factor]``."""
    _, height, width = scan.pixels.shape
    return scan.pixels[0].reshape(height // factor, factor, width // factor, factor).mean(axis=(1, 3))


def stored(bits: int) -> Any:
    return film(ROWS, COLUMNS) >> (12 - bits)


@pytest.mark.parametrize("syntax", REDUCES, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_lower_resolution_has_the_grey_values_of_the_whole_image(syntax: UID, photometric: str) -> None:
    content = write(stored(12), 12, syntax, PhotometricInterpretation=photometric, WindowCenter=2000, WindowWidth=3500)
    (whole,), (reduced,) = scans(content), scans(content, SIDE)
    assert whole.grayscale.reduction == 1
    assert reduced.grayscale.reduction == 8
    assert reduced.pixels.shape == (1, ROWS // 8, COLUMNS // 8)
    assert np.abs(reduced.pixels[0] - means(whole, 8)).mean() < 0.01
    assert (reduced.grayscale.voi, reduced.grayscale.inverted) == (whole.grayscale.voi, whole.grayscale.inverted)


def test_a_baseline_jpeg_has_the_grey_values_of_the_whole_image() -> None:
    content = write(stored(8), 8, JPEGBaseline8Bit)
    (whole,), (reduced,) = scans(content), scans(content, SIDE)
    assert reduced.grayscale.reduction == 8
    assert np.abs(reduced.pixels[0] - means(whole, 8)).mean() < 0.01


@pytest.mark.parametrize(("least_side", "reduction"), [(64, 8), (65, 4), (128, 4), (129, 2), (256, 2), (257, 1), (0, 1)])
def test_no_side_becomes_shorter_than_asked(least_side: int, reduction: int) -> None:
    (scan,) = scans(write(stored(12), 12, JPEG2000Lossless), least_side)
    assert scan.grayscale.reduction == reduction
    assert min(scan.pixels.shape[1:]) >= min(least_side, COLUMNS)


def test_odd_sides_are_rounded_up() -> None:
    (scan,) = scans(write(film(641, 515), 12, JPEG2000Lossless), SIDE)
    assert scan.pixels.shape == (1, 81, 65)


def test_frames_are_reduced_alike() -> None:
    content = write(np.stack([stored(12), stored(12)[::-1]]), 12, JPEG2000Lossless, frames=2)
    first, second = scans(content, SIDE)
    assert (first.identity.frame, second.identity.frame) == (0, 1)
    assert np.abs(first.pixels[:, ::-1] - second.pixels).mean() < 0.01
    (only,) = read_dicom(content, Identity("film"), ReadConfig(frames="every 2"), SIDE)
    assert np.array_equal(only.pixels, first.pixels)


WHOLE: dict[str, tuple[Callable[[], Any], int, UID, dict[str, Any]]] = {
    "padding values must not be averaged": (lambda: stored(12), 12, JPEG2000Lossless, {"PixelPaddingValue": 0}),
    "signed values": (lambda: stored(12) - 2048, 12, JPEG2000Lossless, {}),
    "colours": (lambda: np.stack([stored(8)] * 3, axis=-1), 8, JPEG2000Lossless, {}),
    "JPEG Lossless has one resolution": (lambda: stored(12), 12, JPEGLosslessSV1, {}),
    "JPEG-LS has one resolution": (lambda: stored(12), 12, JPEGLSLossless, {}),
    "RLE has one resolution": (lambda: stored(12), 12, RLELossless, {}),
    "percentiles are those of all pixels": (lambda: stored(12), 12, JPEG2000Lossless, {"WindowCenter": ""}),
    "a window that is unusable leaves percentiles": (lambda: stored(12), 12, JPEG2000Lossless, {"WindowWidth": 0}),
}


@pytest.mark.parametrize(("image", "bits", "syntax", "attributes"), WHOLE.values(), ids=WHOLE)
def test_what_cannot_be_reduced_is_decoded_whole(
    image: Callable[[], Any], bits: int, syntax: UID, attributes: dict[str, Any]
) -> None:
    content = write(image(), bits, syntax, **attributes)
    (whole,), (scan,) = scans(content), scans(content, SIDE)
    assert scan.grayscale.reduction == 1
    assert np.array_equal(scan.pixels, whole.pixels)


def test_what_the_decoder_cannot_reduce_is_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a tile that has fewer resolutions than the main header states."""
    content = write(np.stack([stored(12), stored(12)[::-1]]), 12, JPEG2000Lossless, frames=2)
    whole = scans(content)
    real = reduced_decoding.decode_reduced
    for failing in (0, 1):
        calls = itertools.count()

        def fails_once(*arguments: Any, calls: Iterator[int] = calls, failing: int = failing) -> Any:
            return None if next(calls) == failing else real(*arguments)

        monkeypatch.setattr(pixel_data, "decode_reduced", fails_once)
        read = scans(content, SIDE)
        assert [scan.grayscale.reduction for scan in read] == ([1, 1] if failing == 0 else [8, 1])
        assert np.array_equal(read[1].pixels, whole[1].pixels)


def test_the_whole_frame_tells_what_the_reduced_one_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    content = write(stored(12), 12, JPEG2000Lossless)
    (whole,) = scans(content)
    monkeypatch.setattr(pixel_data, "decode_reduced", lambda *_: np.full((ROWS // 8, COLUMNS // 8), 65535, dtype=np.uint16))
    (read,) = scans(content, SIDE)
    assert read.grayscale.reduction == 1
    assert np.array_equal(read.pixels, whole.pixels)


def test_a_window_of_damaged_representation_leaves_the_file_readable() -> None:
    content = write(stored(12), 12, JPEG2000Lossless)
    place = content.index(b"\x28\x00\x50\x10DS")
    damaged = content[: place + 4] + b"\x44\xca" + content[place + 6 :]
    (whole,), (scan,) = scans(damaged), scans(damaged, SIDE)
    assert scan.grayscale.reduction == 1
    assert np.array_equal(scan.pixels, whole.pixels)


def test_a_damaged_coding_style_does_not_crash() -> None:
    content = bytearray(write(stored(12), 12, JPEG2000Lossless))
    place = content.index(b"\xff\x52", content.index(b"\xff\x4f\xff\x51"))
    for levels in (0, 1, 33, 255):
        content[place + 9] = levels
        with contextlib.suppress(RefusedError):
            assert scans(bytes(content), SIDE)[0].grayscale.reduction in (1, 2, 8)


def test_a_cut_codestream_is_refused_at_either_resolution() -> None:
    content = write(stored(12), 12, JPEG2000Lossless)
    for least_side in (0, SIDE):
        with pytest.raises(RefusedError):
            scans(content[: len(content) // 2], least_side)


def test_a_grey_jpeg_file_is_reduced_and_a_colour_one_is_not() -> None:
    for mode, reduction in (("L", 8), ("RGB", 1)):
        stream = io.BytesIO()
        Image.fromarray(stored(8).astype(np.uint8)).convert(mode).save(stream, "JPEG", quality=95)
        (whole,), (scan,) = (list(read_raster(stream.getvalue(), Identity("film"), None, side)) for side in (0, SIDE))
        assert scan.grayscale.reduction == reduction
        assert np.abs(scan.pixels[0] - means(whole, reduction)).mean() < 0.01


def test_the_option_is_checked_and_doubles_the_networks_side() -> None:
    assert least_side_for(128, ReadConfig(decode="scored")) == 256
    assert least_side_for(128, ReadConfig()) == 256
    assert least_side_for(128, ReadConfig(decode="full")) == 0
    assert least_side_for(128, ReadConfig(text=True)) == 0
    with pytest.raises(MedoodError, match=r"read\.decode is 'half'"):
        check_options(ReadConfig(decode="half"))


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
@pytest.mark.parametrize("syntax", [HTJ2KLossless, JPEG2000, JPEGBaseline8Bit], ids=lambda syntax: syntax.keyword)
def test_a_reduced_image_reaches_the_network_as_the_whole_one_does(fit: str, syntax: UID) -> None:
    """Within one grey level, and without a shift: a lag of one pixel of the network's input would be worse."""
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    image = film(643, 515) >> (12 - bits)
    (whole,), (reduced,) = (scans(write(image, bits, syntax, PixelAspectRatio=["1", "1"]), side) for side in (0, SIDE))
    assert reduced.reduction is not None
    assert reduced.shape == whole.shape == (643, 515)
    chain = preprocessing(PreprocessConfig(size=SIDE // 2, fit=fit))
    expected, actual = (network_input(scan, chain)[0] for scan in (whole, reduced))
    differences = (expected - actual).abs()[1:-1, 1:-1]  # the bright corner is finer than the reduced pixels
    assert differences.mean() < 1 / 255
    for shift in (1, -1):
        for axis in (0, 1):
            assert differences.mean() < 0.2 * (expected - expected.roll(shift, axis)).abs()[1:-1, 1:-1].mean()


@pytest.mark.parametrize("is_centred", [False, True])
@pytest.mark.parametrize(("shape", "divisor", "size"), [((64, 48), 4, (8, 8)), ((61, 83), 4, (7, 9)), ((40, 9), 8, (5, 2))])
def test_resizing_interpolates_to_the_whole_grid_and_averages_there(
    shape: tuple[int, int], divisor: int, size: tuple[int, int], is_centred: bool
) -> None:
    """Against NumPy's interpolation and PyTorch's adaptive average, one direction after the other."""
    small = np.random.default_rng(0).random([-(-side // divisor) for side in shape])
    positions = [(np.arange(side) - (divisor - 1) / 2 * is_centred) / divisor for side in shape]
    wide = np.stack([np.interp(positions[1], np.arange(small.shape[1]), row) for row in small])
    large = np.stack([np.interp(positions[0], np.arange(small.shape[0]), column) for column in wide.T], axis=1)
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(large)[None], size)
    actual = resize_reduced(torch.from_numpy(small).float()[None], Reduction(divisor, shape, is_centred), size)
    assert torch.allclose(actual, expected.float(), atol=1e-5)


def test_a_run_states_the_reduction_and_decides_as_with_whole_images(tmp_path: Path, tiny_detector: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "film.dcm").write_bytes(write(stored(12), 12, JPEG2000Lossless))
    rows = {}
    for decode in ("scored", "full"):
        screen([tmp_path / "archive"], tiny_detector, tmp_path / decode, fpr=0.1, read=ReadConfig(decode=decode))
        with contextlib.closing(Ledger(tmp_path / decode)) as ledger:
            (rows[decode],) = ledger.rows()
    assert rows["scored"].metadata["grayscale"]["reduction"] == 8
    assert rows["scored"].metadata["shape"] == rows["full"].metadata["shape"] == [ROWS, COLUMNS]
    assert rows["full"].metadata["grayscale"]["reduction"] == 1
    assert rows["scored"].decision == rows["full"].decision
