"""``training.csv`` and TensorBoard events of a run."""

from __future__ import annotations

import csv
from pathlib import Path

Metrics = dict[str, float]


class TrainingLog:
    """Logs one line per step; a resumed run overwrites the steps that it repeats.

    Args:
        folder: the run's folder.
        first_step: first step that will be written.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "training.csv"
        lines = path.read_text().splitlines(keepends=True) if first_step and path.exists() else []
        self._begun = [line for i, line in enumerate(lines) if i == 0 or int(line.split(",")[0]) < first_step]
        self._stream = path.open("w", buffering=1, newline="")
        self._stream.writelines(self._begun)
        self._writer: csv.DictWriter[str] | None = None
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)

    def write(self, step: int, metrics: Metrics) -> None:
        """Log one step."""
        columns = ["step", *(name for name in metrics if name != "effective_rank"), "effective_rank"]
        if self._writer is None:
            self._writer = csv.DictWriter(self._stream, columns)
            if not self._begun:
                self._writer.writeheader()
        self._writer.writerow({"step": step} | {name: f"{value:.6g}" for name, value in metrics.items()})
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    @staticmethod
    def last(folder: Path) -> Metrics:
        """The metrics of the last logged step; empty if there is no log."""
        path = folder / "training.csv"
        if not path.exists():
            return {}
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        return {name: float(value) for name, value in rows[-1].items() if value and name != "step"} if rows else {}

    def close(self) -> None:
        """Close both files."""
        self._stream.close()
        self._events.close()
