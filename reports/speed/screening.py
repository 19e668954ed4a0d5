"""How fast archives are screened, against their parts and against a plain loop. Prints CSV.

Archives of DICOM radiographs of 2048 x 2048 pixels at 12 bits in three syntaxes, and of PNGs of 224 x 224. In each round,
one after another, each in a process of its own: decoding alone and the networks alone, each on all cores; a run with a
worker process a core, and one of a single image, which is its start; a run on two Dask workers (HTJ2K only); and, on the
first files, a plain loop of MONAI's LoadImaged and transforms with the same detector (not for JPEG Lossless, which MONAI
cannot read with what medood installs). Imports and loading the detector are not counted; starting worker processes is.

Usage: MEDOOD_DATA=FOLDER python -m reports.speed.screening WORK [RADIOGRAPHS PNGS ROUNDS] > reports/speed/screening.csv
(nothing else should run)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from monai.transforms import Compose, LoadImaged, Resized, ScaleIntensityd
from PIL import Image
from pydicom.uid import UID, HTJ2KLossless, JPEG2000Lossless, JPEGLosslessSV1

from medood.allocator import keep_freed_memory
from medood.config.schema import ReadConfig
from medood.detection.detector import Detector
from medood.screening.run import screen
from medood.screening.run_options import RunOptions, cores
from medood.screening.screening_benchmark import decode_all, score_all
from reports.speed.reduced import enlarged
from tests.scans.films import write

SYNTAXES: dict[str, UID] = {"JPEG 2000": JPEG2000Lossless, "HTJ2K": HTJ2KLossless, "JPEG Lossless": JPEGLosslessSV1}
PNG, ON_DASK, NOT_IN_MONAI = "PNG", "HTJ2K", "JPEG Lossless"
#: Images of a plain loop.
FEW = 20
#: Side of the radiographs, how many of them are encoded (each stands for several files), and side of the PNGs.
SIDE, ENCODED, SMALL = 2048, 50, 224


def make_archives(work: Path, radiographs: int, pngs: int) -> None:
    """Write the archives that are not there yet."""
    root = Path(os.environ["MEDOOD_DATA"]) / "in_distribution"
    paths = sorted(root.rglob("*.jpg"))
    for name, syntax in SYNTAXES.items():
        with_folder(work / name, partial(encode, paths, syntax, radiographs))
    with_folder(work / PNG, partial(shrink, paths[:pngs]))


def with_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    if not folder.exists():
        unfinished = folder.with_suffix(".partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        fill(unfinished)
        unfinished.rename(folder)


def encode(paths: list[Path], syntax: UID, count: int, folder: Path) -> None:
    for number, path in enumerate(paths[:ENCODED]):
        image = enlarged(path, SIDE, 12)
        content = write(image, 12, syntax, WindowCenter=2048, WindowWidth=4096, PatientID="#" * 8)
        for copy in range(number, count, ENCODED):  # bytes of its own: a file seen before is not scored again
            (folder / f"{copy:05d}.dcm").write_bytes(content.replace(b"#" * 8, f"{copy:08d}".encode()))


def shrink(paths: list[Path], folder: Path) -> None:
    for number, path in enumerate(paths):
        Image.open(path).convert("L").resize((SMALL, SMALL)).save(folder / f"{number:05d}.png")


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


def sides(work: Path, archive: str) -> dict[str, tuple[int, Callable[[], object]]]:
    """What is timed: how many images, and what is done with them."""
    detector = Detector.load("cxr-small")
    paths = sorted((work / archive).iterdir())

    def run(sources: Path, engine: str = "local") -> Callable[[], object]:
        shutil.rmtree(work / "run", ignore_errors=True)
        options = RunOptions(workers=2 if engine == "dask" else cores(), engine=engine)
        return lambda: screen([sources], detector, work / "run", options=options)

    whole, few = work / archive, paths[:FEW]
    timed: dict[str, tuple[int, Callable[[], object]]] = {
        "decoding alone": (len(paths), lambda: decode_all(detector, whole, ReadConfig())),
        "a run": (len(paths), run(whole)),
    }
    if archive != NOT_IN_MONAI:
        timed["a plain loop"] = (FEW, lambda: plain_loop(few, detector))
    if archive == ON_DASK:
        timed["a run on two Dask workers"] = (len(paths), run(whole, "dask"))
        timed["a Dask run of one image"] = (1, run(paths[0], "dask"))
    if archive == PNG:
        timed["networks alone"] = (len(paths), lambda: score_all(detector, len(paths)))
        timed["a run of one image"] = (1, run(paths[0]))
    return timed


def main() -> None:
    work, radiographs, pngs, rounds = Path(sys.argv[1]), *(int(text) for text in sys.argv[2:5] or ("300", "1500", "3"))
    make_archives(work, radiographs, pngs)
    print(f"round,archive,what,images,seconds,images_per_second,cores={cores()}", flush=True)
    for number in range(rounds):
        for archive in (*SYNTAXES, PNG):
            for what in sides(work, archive):
                command = [sys.executable, "-m", "reports.speed.screening", str(work), "--side", archive, what]
                count, seconds = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().split()
                rate = int(count) / float(seconds)
                print(f"{number},{archive},{what},{count},{float(seconds):.2f},{rate:.3f},", flush=True)


def timed(work: Path, archive: str, what: str) -> None:
    """One side, in a process of its own."""
    keep_freed_memory()
    count, side = sides(work, archive)[what]
    started = time.perf_counter()
    side()
    print(count, time.perf_counter() - started)


if __name__ == "__main__":
    if sys.argv[2:3] == ["--side"]:
        timed(Path(sys.argv[1]), *sys.argv[3:5])
    else:
        main()
