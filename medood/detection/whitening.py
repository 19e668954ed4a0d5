"""The factor that whitens a covariance, which turns a Mahalanobis distance into a Euclidean one."""

from __future__ import annotations

import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

#: Rows are multiplied by this before their covariance is shrunk, which keeps that of unit vectors above the ridge of 1e-6.
_SCALE = 100.0


def whitening_factor(covariance: Tensor, scale: float = 1.0) -> Tensor:
    """The lower-triangular W for which ``|(x - mean) W|`` is the Mahalanobis distance of x.

    Args:
        covariance: float64 ``[..., d, d]``, positive definite, of rows that were multiplied by ``scale``.
        scale: that factor; W is for rows as they were before.
    """
    factor: Tensor = torch.linalg.cholesky(torch.linalg.inv(covariance) * scale**2)
    return factor


def shrunk_whitening(rows: Tensor) -> Tensor:
    """The factor ``[d, d]`` of centred float64 rows ``[N, d]``, with Ledoit and Wolf's shrunk covariance (scikit-learn).

    A small ridge gives rows that are all the same a factor too.
    """
    shrunk = LedoitWolf(assume_centered=True).fit((rows * _SCALE).numpy())
    covariance = torch.from_numpy(shrunk.covariance_) + 1e-6 * torch.eye(rows.shape[1], dtype=torch.float64)
    return whitening_factor(covariance, _SCALE)
