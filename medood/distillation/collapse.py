"""Detection of collapse, which would otherwise go unnoticed during training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medood.errors import ExitCode, MedoodError


class CollapseError(MedoodError):
    """Training has collapsed; the message states how, and which settings to change."""

    exit_code = ExitCode.COLLAPSED


def effective_rank(features: Tensor) -> float:
    """Effective rank of centred features: exp of the entropy of the normalised singular values (Roy and Vetterli, 2007).

    Args:
        features: ``[N, D]``.

    Returns:
        between 1 and min(N, D); 1 also if all rows are equal.
    """
    values = torch.linalg.svdvals((features - features.mean(dim=0)).double())
    total = values.sum()
    if total <= 1e-12:
        return 1.0
    share = values / total
    return float(torch.exp(-torch.xlogy(share, share).sum()))


class CollapseWatch:
    """Stops a run whose teacher has given the same output for all images for ``patience`` steps in a row.

    Two kinds of collapse: every output is uniform (teacher entropy above ``uniform_share`` of log K), or every output is the
    same prototype (entropy of the mean output below ``point_share`` of log K).

    Args:
        out_dim: number of prototypes K.
        patience: number of consecutive steps.
    """

    def __init__(self, out_dim: int, patience: int = 50, uniform_share: float = 0.98, point_share: float = 0.1) -> None:
        self._most = math.log(out_dim)
        self._patience = patience
        self._uniform_share = uniform_share
        self._point_share = point_share
        self._uniform_steps = 0
        self._point_steps = 0

    def update(self, teacher_entropy: float, mean_entropy: float) -> None:
        """Count one step.

        Args:
            teacher_entropy: mean entropy of the teacher's distributions, in nats.
            mean_entropy: entropy of the mean of the teacher's distributions, in nats.

        Raises:
            CollapseError: the outputs have been the same for ``patience`` steps.
        """
        uniform = teacher_entropy > self._uniform_share * self._most
        self._uniform_steps = self._uniform_steps + 1 if uniform else 0
        self._point_steps = self._point_steps + 1 if mean_entropy < self._point_share * self._most else 0
        if self._uniform_steps >= self._patience:
            raise CollapseError(
                f"Training collapsed to uniform: for {self._patience} steps the teacher's entropy has been "
                f"{teacher_entropy:.2f} of at most {self._most:.2f}. Lower train.teacher_temperature or model.out_dim, "
                "or lower negatives.weight."
            )
        if self._point_steps >= self._patience:
            raise CollapseError(
                f"Training collapsed to one point: for {self._patience} steps the mean output's entropy has been "
                f"{mean_entropy:.2f} of at most {self._most:.2f}. Raise train.teacher_temperature, lower "
                "train.center_momentum or train.learning_rate, or check that the images differ."
            )
