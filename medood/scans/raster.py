"""PNG, JPEG and TIFF to scans, through Pillow."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from PIL import Image, UnidentifiedImageError

from medood.scans import grayscale
from medood.scans.frames import wanted_frames
from medood.scans.scan import Grayscale, Identity, Pixels, RefusedError, Scan, Status
from medood.schema import ReadConfig

FORMATS = ("PNG", "JPEG", "TIFF")
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"MM\x00*")


#: TIFF tag PhotometricInterpretation; Pillow applies it to 8-bit pictures only.
_PHOTOMETRIC = 262
#: TIFF tags BitsPerSample and SampleFormat (1, the default, is unsigned); the EXIF tag Orientation.
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _ORIENTATION = 258, 339, 274
#: A TIFF of more pages is refused; finding the next one takes the longer the more there were.
_MAX_PAGES = 10_000

# the limit is ReadConfig.max_pixels, held against the header before anything is decoded
Image.MAX_IMAGE_PIXELS = None


def is_raster(content: bytes) -> bool:
    """True where the first bytes are those of a PNG, JPEG or TIFF."""
    return content.startswith(_MAGIC)


def read_raster(content: bytes, identity: Identity, options: ReadConfig | None = None) -> Iterator[Scan]:
    """Yield the picture, or one scan a page of a TIFF.

    8-bit values are taken over their full range; deeper ones, whose real depth the format does not state, over their
    0.5th to 99.5th percentile. Colour becomes luminance; transparency is ignored.

    Args:
        content: the bytes of the file.
        identity: of the file; the page is filled in as the frame number.
        options: which pages, and the largest picture.

    Raises:
        RefusedError: the picture is damaged or too large.
    """
    options = options or ReadConfig()
    picture = _opened(content)
    for page in wanted_frames(options.frames, _pages(picture, options)):
        pixels, how = _grey(_loaded(picture, page, options.max_pixels))
        yield Scan(Identity(identity.source, identity.member, page, identity.sha256), pixels, how)


def _pages(picture: Image.Image, options: ReadConfig) -> int:
    """Pages of a TIFF; 1 of anything else, and where only the first is wanted."""
    if picture.format != "TIFF" or options.frames == "first":
        return 1
    count = 1
    with _decoding(), contextlib.suppress(EOFError):
        while count <= _MAX_PAGES:
            picture.seek(count)
            count += 1
    if count > _MAX_PAGES:
        raise RefusedError(Status.TOO_LARGE, f"the TIFF has more than {_MAX_PAGES:,} pages")
    return count


def _opened(content: bytes) -> Image.Image:
    with _decoding():
        return Image.open(io.BytesIO(content), formats=FORMATS)


def _loaded(picture: Image.Image, page: int, max_pixels: int) -> Image.Image:
    with _decoding():
        if picture.tell() != page:
            picture.seek(page)
        width, height = picture.size
        if width * height > max_pixels:
            raise RefusedError(
                Status.TOO_LARGE, f"the picture has {height} x {width} pixels; the limit is {max_pixels:,} pixels"
            )
        picture.load()
    return picture


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn what Pillow raises on a damaged picture into a refusal."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except RefusedError:
        raise
    except Exception as error:  # its decoders raise many kinds
        raise RefusedError(Status.UNREADABLE, f"the picture cannot be decoded: {_first_line(error)}") from error


def _grey(picture: Image.Image) -> tuple[Pixels, Grayscale]:
    how = Grayscale(plugin=f"pillow {picture.format}", ignored=_left_out(picture))
    if not (picture.mode.startswith("I") or picture.mode == "F"):
        if picture.mode in ("L", "1"):
            levels = grayscale.Levels(np.asarray(picture.convert("L")))
            return levels.paint(levels.words / 255.0), how
        return grayscale.luminance(np.asarray(picture.convert("RGB")), 255.0), how
    values = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})
    if picture.mode == "I" and tags.get(_BITS_PER_SAMPLE) == (32,) and tags.get(_SAMPLE_FORMAT, (1,)) == (1,):
        values = values.view(np.uint32)  # Pillow reads unsigned words of 32 bits as signed
    levels = grayscale.Levels(np.nan_to_num(values, posinf=0.0, neginf=0.0) if picture.mode == "F" else values)
    unit = grayscale.percentile_window(levels.words.astype(np.float64), levels.counts())
    how = replace(how, voi="percentile 0.5-99.5")
    if tags.get(_PHOTOMETRIC) == 0:
        return levels.paint(grayscale.invert(unit)), replace(how, inverted="TIFF WhiteIsZero")
    return levels.paint(unit), how


def _left_out(picture: Image.Image) -> str:
    """What the file asks for and is not done, in words."""
    words = []
    if picture.getexif().get(_ORIENTATION, 1) != 1:
        words.append("EXIF orientation")
    if picture.format == "PNG" and getattr(picture, "n_frames", 1) > 1:
        words.append("animation after the first frame")
    return ", ".join(words)


def _first_line(error: Exception) -> str:
    """Pillow's own words without the address of the in-memory file."""
    if isinstance(error, UnidentifiedImageError):
        return "its header is damaged"
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
