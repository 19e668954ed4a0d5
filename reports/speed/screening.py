"""How fast an archive is screened, against its parts and against a plain loop. Prints CSV.

Radiographs of about 2 MB, half in JPEG 2000, half in JPEG Lossless, each with bytes of its own. In each round, one after
another,
each in a process of its own: decoding alone and the network alone, each on all cores; a run, end to end, with worker
processes, in one process, and on two Dask workers; and, on the first radiographs, a plain loop of MONAI's LoadImaged and
transforms with the same network.

Usage: python -m reports.screening.speed WORK [FILMS ROUNDS]
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from monai.transforms import Compose, LoadImaged, Resized, ScaleIntensityd
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1

from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.screening.run import screen
from medood.screening.run_options import RunOptions, cores
from medood.screening.screening_benchmark import decode_all, score_all

SIDE, BASES = 1180, 8


def films(folder: Path, count: int) -> None:
    """Write them, but where they are there."""
    if folder.exists() and len(list(folder.iterdir())) == count:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    bases = []
    for seed in range(BASES):
        image = frontal_chest(seed, 256).image
        large = np.kron(image, np.ones((SIDE // 256 + 1,) * 2))[:SIDE, :SIDE] * 3800.0
        pixels = np.clip(large + rng.normal(0, 60, large.shape), 0, 4095).astype(np.uint16)
        dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(image, f"{seed}")))
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        for name in ("WindowCenter", "WindowWidth", "PixelSpacing"):
            if name in dataset:
                delattr(dataset, name)
        even = seed % 2 == 0
        packed = imagecodecs.jpeg2k_encode(pixels, level=0) if even else imagecodecs.ljpeg_encode(pixels, bitspersample=12)
        dataset.PixelData = encapsulate([bytes(packed)])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless if even else JPEGLosslessSV1
        bases.append(dataset)
    for i in range(count):
        dataset = bases[i % BASES]
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{i + 1}"
        dataset.save_as(folder / f"{i:06d}.dcm", enforce_file_format=True)


def plain_loop(paths: list[Path], detector: Detector) -> None:
    side = detector.preprocess.size
    chain = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            ScaleIntensityd("image"),
            Resized("image", (side, side), mode="area"),
        ]
    )
    for path in paths:
        image = chain({"image": str(path)})["image"].as_tensor().float()
        detector.judge(detector.embed(image.reshape(1, 1, side, side)), 0.05)


def sides(work: Path) -> dict[str, tuple[int, Callable[[], object]]]:
    """What is timed: how many radiographs, and what is done with them."""
    detector = Detector.load("cxr-small")
    paths = sorted((work / "films").iterdir())

    def run(sources: list[Path], **options: object) -> Callable[[], object]:
        def begin() -> object:
            shutil.rmtree(work / "run", ignore_errors=True)
            return screen(sources, detector, work / "run", options=RunOptions(**options))  # type: ignore[arg-type]

        return begin

    few, whole, one = paths[: len(paths) // 4], [work / "films"], paths[:1]
    return {
        "decoding alone, all cores": (len(paths), lambda: decode_all(detector, work / "films", ReadConfig())),
        "network alone, all cores": (len(paths), lambda: score_all(detector, len(paths))),
        "a run with a worker process a core": (len(paths), run(whole, workers=cores())),
        "the same of one radiograph: starting up": (1, run(one, workers=cores())),
        "a run in one process": (len(paths), run(whole)),
        "a run on two Dask workers": (len(paths), run(whole, workers=2, engine="dask")),
        "a Dask run of one radiograph: starting up": (1, run(one, workers=2, engine="dask")),
        "a plain loop, one scan at a time": (len(few), lambda: plain_loop(few, detector)),
    }


def main() -> None:
    work, count, rounds = Path(sys.argv[1]), *(int(text) for text in sys.argv[2:4] or ("400", "3"))
    films(work / "films", count)
    size = sum(path.stat().st_size for path in (work / "films").iterdir()) / count / 1e6
    print(f"round,what,films,megabytes_each,seconds,films_per_second,cores={cores()}", flush=True)
    for number in range(rounds):
        for what in sides(work):
            made = subprocess.run([sys.executable, __file__, str(work), "--side", what], stdout=subprocess.PIPE, check=True)
            some, seconds = made.stdout.decode().split()
            rate = int(some) / float(seconds)
            print(f'{number},"{what}",{some},{size:.2f},{float(seconds):.2f},{rate:.3f},', flush=True)


def timed(work: Path, what: str) -> None:
    """One side, in a process of its own; imports and the detector's loading are not counted."""
    count, side = sides(work)[what]
    started = time.perf_counter()
    side()
    print(count, time.perf_counter() - started)


if __name__ == "__main__":
    if sys.argv[2:3] == ["--side"]:
        timed(Path(sys.argv[1]), sys.argv[3])
    else:
        main()
