"""The loss of arXiv 2201.06378: self-distillation on positives, cross-entropy to uniform on negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def teacher_distribution(outputs: Tensor, center: Tensor, temperature: float) -> Tensor:
    """``softmax((t - center) / temperature)`` over the last dimension, in float32, without gradient."""
    return torch.softmax((outputs.detach().float() - center) / temperature, dim=-1)


def positive_loss(teacher: Tensor, student: Tensor, student_temperature: float) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher view and another student view.

    Args:
        teacher: float32 ``[T, B, K]``, distributions of the T global views.
        student: ``[S, B, K]``, outputs of all S views, the T global views first and in the same order.
        student_temperature: of the student's softmax.

    Returns:
        scalar float32: the mean over the batch and the ``T * S - T`` pairs.
    """
    logarithm = torch.log_softmax(student.float() / student_temperature, dim=-1)
    views, batch = len(student), student.shape[1]
    every = torch.einsum("tbk,sbk->", teacher, logarithm)
    same = torch.einsum("tbk,tbk->", teacher, logarithm[: len(teacher)])
    return -(every - same) / (batch * (len(teacher) * views - len(teacher)))


def negative_loss(student: Tensor, student_temperature: float) -> Tensor:
    """Mean KL divergence from the uniform distribution to the student's, over negative views.

    It is the paper's cross-entropy to uniform minus its least value log K: 0 means uniform; the gradient is the same.

    Args:
        student: ``[N, K]`` outputs for negative views.
        student_temperature: of the student's softmax.
    """
    logarithm = torch.log_softmax(student.float() / student_temperature, dim=-1)
    return -logarithm.mean(dim=-1).mean() - math.log(student.shape[-1])


@torch.no_grad()
def update_center(center: Tensor, batch_mean: Tensor, momentum: float) -> Tensor:
    """EMA of the mean teacher output over all global views of all processes: ``[K]``."""
    return center * momentum + batch_mean.float() * (1.0 - momentum)


def entropy(distribution: Tensor) -> Tensor:
    """Shannon entropy in nats over the last dimension."""
    return -torch.xlogy(distribution, distribution).sum(dim=-1)
