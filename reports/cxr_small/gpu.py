"""Trains candidates for the shipped detector, and the large one of ``configs/cxr.yaml``, on one GPU in a given time.

The GPU needs the images alone, so three steps, of which the middle one runs where the GPU is:

  python -m reports.cxr_small.gpu pack FOLDER                            the training radiographs, as WebP, in one file
  python -m reports.cxr_small.gpu train FOLDER OUT SECONDS [NAME ...]    all recipes at once, each in as many epochs as fit
  python -m reports.cxr_small.gpu finish NAME OUT DETECTOR               bank, score, calibration and evidence, on a CPU

MEDOOD_DATA names the folder of real images (pack, finish). Dry run of the second step on a CPU:
  DRY=1 python -m reports.cxr_small.gpu train FOLDER OUT 120 first
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers import set_fast_norm
from torch import Tensor
from torch.nn.functional import interpolate

from medood.config.loader import load_config
from medood.config.schema import RunConfig
from medood.distillation.trainer import TerminatedError, Trainer
from medood.distillation.training_log import Metrics

CONFIGS = Path(__file__).parents[2] / "configs"
SIDE = 224
#: A configuration and what is changed in it.
RECIPES: dict[str, tuple[str, list[str]]] = {
    "first": ("cxr_small", []),
    "further": ("cxr_small_further", ["model.weights=runs/gpu/first/network-1.safetensors"]),
    "vit": (
        "cxr_small",
        [
            "model.backbone=vit_tiny_patch16_224",
            "model.drop_path=0.1",
            "preprocess.size=160",
            "views.source_size=224",
            "views.local_size=80",
            "views.blur_sigma=2.0",
        ],
    ),
    "large": ("cxr", []),
}
THREADS = "train.threads=3"
DRY = ["train.device=cpu", "train.batch_size=8", "preprocess.size=32", "views.local_size=32", "train.compile=false"]
#: Seconds in which each process measures its speed beside the others, of which the first are not counted.
PROBE, WARM = 12.0, 6.0
#: Seconds after which what there is is written, so that little is lost with the machine; most bytes of one file.
WRITE, LARGEST = 60.0, 14 * 2**20


def recipe(name: str, *more: str) -> RunConfig:
    config, overrides = RECIPES[name]
    dry = DRY if "DRY" in os.environ else []
    return load_config(CONFIGS / f"{config}.yaml", [*overrides, *dry, *more])


def data(name: str, *more: str) -> RunConfig:
    films = Path(os.environ["MEDOOD_DATA"]) / "in_distribution"
    return recipe(name, f"data.root={films / 'train'}", f"data.calibration_root={films / 'calibration'}", *more)


def pack(folder: Path) -> None:
    from medood.progress import Progress
    from medood.workflows.training_data import training_data

    found = training_data(data("vit", f"out={folder}", f"data.cache={folder}/cache"), Progress(quiet=False))
    with zipfile.ZipFile(folder / "films.zip", "w") as films:
        for i in found.training:
            stream = io.BytesIO()
            Image.fromarray(found.source.images[i]).save(stream, "WEBP", quality=85, method=6)
            films.writestr(f"{i:05d}.webp", stream.getvalue())
    print(folder / "films.zip", (folder / "films.zip").stat().st_size, "bytes,", len(found.training), "films")


def unpack(folder: Path, side: int) -> tuple[np.ndarray[Any, Any], list[int]]:
    """The packed radiographs, uint8 ``[N, side, side]``, and the number of each among the files of the folder."""
    with zipfile.ZipFile(folder / "films.zip") as films:
        numbers = sorted(int(Path(name).stem) for name in films.namelist())
        packed = [films.read(f"{number:05d}.webp") for number in numbers]
    with ThreadPoolExecutor(8) as pool:
        images = np.stack(list(pool.map(lambda some: np.asarray(Image.open(io.BytesIO(some)).convert("L")), packed)))
    if side == SIDE:
        return images, numbers
    parts = [
        interpolate(torch.from_numpy(some)[:, None].float(), (side, side), mode="bilinear", antialias=True)[:, 0]
        for some in np.array_split(images, len(images) // 512 + 1)
    ]
    return torch.cat(parts).round().clamp(0, 255).byte().numpy(), numbers


def train_one(name: str, folder: Path, out: Path, until: float) -> None:
    """Measures its own speed, sets the epochs that fit, trains, and writes teacher, curve and facts."""
    set_fast_norm()  # normalisation in bf16 too
    work = out / "work" / name
    images = unpack(folder, recipe(name).views.source_size)[0]
    probe = Trainer(recipe(name, "train.epochs=1000", THREADS), images, work)
    for step in range(2):  # compiles, if the configuration says so
        probe.take_step(step, probe.rows_of(step))
    begun, counted, step = time.time(), [], 2
    while time.time() < begun + PROBE:
        probe.take_step(step, probe.rows_of(step))
        step += 1
        if time.time() > begun + WARM:
            counted.append(time.time())
    each = (counted[-1] - counted[0]) / (len(counted) - 1)
    epochs = max(1, int(0.96 * (until - time.time()) / each / probe.steps_per_epoch))
    print(f"{name}: {each:.4f} s a step of {probe.batch} radiographs, {epochs} epochs", flush=True)
    del probe
    trainer = Trainer(recipe(name, f"train.epochs={epochs}", THREADS), images, work)
    begun = written = time.time()
    result = out / name
    result.mkdir(parents=True, exist_ok=True)

    def write(ended: str) -> None:
        write_parts(trainer.teacher.state_dict(), result)
        shutil.copy(work / "training.csv", result / "training.csv")
        metadata = {
            "epochs": epochs,
            "steps": sum(1 for _ in (result / "training.csv").open()) - 1,
            "ended": ended,
            "seconds": round(time.time() - begun),
            "device": torch.cuda.get_device_name() if trainer.device == "cuda" else "cpu",
            "precision": trainer.precision,
            "torch": torch.__version__,
            "beside": sorted(os.environ.get("NAMES", name).split()),
        }
        (result / "run.json").write_text(json.dumps(metadata, indent=1) + "\n")
        print(name, metadata, flush=True)

    def note(step: int, steps: int, metrics: Metrics) -> None:
        nonlocal written
        if time.time() > written + WRITE:
            written = time.time()
            write("still running")

    ended = "at its end"
    try:
        trainer.fit(note)
    except TerminatedError as error:
        ended = str(error)
    write(ended)


def write_parts(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write tensors in half precision as ``network-1.safetensors`` and so on, each small enough to be fetched."""
    parts: list[dict[str, Tensor]] = [{}]
    for name, value in tensors.items():
        half = value.detach().cpu().half().contiguous()
        if parts[-1] and sum(some.nbytes for some in parts[-1].values()) + half.nbytes > LARGEST:
            parts.append({})
        parts[-1][name] = half
    for number, part in enumerate(parts, start=1):
        save_file(part, folder / f"network-{number}.safetensors")


