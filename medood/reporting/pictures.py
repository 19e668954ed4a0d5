"""Pictures of evidence: the scan as read, and the Grad-CAM of its score on the detector's one scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from medood.detection.detector import Detector
from medood.evidence.gradcam import grad_cam
from medood.scans.archive import Source, find_sources
from medood.scans.read import read_source
from medood.scans.scan import Scan
from medood.scans.transforms import square_shape
from medood.schema import PreprocessConfig, ReadConfig
from medood.screening.ledger import Row, spelled

Map = npt.NDArray[np.float32]

#: The accent of the report, and the colour of evidence.
ACCENT = (208, 73, 28)
#: Longest side of a picture in the report, in pixels.
SIDE = 420


@dataclass(frozen=True)
class EvidencePictures:
    """File names of a scan's pictures; ``missing`` says why there are none, and is empty where there are."""

    picture: str = ""
    overlay: str = ""
    missing: str = ""


def draw_evidence(
    row: Row, detector: Detector, folder: Path, name: str, base: Path = Path(), read: ReadConfig | None = None
) -> EvidencePictures:
    """Read the scan again and write ``<name>.png`` and ``<name>-cam.png``.

    Args:
        row: of a scored scan.
        detector: the one that scored it.
        folder: where the pictures go.
        name: their stem.
        base: the folder that a relative source is relative to.
        read: the options that the run was read with.

    Returns:
        the file names; or the reason, where the original is gone or has changed.
    """
    scan = _read_again(row, base, read or ReadConfig())
    if isinstance(scan, str):
        return EvidencePictures(missing=scan)
    raw = grad_cam(detector, detector.prepare(scan)[None])[0]
    picture = _shrunk(scan.pixels[0], scan.aspect)
    heat = _on_picture(raw / detector.cam_scale, picture.shape, detector.preprocess)
    grey = Image.fromarray(np.rint(picture * 255).astype(np.uint8))
    grey.save(folder / f"{name}.png")
    blend(picture, heat).save(folder / f"{name}-cam.png")
    return EvidencePictures(f"{name}.png", f"{name}-cam.png")


def blend(picture: Map, heat: Map) -> Image.Image:
    """Lay the accent colour over a grey picture, as strong as the heat (0 to 1, clipped)."""
    share = 0.75 * np.clip(heat, 0.0, 1.0)[..., None]
    colour = np.array(ACCENT, dtype=np.float32) / 255.0
    mixed = (1.0 - share) * picture[..., None] + share * colour
    return Image.fromarray(np.rint(mixed * 255).astype(np.uint8))


def _read_again(row: Row, base: Path, options: ReadConfig) -> Scan | str:
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
                        return result
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


def _on_picture(heat: Map, shape: tuple[int, ...], preprocess: PreprocessConfig) -> Map:
    """Bring a map from the network's square to the picture, undoing crop and fit; 0 where it did not look."""
    height, width = shape
    sides = (width, height) if preprocess.fit == "squash" else (max(width, height),) * 2
    seen = (max(1, round(sides[0] * preprocess.crop)), max(1, round(sides[1] * preprocess.crop)))
    inner = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(seen, Image.Resampling.BICUBIC))
    large = np.zeros(sides[::-1], dtype=np.float32)
    top, left = (sides[1] - seen[1]) // 2, (sides[0] - seen[0]) // 2
    large[top : top + seen[1], left : left + seen[0]] = inner
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return np.asarray(np.maximum(large[top : top + height, left : left + width], 0.0), dtype=np.float32)
