"""100,000 synthetic images of 224 x 224: the peak memory of training on them, which are mapped and not loaded.

``python -m tests.benchmarks.train_memory FOLDER`` needs 5 GB of disk in FOLDER.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np

from medood.config.loader import load_config
from medood.distillation.trainer import Trainer

COUNT, SIDE, STEPS = 100_000, 224, 40


class _EnoughError(Exception):
    """The steps are done."""


def main(folder: Path) -> None:
    path = folder / "pictures.u8"
    if not path.exists():
        rng = np.random.default_rng(0)
        with path.open("wb") as stream:
            for _ in range(COUNT // 1000):
                stream.write(rng.integers(0, 256, (1000, SIDE, SIDE), dtype=np.uint8).tobytes())
    images = np.memmap(path, dtype=np.uint8, mode="r", shape=(COUNT, SIDE, SIDE))
    overrides = ["train.epochs=1", "train.batch_size=64", f"views.source_size={SIDE}"]
    trainer = Trainer(load_config(Path("configs/demo.yaml"), overrides), images, folder)

    def on_step(step: int, steps: int, metrics: dict[str, float]) -> None:
        if step + 1 == STEPS:
            raise _EnoughError

    try:
        trainer.fit(on_step)
    except _EnoughError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{COUNT:,} images of {SIDE} x {SIDE}, {STEPS} steps of 64: peak {peak:.2f} GiB (mapped pages included)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
