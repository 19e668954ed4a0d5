"""Trains the lesion networks of the seventh and eighth round in a given time: on one GPU all at once, or one on a CPU.

  python -m reports.cross_site.gpu train FOLDER OUT SECONDS [NAME ...]

FOLDER holds films.zip, packed by reports.cxr_small.gpu, and start.safetensors, the network of the round before. With DRY=1
in the environment it is a dry run on a CPU.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from medood.config.loader import load_config
from medood.config.schema import RunConfig
from medood.detection.detector import Detector
from medood.detection.lesions.network import LesionNetwork
from medood.detection.lesions.training import LesionTrainer
from medood.distillation.trainer import machine
from reports.cxr_small.gpu import unpack

CONFIG = Path(__file__).parents[2] / "configs" / "cxr_small_lesions.yaml"
#: What is changed in the configuration.
RECIPES = {
    "further": ["train.seed=0", "lesions.weights=START", "lesions.learning_rate=0.001"],
    "anew": ["train.seed=1", "lesions.learning_rate=0.0014"],
    "fine": ["train.seed=2", "lesions.weights=START", "lesions.size=256", "lesions.learning_rate=0.001"],
}
#: On a CPU: python -m reports.cross_site.gpu train FOLDER OUT SECONDS slowly
ON_CPU = {
    "slowly": [
        *("train.seed=0", "lesions.weights=START", "lesions.batch_size=48", "lesions.learning_rate=0.0006"),
        *("train.device=cpu", "train.precision=bf16-mixed"),
    ],
    # the eighth round: FOLDER/start.safetensors is the network of the seventh
    "adapted": [
        *("train.seed=3", "lesions.weights=START", "lesions.batch_size=48", "lesions.learning_rate=0.0006"),
        *("train.device=cpu", "train.precision=bf16-mixed"),
    ],
}
BATCH = 256
#: Every tenth training radiograph is kept out of the training, for standardisation.
KEPT = 10
DRY = ["train.device=cpu", "lesions.batch_size=8", "lesions.size=64"]
#: Seconds in which each process measures its speed beside the others, of which the first are not counted.
PROBE, WARM = 14.0, 7.0
#: Seconds after which what there is is written, so that little is lost with the machine.
WRITE = 60.0


class OutOfTimeError(Exception):
    """The time is up; the average so far is kept."""


def recipe(name: str, folder: Path, start: Path, epochs: int) -> RunConfig:
    changes = [change.replace("START", str(start)) for change in (RECIPES | ON_CPU)[name]]
    dry = DRY if "DRY" in os.environ else []
    fixed = [f"lesions.epochs={epochs}", f"lesions.batch_size={BATCH}", f"data.root={folder}"]
    return load_config(CONFIG, [*fixed, *changes, *dry])


def started(folder: Path, out: Path, detector: Detector) -> Path:
    """The network to start from; that of the fifth round gets a head for faults that knows nothing yet."""
    path = out / "start.safetensors"
    network = LesionNetwork(detector.model, 192)
    torch.nn.init.zeros_(network.fault.weight), torch.nn.init.zeros_(network.fault.bias)
    heads = {name: value for name, value in network.state_dict().items() if name.startswith("fault.")}
    save_file({**heads, **load_file(folder / "start.safetensors")}, path)
    return path


def epochs_that_fit(trainer: Callable[[int], LesionTrainer], until: float) -> int:
    """The number of epochs that fit in the time, by a first measurement beside the other trainings."""
    begun, times = time.time(), list[float]()

    def probe(loss: float) -> None:
        times.append(time.time())
        if times[-1] > begun + PROBE:
            raise OutOfTimeError

    with contextlib.suppress(OutOfTimeError):
        trainer(10_000).fit(probe)
    counted = [moment for moment in times if moment > begun + WARM]
    each = (counted[-1] - counted[0]) / (len(counted) - 1)
    return max(1, int(0.96 * (until - time.time()) / each / trainer(1).steps_per_epoch))


def train_one(name: str, folder: Path, out: Path, until: float) -> None:
    torch.set_num_threads(2)
    detector = Detector.load("cxr-small")
    assert detector.network.appearance is not None
    images, numbers = unpack(folder, 224)
    images = images[[number % KEPT > 0 for number in numbers]]
    work = out / "work" / name
    work.mkdir(parents=True, exist_ok=True)
    start = started(folder, work, detector)

    def trainer(epochs: int) -> LesionTrainer:
        config = recipe(name, folder, start, epochs)
        device, precision = machine(config)
        registration = detector.network.appearance.registration  # type: ignore[union-attr]
        backbone = detector.network.backbone.state_dict()
        return LesionTrainer(config, backbone, images, registration, work / "checkpoints", device, precision, "packed")

    plan = work / "epochs"
    goes_on = plan.exists()  # where an earlier call stopped
    if not goes_on:
        plan.write_text(str(epochs_that_fit(trainer, until)))
    epochs = int(plan.read_text())
    learner, losses = trainer(epochs), list[float]()
    if goes_on:
        learner.resume()
    first = learner.next_step
    print(f"{name}: from step {first} of {learner.steps}", flush=True)
    begun = written = time.time()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    def write(ended: str) -> None:
        tensors = {key: value.detach().cpu().half().contiguous() for key, value in learner.average.state_dict().items()}
        save_file(tensors, out / f"{name}.safetensors")
        with (out / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["steps", "loss"])
            writer.writerows((first + i, f"{sum(losses[i - 100 : i]) / 100:.4f}") for i in range(100, len(losses) + 1, 100))
        run = {"epochs": epochs, "steps": first + len(losses), "ended": ended, "seconds": round(time.time() - begun)}
        (out / f"{name}.json").write_text(json.dumps({**run, "device": device, "torch": torch.__version__}, indent=1) + "\n")

    def note(loss: float) -> None:
        nonlocal written
        losses.append(loss)
        if time.time() > until:
            raise OutOfTimeError
        if time.time() > written + WRITE:
            written = time.time()
            write("still running")
            print(name, first + len(losses), f"loss {sum(losses[-100:]) / len(losses[-100:]):.4f}", flush=True)

    ended = "at its end"
    try:
        learner.fit(note)
    except OutOfTimeError:
        ended = "out of time"
    write(ended)
    print(name, ended, first + len(losses), "steps", flush=True)


def main() -> None:
    what, folder, out, seconds, *names = sys.argv[1:]
    until = time.time() + float(seconds)
    if what == "one":
        train_one(names[0], Path(folder), Path(out), float(seconds))
        return
    here = [sys.executable, "-m", "reports.cross_site.gpu", "one", folder, out, str(until - 8.0)]
    running = [subprocess.Popen([*here, name]) for name in names or RECIPES]
    if any(one.wait() for one in running):
        sys.exit("a training failed; see above")


if __name__ == "__main__":
    main()
