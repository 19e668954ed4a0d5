"""Settings that follow the data where a configuration leaves them open: resolved once, printed, and saved as numbers."""

from __future__ import annotations

import copy

from medood.config.schema import RunConfig

#: Pictures from which on the published settings are used; below, they collapse to uniform (reports/training).
_MANY = 100_000


def resolved(config: RunConfig, count: int) -> tuple[RunConfig, list[str]]:
    """Replace what is open (0, or an empty list) by what suits ``count`` pictures.

    Args:
        config: the run; it is not changed.
        count: training pictures.

    Returns:
        the run with numbers throughout, and a line for each that was open.
    """
    settled = copy.deepcopy(config)
    lines: list[str] = []
    many = count >= _MANY

    def settle(group: object, name: str, key: str, value: object) -> None:
        if not getattr(group, name):
            setattr(group, name, value)
            lines.append(f"{key} = {value} for {count:,} pictures")

    batch = max(2, min(128, 8 * (count // 256))) if count >= 512 else max(2, min(16, count // 4))
    settle(settled.train, "batch_size", "train.batch_size", batch)
    settle(settled.train, "epochs", "train.epochs", max(10, min(400, round(600_000 / max(count, 1)))))
    settle(settled.model, "out_dim", "model.out_dim", 4096 if many else 1024 if count >= 20_000 else 512)
    if not settled.train.teacher_temperature:
        settle(settled.train, "teacher_temperature", "train.teacher_temperature", [0.04, 0.01] if many else [0.012, 0.01])
        settled.train.center_momentum = 0.9 if many else 0.0
        lines.append(f"train.center_momentum = {settled.train.center_momentum} with it")
    if not settled.train.teacher_momentum:
        settle(settled.train, "teacher_momentum", "train.teacher_momentum", [0.996, 1.0] if many else [0.98, 0.995])
    return settled, lines
