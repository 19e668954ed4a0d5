"""Pictures of evidence: the scan as read, and the Grad-CAM of its score on the detector's one scale."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from medood.detection.detector import Detector
from medood.evidence.places import all_maps
from medood.evidence.reasons import CORRECTIONS, Correction, Distances, corrections, sentences, standing_out
from medood.language import ENGLISH, Language
from medood.reporting.originals import Original, originals, patient_and_study
from medood.scans.scan import Scan
from medood.scans.transforms import square_shape
from medood.schema import ReadConfig
from medood.screening.ledger import Row

Map = npt.NDArray[np.float32]

Colour = tuple[int, int, int]
#: The accent of the report, which Grad-CAM is drawn in, and the colour of unusual places.
ACCENT: Colour = (208, 73, 28)
PLACES: Colour = (38, 120, 214)
#: Longest side of a picture in the report, in pixels.
SIDE = 420
#: The same of a map by itself, which is no finer than the network's input, and of a nearest scan.
MAP_SIDE, THUMBNAIL = 128, 160
_QUALITY = 90
_BATCH = 16


@dataclass(frozen=True)
class EvidencePictures:
    """File names of a scan's pictures, and what speaks for its decision.

    Attributes:
        picture: the scan as read, a JPEG.
        overlay: the same under its Grad-CAM.
        unusual: the same under its unusual places; empty where the detector has no such map.
        map: Grad-CAM alone, transparent where it is 0; a PNG of at most ``MAP_SIDE`` pixels.
        places: the unusual places alone, likewise.
        peak: row and column, as shares of the picture, where both maps together are highest; none where no one place stands
            out.
        corrected: the scan after the one correction that makes it fit; empty where there is none.
        correction: what that correction is.
        reasons: sentences.
        identifiers: what the header says of patient and study, by attribute; empty unless asked for.
        missing: why there are no pictures; empty where there are.
    """

    picture: str = ""
    overlay: str = ""
    unusual: str = ""
    map: str = ""
    places: str = ""
    peak: tuple[float, float] | None = None
    corrected: str = ""
    correction: str = ""
    reasons: tuple[str, ...] = ()
    identifiers: dict[str, str] = field(default_factory=dict)
    missing: str = ""


def draw_evidence(
    rows: Sequence[Row],
    detector: Detector,
    folder: Path,
    base: Path = Path(),
    read: ReadConfig | None = None,
    *,
    language: Language = ENGLISH,
    identifiers: bool = False,
    advance: Callable[[int], None] = lambda count: None,
) -> list[EvidencePictures]:
    """Read scans again and write ``scan-0001.jpg``, its maps (``-cam``, ``-places``) and, where one fits corrected, how.

    Args:
        rows: of scored scans; the number in a file's name is the place among them, from 1.
        detector: the one that scored them.
        folder: where the pictures go.
        base: the folder that relative sources are relative to.
        read: the options that the run was read with.
        language: of the reasons.
        identifiers: keep what the headers say of patients and studies.
        advance: called with the number of scans done.

    Returns:
        for each row the file names and the reasons; or why there are none, where the original is gone or has changed.
    """
    read, places = read or ReadConfig(), {id(row): place for place, row in enumerate(rows)}
    drawn = [EvidencePictures()] * len(rows)
    distances = Distances.of(detector)
    found = originals(rows, base, read)
    while some := list(itertools.islice(found, _BATCH)):
        there = [(row, original) for row, original in some if isinstance(original, Original)]
        for row, original in some:
            if not isinstance(original, Original):
                drawn[places[id(row)]] = EvidencePictures(missing=language.say(original))
        if there:
            prepared = torch.stack([detector.prepare(original.scan) for _, original in there])
            scores = [row.score if row.score is not None else float("inf") for row, _ in there]
            maps, fitting = all_maps(detector, prepared), corrections(detector, prepared, scores)
            heats = {name: some / detector.scale_of(name) for name, some in maps.items()}
            for i, ((row, original), fits) in enumerate(zip(there, fitting, strict=True)):
                place, heat = places[id(row)], {name: some[i] for name, some in heats.items()}
                said = sentences(
                    on_picture(heat.get("both", heat["grad_cam"]), _small(original.scan), detector.preprocess.fit),
                    1.0,
                    fits,
                    (row.facts.get("nearest") or [None])[0],
                    distances,
                    row.facts.get("attributes", {}),
                    language,
                )
                names, peak = _draw(original.scan, heat, fits, detector.preprocess.fit, folder, place + 1)
                stated = patient_and_study(original.source, read) if identifiers else {}
                told = language.say(fits.done) if fits else ""
                drawn[place] = EvidencePictures(**names, peak=peak, correction=told, reasons=tuple(said), identifiers=stated)
        advance(len(some))
    return drawn


def _draw(
    scan: Scan, heat: dict[str, Map], fits: Correction | None, fit: str, folder: Path, number: int
) -> tuple[dict[str, str], tuple[float, float] | None]:
    """Write the pictures of one scan; their names by what they show, and where both maps together peak."""
    name = f"scan-{number:04d}"
    picture = _shrunk(scan.pixels[0], scan.aspect)
    on = {which: on_picture(some, picture.shape, fit) for which, some in heat.items()}
    joint = on.get("both", on["grad_cam"])
    row, col = np.unravel_index(int(joint.argmax()), joint.shape)
    one_place = standing_out(heat.get("both", heat["grad_cam"]), 1.0)[0] == "one place"
    peak = (round((row + 0.5) / joint.shape[0], 4), round((col + 0.5) / joint.shape[1], 4)) if one_place else None
    made = {
        "picture": (f"{name}.jpg", _grey(picture)),
        "overlay": (f"{name}-cam.jpg", ringed(blend(picture, on["grad_cam"]), peak)),
        "map": (f"{name}-cam.png", _map_alone(heat["grad_cam"], picture.shape, fit, ACCENT)),
    }
    if "places" in on:
        made["unusual"] = (f"{name}-places.jpg", ringed(blend(picture, on["places"], PLACES), peak))
        made["places"] = (f"{name}-places.png", _map_alone(heat["places"], picture.shape, fit, PLACES))
    if fits:
        undone = CORRECTIONS[fits.done](torch.from_numpy(picture)[None])[0].numpy()
        made["corrected"] = (f"{name}-fits.jpg", _grey(undone))
    for file, image in made.values():
        image.save(folder / file, quality=_QUALITY)
    return {what: file for what, (file, _) in made.items()}, peak


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