def train(folder: Path, out: Path, seconds: float, names: list[str]) -> None:
    until = time.time() + seconds
    environment = os.environ | {"NAMES": " ".join(names)}
    here = [sys.executable, __file__, "one"]
    running = [subprocess.Popen([*here, name, str(folder), str(out), str(until - 8)], env=environment) for name in names]
    while any(one.poll() is None for one in running):
        time.sleep(0.5)
        if time.time() > until:
            for one in running:
                one.send_signal(signal.SIGTERM)  # a step ends, then what there is is written
            until += 30.0
    if any(one.returncode for one in running):
        sys.exit("a run failed; see above")


def finish(name: str, out: Path, detector: Path) -> None:
    """A checkpoint at the last step with the teacher's weights, from which ``medood train --resume`` makes the detector."""
    from medood import train as make
    from medood.detection.calibration import fingerprint
    from medood.detection.detector import Detector
    from medood.progress import Progress
    from medood.scans.lazy_arrays import RowSubset as Rows
    from medood.workflows.training_data import training_data

    metadata = json.loads((out / name / "run.json").read_text())
    config = data(name, f"train.epochs={metadata['epochs']}", f"out={detector}")
    found = training_data(config, Progress(quiet=False))
    rows = Rows(found.source.images, found.training)
    trainer = Trainer(config, rows, detector, fingerprint([found.inputs.keys[i] for i in found.training]))
    parts = [load_file(path) for path in sorted((out / name).glob("network-*.safetensors"))]
    weights = {key: value.float() for part in parts for key, value in part.items()}
    trainer.teacher.load_state_dict(weights)
    trainer.student.module.load_state_dict(weights)
    detector.mkdir(parents=True, exist_ok=True)
    (detector / "training.csv").write_bytes((out / name / "training.csv").read_bytes())
    trainer._save(trainer.steps)
    made = Detector.load(make(config, resume=True, progress=Progress(quiet=False)))
    made.metadata.training.update({key: metadata[key] for key in ("steps", "device", "precision")})
    made.save(detector)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "pack":
        pack(Path(rest[0]))
    elif what == "train":
        train(Path(rest[0]), Path(rest[1]), float(rest[2]), rest[3:] or list(RECIPES))
    elif what == "one":
        train_one(rest[0], Path(rest[1]), Path(rest[2]), float(rest[3]))
    elif what == "finish":
        finish(rest[0], Path(rest[1]), Path(rest[2]))
    else:
        sys.exit(__doc__)
