"""One class of CIFAR-10 against nine, and six against four: trains a detector for each and measures its scores.

Usage: python -m reports.cifar10.study RESULTS.csv WORK one|six NEGATIVES [CLASS_OR_SPLIT ...] [key=value ...]
NEGATIVES is one of `none`, `rot`, `rot_360`, `perm4`, `perm16`, `pixel_perm`, `auxiliary` (quarter turns, of textures too),
or `rot_head` (quarter turns, and the head that predicts them: the configuration as it is). Without that head the score is
chosen on development photographs. Without a list all ten classes, or all five splits, are trained. A row that RESULTS.csv
holds is not made again, and an interrupted training goes on. MEDOOD_DATA names the folder with cifar10/train.zip and
test.zip.
"""

from __future__ import annotations

import csv
import os
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from medood.config.loader import load_config
from medood.config.schema import RunConfig
from medood.detection.detector import Detector
from medood.detection.features import embed
from medood.detection.scores import scores_of
from medood.evaluation.metrics import draw, separation
from medood.progress import Progress
from medood.scans.cache import build_cache
from medood.workflows.train import train
from medood.workflows.training_data import to_input

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: The six classes that are in distribution, five times; drawn once with random.Random(0).
SPLITS = ("0,2,3,4,6,9", "1,2,4,6,7,8", "0,1,2,4,7,8", "0,2,4,5,7,8", "1,2,3,5,6,7")
FIELDS = (
    *("protocol", "in_distribution", "negatives", "seed", "steps", "seconds", "threads", "score", "chosen"),
    *("auroc", "low", "high"),
)
#: Bootstrap draws of each interval.
REPEATS = 300


def main() -> None:
    results, work, protocol, negatives = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    overrides = [text for text in sys.argv[5:] if "=" in text]
    chosen = [text for text in sys.argv[5:] if "=" not in text] or list(CLASSES if protocol == "one" else SPLITS)
    data = unpacked(work / "data")
    for inside in chosen:
        names = [inside] if protocol == "one" else [CLASSES[int(number)] for number in inside.split(",")]
        config = configured(work, data, protocol, inside, names, negatives, overrides)
        if not done(results, protocol, inside, negatives, config.train.seed):
            started = time.perf_counter()
            train(config, resume=True, progress=Progress(quiet=True))
            seconds = time.perf_counter() - started
            measure(results, Detector.load(config.out), data, (protocol, inside, negatives), names, config, seconds)


def unpacked(folder: Path) -> Path:
    """The photographs as files, a folder for each class."""
    for part in ("train", "test"):
        if not (folder / part).exists():
            with zipfile.ZipFile(Path(os.environ["MEDOOD_DATA"]) / "cifar10" / f"{part}.zip") as archive:
                archive.extractall(folder / f"{part}.partial")
            inner = folder / f"{part}.partial"
            (inner / part if (inner / part).is_dir() else inner).rename(folder / part)
    return folder


def configured(
    work: Path, data: Path, protocol: str, inside: str, names: list[str], negatives: str, overrides: list[str]
) -> RunConfig:
    table = work / "tables" / f"{protocol}-{inside}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    files = [path for name in names for path in sorted((data / "train" / name).iterdir())]
    table.write_text("file\n" + "".join(f"{path.absolute()}\n" for path in files))
    keys = {
        "rot_head": [],
        "none": ["negatives.mixture={}"],
        "auxiliary": ["negatives.sources=both", f"negatives.auxiliary=[{os.environ['MEDOOD_DATA']}/far/textures]"],
    }.get(negatives, [f"negatives.mixture={{{negatives}: 1}}"])
    if negatives != "rot_head":
        keys += ["model.rotation_head=false", "detector.score=auto"]
    name = f"{protocol}-{inside.replace(',', '')}-{negatives}"
    config = load_config(Path("configs/cifar10_small.yaml"), [f"data.root={table}", *keys, *overrides])
    config.out = str(work / f"{name}-{config.train.seed}")
    return config


def done(results: Path, *row: object) -> bool:
    if not results.exists():
        return False
    with results.open(newline="") as stream:
        return any(tuple(line[name] for name in FIELDS[:4]) == tuple(map(str, row)) for line in csv.DictReader(stream))


def measure(
    results: Path,
    detector: Detector,
    data: Path,
    row: tuple[str, str, str],
    names: list[str],
    config: RunConfig,
    seconds: float,
) -> None:
    inside, outside = (
        embed(detector.network, torch.cat([photographs(data, name, detector) for name in part]))
        for part in (names, [name for name in CLASSES if name not in names])
    )
    others, own = (np.array([f"{side}{i}" for i in range(len(rows))]) for side, rows in (("o", outside), ("i", inside)))
    draws = draw(others, own, REPEATS, 0)
    rows = []
    for score in scores_of(inside):
        raw = detector.raw_scores(outside, score), detector.raw_scores(inside, score)
        figure = separation(*raw, draws).auroc
        plain = roc_auc_score(np.r_[np.ones(len(outside)), np.zeros(len(inside))], np.r_[raw])
        assert abs(figure.value - plain) < 1e-6
        figures = [f"{value:.4f}" for value in (figure.value, figure.low, figure.high)]
        steps = detector.metadata.training["steps"]
        is_chosen = score == detector.score_name
        rows.append([*row, config.train.seed, steps, round(seconds), torch.get_num_threads(), score, is_chosen, *figures])
    is_new = not results.exists()
    with results.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if is_new:
            writer.writerow(FIELDS)
        writer.writerows(rows)
    print(*row, {line[7]: line[9] for line in rows}, flush=True)


def photographs(data: Path, name: str, detector: Detector) -> torch.Tensor:
    cache = build_cache(data / "test" / name, data / "cache", detector.preprocess, detector.preprocess.size)
    return to_input(cache.images)


if __name__ == "__main__":
    main()
