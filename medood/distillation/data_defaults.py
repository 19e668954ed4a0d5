"""Data-dependent defaults for settings that a configuration leaves open: resolved once, printed, and saved as numbers."""

from __future__ import annotations

import copy

from medood.config.schema import RunConfig

#: Number of images from which the published settings are used; with fewer they collapse to uniform (reports/training).
_MANY = 100_000


def resolve_defaults(config: RunConfig, count: int) -> tuple[RunConfig, list[str]]:
    """Replace open settings (0, or an empty list) by values that suit ``count`` images.

    Args:
        config: configuration of the run; not modified.
        count: number of training images.

    Returns:
        the configuration with every setting resolved, and a line of text for each that was open.
    """
    complete = copy.deepcopy(config)
    lines: list[str] = []
    many = count >= _MANY

    def settle(group: object, name: str, key: str, value: object) -> None:
        if not getattr(group, name):
            setattr(group, name, value)
            lines.append(f"{key} = {value} for {count:,} images")

    batch = max(2, min(128, 8 * (count // 256))) if count >= 512 else max(2, min(16, count // 4))
    settle(complete.train, "batch_size", "train.batch_size", batch)
    settle(complete.train, "epochs", "train.epochs", max(10, min(400, round(600_000 / max(count, 1)))))
    settle(complete.model, "out_dim", "model.out_dim", 4096 if many else 1024 if count >= 20_000 else 512)
    if not complete.train.teacher_temperature:
        settle(complete.train, "teacher_temperature", "train.teacher_temperature", [0.04, 0.01] if many else [0.012, 0.01])
        complete.train.center_momentum = 0.9 if many else 0.0
        lines.append(f"train.center_momentum = {complete.train.center_momentum} with it")
    if not complete.train.teacher_momentum:
        settle(complete.train, "teacher_momentum", "train.teacher_momentum", [0.996, 1.0] if many else [0.98, 0.995])
    return complete, lines
