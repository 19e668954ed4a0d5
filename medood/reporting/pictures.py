"""Pictures of evidence: the scan as read, and the Grad-CAM of its score on the detector's one scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from medood.detection.detector import Detector
from medood.evidence.gradcam import grad_cam
from medood.evidence.reasons import CORRECTIONS, Distances, correction, sentences
from medood.scans.archive import Source, find_sources
from medood.scans.read import read_source
from medood.scans.scan import Scan
from medood.scans.transforms import square_shape
from medood.schema import ReadConfig
from medood.screening.ledger import Row, spelled

Map = npt.NDArray[np.float32]

#: The accent of the report, and the colour of evidence.
ACCENT = (208, 73, 28)
#: Longest side of a picture in the report, in pixels.
SIDE = 420


@dataclass(frozen=True)
class EvidencePictures:
    """File names of a scan's pictures, and what speaks for its decision.

    Attributes:
        picture: the scan as read.
        overlay: the same under its map.
        corrected: the scan after the one correction that makes it fit; empty where there is none.
        correction: what that correction is.
        reasons: sentences.
        missing: why there are no pictures; empty where there are.
    """

    picture: str = ""
    overlay: str = ""
    corrected: str = ""
    correction: str = ""
    reasons: tuple[str, ...] = ()
    missing: str = ""


def draw_evidence(
    row: Row,
    detector: Detector,
    folder: Path,
    name: str,
    base: Path = Path(),
    read: ReadConfig | None = None,
    *,
    distances: Distances | None = None,
) -> EvidencePictures:
    """Read the scan again and write ``<name>.png``, ``<name>-cam.png`` and, where it fits corrected, ``<name>-fits.png``.

    Args:
        row: of a scored scan.
        detector: the one that scored it.
        folder: where the pictures go.
        name: their stem.
        base: the folder that a relative source is relative to.
        read: the options that the run was read with.
        distances: of the calibration scans; made anew where they are not given.

    Returns:
        the file names and the reasons; or the reason, where the original is gone or has changed.
    """
    again = read_again(row, base, read or ReadConfig())
    if isinstance(again, str):
        return EvidencePictures(missing=again)
    scan = again[1]
    prepared = detector.prepare(scan)
    raw = grad_cam(detector, prepared[None])[0]
    found = correction(detector, prepared)
    nearest = row.facts.get("nearest") or [None]
    said = sentences(
        raw, detector.cam_scale, found, nearest[0], distances or Distances.of(detector), row.facts.get("attributes", {})
    )
    picture = _shrunk(scan.pixels[0], scan.aspect)
    heat = on_picture(raw / detector.cam_scale, picture.shape, detector.preprocess.fit)
    _grey(picture).save(folder / f"{name}.png")
    blend(picture, heat).save(folder / f"{name}-cam.png")
    if found:
        _grey(CORRECTIONS[found.done](torch.from_numpy(picture)[None])[0].numpy()).save(folder / f"{name}-fits.png")
    return EvidencePictures(
        f"{name}.png", f"{name}-cam.png", f"{name}-fits.png" if found else "", found.done if found else "", tuple(said)
    )


def _grey(picture: Map) -> Image.Image:
    return Image.fromarray(np.rint(picture * 255).astype(np.uint8))


def blend(picture: Map, heat: Map) -> Image.Image:
    """Lay the accent colour over a grey picture, as strong as the heat (0 to 1, clipped)."""
    share = 0.75 * np.clip(heat, 0.0, 1.0)[..., None]
    colour = np.array(ACCENT, dtype=np.float32) / 255.0
    mixed = (1.0 - share) * picture[..., None] + share * colour
    return Image.fromarray(np.rint(mixed * 255).astype(np.uint8))


def read_again(row: Row, base: Path, options: ReadConfig) -> tuple[Source, Scan] | str:
    """The scan of a row and where it was found; or why it cannot be had: it is gone, or has changed.

    Args:
        row: of a scored scan.
        base: the folder that a relative source is relative to.
        options: those that the run was read with.
    """
    changed = False
    try:
        for source in find_sources(base / row.source, options):
            if isinstance(source, Source) and spelled(source.member) == row.member:
                for result in read_source(source, options):
                    changed = changed or result.identity.sha256 != row.sha256
                    if isinstance(result, Scan) and (result.identity.sha256, result.identity.frame) == (
                        row.sha256,
                        row.frame,
                    ):
                        return source, result
    except OSError:
        pass
    return "the file has changed since it was screened" if changed else "the file is no longer where it was screened"


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
