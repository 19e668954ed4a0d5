"""Pictures of evidence: the scan as read, under its maps, corrected, and small."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.detection.perceptual_hash import difference_hashes
from medood.evidence.evidence_maps import DRAWN, evidence_maps
from medood.evidence.findings import CORRECTIONS, Correction, Distances, Finding, corrections, findings, standing_out
from medood.reporting.original_scans import Original, originals
from medood.scans.scan import Scan
from medood.scans.transforms import square_shape
from medood.screening.ledger import Row

Map = npt.NDArray[np.float32]

Colour = tuple[int, int, int]
#: The accent of the report, which the map of the score is drawn in, and the colour of unusual places.
ACCENT: Colour = (208, 73, 28)
PLACES: Colour = (38, 120, 214)
#: Longest side of a picture in the report, in pixels.
SIDE = 420
#: The same of a map by itself, which is no finer than the network's input, and of a thumbnail.
MAP_SIDE, THUMBNAIL = 128, 128
_QUALITY = 90


@dataclass(frozen=True)
class Drawn:
    """The evidence of a scan.

    Attributes:
        pictures: encoded, by what they show: ``picture``, the scan as read; ``overlay`` and ``unusual``, the same under the
            map of its score and under its unusual places; ``map`` and ``places``, the two maps alone, transparent where they
            are 0; ``corrected``, the scan after the one correction that makes it fit. JPEG, the maps alone PNG of at most
            ``MAP_SIDE`` pixels. A map that nowhere reaches :data:`medood.evidence.evidence_maps.DRAWN` is left out.
        peak: row and column, as shares of the picture, where both maps together are highest; none where no one place stands
            out.
        correction: the name of that correction; empty where there is none.
        findings: what speaks for the decision.
    """

    pictures: dict[str, bytes]
    peak: tuple[float, float] | None
    correction: str
    findings: tuple[Finding, ...]


def draw_evidence(
    rows: Sequence[Row], detector: Detector, base: Path, read: ReadConfig
) -> Iterator[tuple[Row, Drawn | str]]:
    """Read scans again and draw them with their maps and, where a correction fits, corrected.

    Args:
        rows: of scored scans.
        detector: the one that scored them.
        base: the folder that relative sources are relative to.
        read: the options that the run was read with.

    Yields:
        each row once, with its evidence or with why there is none.
    """
    distances = Distances.of(detector)
    for row, original in originals(rows, base, read):
        if not isinstance(original, Original):
            yield row, original
            continue
        scan, fit = original.scan, detector.preprocess.fit
        prepared = detector.prepare(scan)[None]  # one at a time: no picture depends on what else is drawn
        score = row.score if row.score is not None else float("inf")
        evidence, (fits,) = evidence_maps(detector, prepared), corrections(detector, prepared, [score])
        heats = {name: maps[0] for name, maps in evidence.maps.items()}
        small = _small(scan)
        said = findings(
            on_picture(evidence.joint[0], small, fit),
            any(on_picture(heats[name], small, fit).max() >= DRAWN for name in ("score", "places") if name in heats),
            float(evidence.shown[0]),
            fits,
            (row.facts.get("nearest") or [None])[0],
            distances,
            row.facts.get("attributes", {}),
        )
        yield row, _draw(scan, heats, fits, fit, tuple(said))


def _draw(scan: Scan, heats: dict[str, Map], fits: Correction | None, fit: str, said: tuple[Finding, ...]) -> Drawn:
    picture = _shrunk(scan.pixels[0], scan.aspect)
    joint = on_picture(heats.get("both", heats["score"]), picture.shape, fit)
    row, col = np.unravel_index(int(joint.argmax()), joint.shape)
    one_place = standing_out(heats.get("both", heats["score"]))[0] == "one place"
    peak = (round((row + 0.5) / joint.shape[0], 4), round((col + 0.5) / joint.shape[1], 4)) if one_place else None
    made = {"picture": _jpeg(_grey(picture))}
    for name, over, alone, colour in (("score", "overlay", "map", ACCENT), ("places", "unusual", "places", PLACES)):
        heat = heats.get(name)
        laid = on_picture(heat, picture.shape, fit) if heat is not None else np.zeros(1, np.float32)
        if heat is not None and laid.max() >= DRAWN:
            made[over] = _jpeg(ringed(blend(picture, laid, colour), peak))
            made[alone] = _encoded(_map_alone(heat, picture.shape, fit, colour), "PNG")
    if fits:
        undone = CORRECTIONS[fits.done](torch.from_numpy(picture)[None])[0].numpy()
        made["corrected"] = _jpeg(_grey(undone))
    return Drawn(made, peak, fits.done if fits else "", said)


def draw_thumbnails(
    rows: Sequence[Row], detector: Detector, base: Path, read: ReadConfig
) -> Iterator[tuple[Row, tuple[bytes, bytes] | str]]:
    """Read scans again and draw each small; see :func:`draw_evidence`.

    Yields:
        each row once, with a JPEG of at most ``THUMBNAIL`` pixels and the picture's difference hash (32 bytes), or with why
        there is none.
    """
    for row, original in originals(rows, base, read):
        if not isinstance(original, Original):
            yield row, original
            continue
        look = difference_hashes(detector.prepare(original.scan)[None])[0].tobytes()
        yield row, (_encoded(thumbnail(original.scan), "JPEG", 75), look)


def _jpeg(image: Image.Image) -> bytes:
    return _encoded(image, "JPEG", _QUALITY)


def _encoded(image: Image.Image, kind: str, quality: int = _QUALITY) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return stream.getvalue()


def ringed(picture: Image.Image, peak: tuple[float, float] | None) -> Image.Image:
    """With a ring around a place, where there is one."""
    if peak is not None:
        width, height = picture.size
        radius, row, col = 0.06 * max(width, height), peak[0] * height, peak[1] * width
        box = (col - radius, row - radius, col + radius, row + radius)
        pen = ImageDraw.Draw(picture)
        pen.ellipse(box, outline=(0, 0, 0), width=4)
        pen.ellipse(box, outline=(255, 255, 255), width=2)
    return picture


def _small(scan: Scan) -> tuple[int, ...]:
    """The shape of a scan's map alone."""
    height, width = square_shape(scan.pixels.shape[1], scan.pixels.shape[2], scan.aspect)
    factor = min(1.0, MAP_SIDE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def thumbnail(scan: Scan) -> Image.Image:
    """A scan as a small grey picture."""
    small = _grey(_shrunk(scan.pixels[0], scan.aspect))
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


def _map_alone(heat: Map, shape: tuple[int, ...], fit: str, colour: Colour) -> Image.Image:
    """A colour as opaque as the heat, in the picture's shape."""
    factor = min(1.0, MAP_SIDE / max(shape))
    small = tuple(max(1, round(side * factor)) for side in shape)
    opacity = np.rint(255 * 0.75 * np.clip(on_picture(heat, small, fit), 0.0, 1.0)).astype(np.uint8)
    colours = np.broadcast_to(np.array(colour, dtype=np.uint8), (*small, 3))
    return Image.fromarray(np.dstack([colours, opacity]))


def _grey(picture: Map) -> Image.Image:
    return Image.fromarray(np.rint(picture * 255).astype(np.uint8))


def blend(picture: Map, heat: Map, colour: Colour = ACCENT) -> Image.Image:
    """Lay a colour over a grey picture, as strong as the heat (0 to 1, clipped)."""
    share = 0.75 * np.clip(heat, 0.0, 1.0)[..., None]
    mixed = (1.0 - share) * picture[..., None] + share * (np.array(colour, dtype=np.float32) / 255.0)
    return Image.fromarray(np.rint(mixed * 255).astype(np.uint8))


def _shrunk(pixels: Map, aspect: float) -> Map:
    """Square pixels, at most ``SIDE`` on the longer side and at least 8 on the shorter."""
    height, width = square_shape(pixels.shape[0], pixels.shape[1], aspect)
    factor = min(1.0, SIDE / max(height, width))
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    shrunk = Image.fromarray(pixels).resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST)
    return np.clip(np.asarray(shrunk, dtype=np.float32), 0.0, 1.0)


def on_picture(heat: Map, shape: tuple[int, ...], fit: str) -> Map:
    """Bring a map from the network's square to the picture."""
    height, width = shape
    sides = (width, height) if fit == "squash" else (max(width, height),) * 2
    large = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(sides, Image.Resampling.BICUBIC))
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return np.asarray(np.maximum(large[top : top + height, left : left + width], 0.0), dtype=np.float32)
