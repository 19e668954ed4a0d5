"""The loss of arXiv 2201.06378: self-distillation on positives, cross-entropy to uniform on negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Number of turns of a view of which it is not known.
UNKNOWN_TURN = -1


def teacher_distribution(outputs: Tensor, center: Tensor, temperature: float) -> Tensor:
    """``softmax((t - center) / temperature)`` over the last dimension, in float32, without gradient."""
    return torch.softmax((outputs.detach().float() - center) / temperature, dim=-1)


@torch.no_grad()
def sinkhorn_distribution(outputs: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """Sinkhorn-Knopp instead of centring and softmax (SwAV, arXiv 2006.09882): prototypes share the batch evenly.

    Args:
        outputs: ``[N, K]`` teacher outputs of all global views of all processes.
        temperature: temperature of the teacher.
        rounds: number of alternating normalisations of columns and rows.

    Returns:
        ``[N, K]`` float32 distributions; their mean is near uniform.
    """
    logarithm = outputs.detach().float() / temperature
    for _ in range(rounds):
        logarithm = logarithm - torch.logsumexp(logarithm, dim=0, keepdim=True)
        logarithm = logarithm - torch.logsumexp(logarithm, dim=1, keepdim=True)
    return logarithm.exp()


def koleo_loss(features: Tensor) -> Tensor:
    """Kozachenko-Leonenko term (arXiv 1806.03198): minus the mean logarithm of the distance to the nearest other feature.

    Args:
        features: ``[N, D]``, N at least 2; L2-normalised here.
    """
    points = torch.nn.functional.normalize(features.float(), dim=-1)
    cosines = points @ points.T - 2.0 * torch.eye(len(points), device=points.device)
    nearest = points[cosines.argmax(dim=1)]
    return -torch.log(torch.linalg.vector_norm(points - nearest, dim=-1) + 1e-8).mean()


def positive_loss(teacher: Tensor, student: Tensor, student_temperature: float) -> Tensor:
    """Mean cross-entropy over all pairs of a teacher view and a different student view.

    Args:
        teacher: float32 ``[T, B, K]``, distributions of the T global views.
        student: ``[S, B, K]``, outputs of all S views, the T global views first and in the same order.
        student_temperature: temperature of the student's softmax.

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

    This is the paper's cross-entropy to uniform minus its minimum log K: 0 means uniform; the gradient is the same.

    Args:
        student: ``[N, K]`` outputs for negative views.
        student_temperature: temperature of the student's softmax.
    """
    logarithm = torch.log_softmax(student.float() / student_temperature, dim=-1)
    return -logarithm.mean(dim=-1).mean() - math.log(student.shape[-1])


def rotation_loss(logits: Tensor, turns: Tensor) -> Tensor:
    """Mean cross-entropy of the rotation head with the quarter turns of views (the paper's variant).

    Args:
        logits: ``[N, 4]``.
        turns: int64 ``[N]``, counter-clockwise; ``UNKNOWN_TURN`` leaves a view out.
    """
    return torch.nn.functional.cross_entropy(logits.float(), turns, ignore_index=UNKNOWN_TURN)


@torch.no_grad()
def update_center(center: Tensor, batch_mean: Tensor, momentum: float) -> Tensor:
    """EMA of the mean teacher output over all global views of all processes: ``[K]``."""
    return center * momentum + batch_mean.float() * (1.0 - momentum)


def entropy(distribution: Tensor) -> Tensor:
    """Shannon entropy in nats over the last dimension."""
    return -torch.xlogy(distribution, distribution).sum(dim=-1)
