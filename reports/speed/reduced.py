"""Compares decoding at the scored resolution with decoding whole: decisions, p-values and time by syntax; prints CSV.

Radiographs are stored large: enlarged to the stated side with bicubic interpolation, with the noise of a detector, at 12
bits (JPEG: 8), with a window over the range. Real DICOM files of MEDOOD_DATA whose frames are large enough are compared
too, one row for all.

Usage: MEDOOD_DATA=FOLDER python -m reports.speed.reduced cxr-small > reports/speed/reduced.csv
"""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.scans.reader import least_side_for, read_content
from medood.scans.scan import Identity, RefusedError, Scan
from tests.scans.films import write

#: Transfer syntax, side, number of radiographs.
KINDS = (
    (HTJ2KLossless, 1024, 1400),
    (JPEGBaseline8Bit, 1024, 500),
    (JPEG2000Lossless, 2048, 100),
    (HTJ2KLossless, 2048, 100),
)
RATE, BATCH, TIMED, REPEATS = 0.05, 32, 20, 5


def enlarged(path: Path, side: int, bits: int) -> npt.NDArray[np.int64]:
    """Stored values ``[side, side]`` of a radiograph, with noise of 1 % of the range."""
    image = np.asarray(Image.open(path).convert("L").resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    noise = np.random.default_rng(int(path.stem.split("_")[-1])).normal(0.0, 0.01, image.shape)
    stored: npt.NDArray[np.int64] = np.rint(np.clip(image + noise, 0.0, 1.0) * (2**bits - 1)).astype(np.int64)
    return stored


def read(content: bytes, least_side: int) -> list[Scan]:
    try:
        return list(read_content(content, Identity("film"), ReadConfig(frames="first"), least_side))
    except RefusedError:
        return []


def radiographs(count: int, side: int, syntax: str) -> Iterator[bytes]:
    root = Path(os.environ["MEDOOD_DATA"])
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    paths = [*sorted((root / "in_distribution" / "test").glob("*.jpg")), *sorted((root / "near").rglob("*.jpg"))]
    for path in paths[:: max(1, len(paths) // count)][:count]:
        yield write(enlarged(path, side, bits), bits, syntax, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits)


def files() -> Iterator[bytes]:
    for path in sorted((Path(os.environ["MEDOOD_DATA"]) / "dicom").rglob("*")):
        if path.is_file():
            yield path.read_bytes()


def milliseconds(contents: list[bytes], least_side: int) -> tuple[float, float]:
    """Median time to read one file whole, and at the scored resolution, alternating."""
    seconds = []
    for _ in range(REPEATS):
        pair = []
        for side in (0, least_side):
            started = time.perf_counter()
            for content in contents:
                read(content, side)
            pair.append((time.perf_counter() - started) / len(contents))
        seconds.append(pair)
    whole, reduced = np.median(np.array(seconds), axis=0) * 1000
    return float(whole), float(reduced)


def compare(detector: Detector, contents: Callable[[], Iterator[bytes]]) -> list[float]:
    """Number compared and reduced; share of equal decisions; largest and mean difference of scores and p-values; times."""
    side = least_side_for(detector.preprocess.size, ReadConfig())
    both: list[npt.NDArray[np.float64]] = []
    timed: list[bytes] = []
    waiting: list[torch.Tensor] = []

    def flush() -> None:
        if waiting:
            scores = detector.raw_scores(detector.embed(torch.stack(waiting)))
            p_values = detector.calibration.p_values(scores, [""] * len(scores))
            both.append(np.stack([scores, p_values]).reshape(2, -1, 2))
            waiting.clear()

    for content in contents():
        whole, reduced = read(content, 0), read(content, side)
        if not whole or not reduced or reduced[0].grayscale.reduction == 1:
            assert len(whole) == len(reduced)
            continue
        waiting += [detector.prepare(scan[0]) for scan in (whole, reduced)]
        if len(timed) < TIMED:
            timed.append(content)
        if len(waiting) >= 2 * BATCH:
            flush()
    flush()
    pairs = np.concatenate(both, axis=1)
    equal = ((pairs[1, :, 0] <= RATE) == (pairs[1, :, 1] <= RATE)).mean()
    differences = [(difference.max(), difference.mean()) for difference in np.abs(pairs[..., 0] - pairs[..., 1])]
    return [pairs.shape[1], equal, *np.ravel(differences), *milliseconds(timed, side)]


def main() -> None:
    detector = Detector.load(sys.argv[1])
    columns = ["equal_decisions", *(f"{of}_{kind}_difference" for kind in ("score", "p") for of in ("largest", "mean"))]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["syntax", "side", "compared", *columns, "whole_ms", "reduced_ms"])
    for syntax, side, count in KINDS:
        compared, *rest = compare(detector, lambda c=count, s=side, u=syntax: radiographs(c, s, u))  # type: ignore[misc]
        writer.writerow([syntax.keyword, side, int(compared), *(f"{value:.4f}" for value in rest)])
        sys.stdout.flush()
    compared, *rest = compare(detector, files)
    writer.writerow(["real files", "", int(compared), *(f"{value:.4f}" for value in rest)])


if __name__ == "__main__":
    main()
