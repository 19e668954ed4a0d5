"""Draw a scan's evidence: the scan as read, overlaid with its maps, corrected, and as a thumbnail."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.detection.perceptual_hash import difference_hashes
from medood.evidence import burned_in_text
from medood.evidence.evidence_maps import DRAWN, evidence_maps
from medood.evidence.findings import (
    CORRECTIONS,
    CalibrationCosines,
    Correction,
    Finding,
    corrections,
    findings,
    standing_out,
)
from medood.evidence.positions import POSITIONS
from medood.reporting.original_scans import OriginalScan, read_original_scans
from medood.scans.scan import Scan
from medood.scans.transforms import square_shape
from medood.screening.ledger.database import Row

Map = npt.NDArray[np.float32]

Colour = tuple[int, int, int]
#: The report's accent colour, used for the score map, and the colour of unusual places.
ACCENT: Colour = (208, 73, 28)
PLACES: Colour = (38, 120, 214)
#: Longest side of an image in the report, in pixels.
SIDE = 420
#: Longest side of a map alone, which is no finer than the network's input, and of a thumbnail.
MAP_SIDE, THUMBNAIL = 128, 128
_QUALITY = 90
#: Longest side at which text is looked for in a thumbnail: letters that cannot be read in it cannot be read in thumbnails.
_READ = 3 * THUMBNAIL


@dataclass(frozen=True)
class RenderedEvidence:
    """The drawn evidence of a scan.

    Attributes:
        images: encoded images by name: ``picture``, the scan as read; ``overlay`` and ``unusual``, the scan overlaid with
            its score map and with its unusual places; ``map`` and ``places``, the two maps alone, transparent where they are
            0; ``corrected``, the scan after the one correction that makes it fit. All are JPEG, except the maps alone: PNG
            of at most ``MAP_SIDE`` pixels. A map that never reaches :data:`medood.evidence.evidence_maps.DRAWN` is left out.
        peak: row and column, as fractions of the image, of the maximum of both maps together; None if no single place
            stands out.
        correction: the name of that correction; empty if there is none.
        findings: the reasons for the decision.
    """

    images: dict[str, bytes]
    peak: tuple[float, float] | None
    correction: str
    findings: tuple[Finding, ...]


def draw_evidence(
    rows: Sequence[Row], detector: Detector, base: Path, read: ReadConfig
) -> Iterator[tuple[Row, RenderedEvidence | str]]:
    """Re-read scans and draw them with their maps and, if a correction makes them fit, corrected.

    Args:
        rows: rows of scored scans.
        detector: the detector that scored them.
        base: the folder against which relative sources are resolved.
        read: the run's reading options.

    Yields:
        each row once, with its evidence or the reason why there is none.
    """
    distances = CalibrationCosines.of(detector)
    looks_for_text = burned_in_text.is_available()
    for row, original in read_original_scans(rows, base, read):
        if not isinstance(original, OriginalScan):
            yield row, original
            continue
        scan, fit = original.scan, detector.preprocess.fit
        prepared = detector.prepare(scan)[None]  # one at a time, so that no image depends on the others
        score = row.score if row.score is not None else float("inf")
        evidence, (fits,) = evidence_maps(detector, prepared), corrections(detector, prepared, [score])
        heats = {name: maps[0] for name, maps in evidence.maps.items()}
        small = _small(scan)
        scan_findings = findings(
            on_picture(evidence.joint[0], small, fit),
            any(on_picture(heats[name], small, fit).max() >= DRAWN for name in ("score", "places") if name in heats),
            float(evidence.shown[0]),
            fits,
            (row.metadata.get("nearest") or [None])[0],
            distances,
            row.metadata.get("attributes", {}),
        )
        boxes = _texts(scan.pixels[0], fits) if looks_for_text else []
        if boxes:
            scan = replace(scan, pixels=burned_in_text.blank(scan.pixels[0], boxes)[None])
            scan_findings.append(Finding("text blanked", {"count": len(boxes)}))
        yield row, _draw(scan, heats, fits, fit, tuple(scan_findings))


def _texts(pixels: Map, fits: Correction | None) -> list[burned_in_text.Box]:
    """Places of text that is upright in the image, or in the corrected image that is shown beside it."""
    boxes = burned_in_text.find_text(pixels)
    if fits and fits.done in POSITIONS:
        corrected = POSITIONS[fits.done](torch.from_numpy(pixels)).contiguous().numpy()
        boxes += burned_in_text.as_stored(burned_in_text.find_text(corrected), fits.done)
    return boxes


def _draw(
    scan: Scan, heats: dict[str, Map], fits: Correction | None, fit: str, scan_findings: tuple[Finding, ...]
) -> RenderedEvidence:
    image = _shrunk(scan.pixels[0], scan.aspect)
    joint = on_picture(heats.get("both", heats["score"]), image.shape, fit)
    row, col = np.unravel_index(int(joint.argmax()), joint.shape)
    one_place = standing_out(heats.get("both", heats["score"]))[0] == "one place"
    peak = (round((row + 0.5) / joint.shape[0], 4), round((col + 0.5) / joint.shape[1], 4)) if one_place else None
    images = {"picture": _jpeg(_grey(image))}
    for name, over, alone, colour in (("score", "overlay", "map", ACCENT), ("places", "unusual", "places", PLACES)):
        heat = heats.get(name)
        placed_heat = on_picture(heat, image.shape, fit) if heat is not None else np.zeros(1, np.float32)
        if heat is not None and placed_heat.max() >= DRAWN:
            images[over] = _jpeg(draw_ring(blend(image, placed_heat, colour), peak))
            images[alone] = _encode(_map_alone(heat, image.shape, fit, colour), "PNG")
    if fits:
        corrected = CORRECTIONS[fits.done](torch.from_numpy(image)[None])[0].numpy()
        images["corrected"] = _jpeg(_grey(corrected))
    return RenderedEvidence(images, peak, fits.done if fits else "", scan_findings)


def draw_thumbnails(
    rows: Sequence[Row], detector: Detector, base: Path, read: ReadConfig
) -> Iterator[tuple[Row, tuple[bytes, bytes] | str]]:
    """Re-read scans and draw their thumbnails; see :func:`draw_evidence`.

    Yields:
        each row once, with a JPEG of at most ``THUMBNAIL`` pixels and the image's difference hash (32 bytes), or the reason
        why there is none.
    """
    for row, original in read_original_scans(rows, base, read):
        if not isinstance(original, OriginalScan):
            yield row, original
            continue
        image_hash = difference_hashes(detector.prepare(original.scan)[None])[0].tobytes()
        yield row, (_encode(thumbnail(original.scan), "JPEG", 75), image_hash)


def hash_scans(
    rows: Sequence[Row], detector: Detector, base: Path, read: ReadConfig, *, text: bool
) -> Iterator[tuple[Row, tuple[bytes, int] | str]]:
    """Re-read scans to compare them; see :func:`draw_evidence`.

    Yields:
        each row once, with the image's difference hash (32 bytes) and, with ``text``, the number of places of text that is
        burnt into it, or the reason why there is none.
    """
    for row, original in read_original_scans(rows, base, read):
        if isinstance(original, OriginalScan):
            image_hash = difference_hashes(detector.prepare(original.scan)[None])[0].tobytes()
            yield row, (image_hash, len(burned_in_text.find_text(original.scan.pixels[0])) if text else 0)
        else:
            yield row, original


def _jpeg(image: Image.Image) -> bytes:
    return _encode(image, "JPEG", _QUALITY)


def _encode(image: Image.Image, kind: str, quality: int = _QUALITY) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return stream.getvalue()


def draw_ring(image: Image.Image, peak: tuple[float, float] | None) -> Image.Image:
    """Draw a ring around the peak, if there is one."""
    if peak is not None:
        width, height = image.size
        radius, row, col = 0.06 * max(width, height), peak[0] * height, peak[1] * width
        box = (col - radius, row - radius, col + radius, row + radius)
        pen = ImageDraw.Draw(image)
        pen.ellipse(box, outline=(0, 0, 0), width=4)
        pen.ellipse(box, outline=(255, 255, 255), width=2)
    return image


def _small(scan: Scan) -> tuple[int, ...]:
    """The shape of a scan's map alone, at most ``MAP_SIDE`` pixels long."""
    height, width = square_shape(scan.pixels.shape[1], scan.pixels.shape[2], scan.aspect)
    factor = min(1.0, MAP_SIDE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def thumbnail(scan: Scan) -> Image.Image:
    """A scan's thumbnail in grey, without the text that can be read in it if the extra ``text`` is installed."""
    image = _shrunk(scan.pixels[0], scan.aspect)
    if burned_in_text.is_available():
        image = burned_in_text.blank(image, burned_in_text.find_text(image, _READ))
    small = _grey(image)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


def _map_alone(heat: Map, shape: tuple[int, ...], fit: str, colour: Colour) -> Image.Image:
    """The map alone in the image's aspect ratio: one colour with the heat as opacity."""
    factor = min(1.0, MAP_SIDE / max(shape))
    small = tuple(max(1, round(side * factor)) for side in shape)
    opacity = np.rint(255 * 0.75 * np.clip(on_picture(heat, small, fit), 0.0, 1.0)).astype(np.uint8)
    colours = np.broadcast_to(np.array(colour, dtype=np.uint8), (*small, 3))
    return Image.fromarray(np.dstack([colours, opacity]))


def _grey(image: Map) -> Image.Image:
    return Image.fromarray(np.rint(image * 255).astype(np.uint8))


def blend(image: Map, heat: Map, colour: Colour = ACCENT) -> Image.Image:
    """Blend a colour into a grey image in proportion to the heat (clipped to 0 to 1)."""
    share = 0.75 * np.clip(heat, 0.0, 1.0)[..., None]
    mixed = (1.0 - share) * image[..., None] + share * (np.array(colour, dtype=np.float32) / 255.0)
    return Image.fromarray(np.rint(mixed * 255).astype(np.uint8))


def _shrunk(pixels: Map, aspect: float) -> Map:
    """Resample to square pixels, at most ``SIDE`` on the longer side and at least 8 on the shorter."""
    height, width = square_shape(pixels.shape[0], pixels.shape[1], aspect)
    factor = min(1.0, SIDE / max(height, width))
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    shrunk = Image.fromarray(pixels).resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST)
    return np.clip(np.asarray(shrunk, dtype=np.float32), 0.0, 1.0)


def on_picture(heat: Map, shape: tuple[int, ...], fit: str) -> Map:
    """Resample a map from the network's square input to the image's shape."""
    height, width = shape
    sides = (width, height) if fit == "squash" else (max(width, height),) * 2
    large = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(sides, Image.Resampling.BICUBIC))
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return np.asarray(np.maximum(large[top : top + height, left : left + width], 0.0), dtype=np.float32)
