from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from medood.detection.features import Features
from medood.detection.scores import SCORES, TEMPERATURE


def rows(count: int, seed: int, dim: int = 6) -> Features:
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(count, dim, generator=generator) + 1, dim=1)
    return Features(features, torch.rand(count, 9, generator=generator) * 2 - 1)


def scored(name: str, bank: Features, queries: Features) -> Tensor:
    return SCORES[name].score(queries, bank.features, SCORES[name].fit(bank))


def test_nearest_and_soft_nearest_against_a_loop() -> None:
    bank, queries = rows(40, 0), rows(7, 1)
    for i in range(7):
        cosines = [float(queries.features[i] @ bank.features[j]) for j in range(40)]
        assert float(scored("nearest", bank, queries)[i]) == pytest.approx(-max(cosines), abs=1e-6)
        authors = np.mean(np.exp((np.array(cosines, dtype=np.float64) - 0.1) / TEMPERATURE))
        expected = -(TEMPERATURE * np.log(authors) + 0.1)
        assert float(scored("soft_nearest", bank, queries)[i]) == pytest.approx(expected, abs=1e-5)


def test_mahalanobis_against_the_definition() -> None:
    bank, queries = rows(200, 0), rows(7, 1)
    reference = LedoitWolf().fit(bank.features.double().numpy() * 100)
    difference = queries.features.double().numpy() * 100 - reference.location_
    expected = np.sqrt(np.einsum("ni,ij,nj->n", difference, np.linalg.inv(reference.covariance_), difference))
    np.testing.assert_allclose(scored("mahalanobis", bank, queries).numpy(), expected, rtol=1e-3)


def test_head_is_minus_the_largest_output() -> None:
    queries = rows(5, 3)
    assert torch.equal(scored("head", rows(20, 0), queries), -queries.outputs.max(dim=1).values)


def test_combined_is_the_sum_of_standardised_parts() -> None:
    bank, queries = rows(100, 0), rows(9, 1)
    expected = torch.zeros(9)
    for name in ("mahalanobis", "head"):
        own = scored(name, bank, bank)
        expected += (scored(name, bank, queries) - own.mean()) / own.std(correction=0)
    torch.testing.assert_close(scored("combined", bank, queries), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SCORES)
def test_scores_do_not_depend_on_the_order_and_rise_away_from_the_bank(name: str) -> None:
    bank, queries = rows(150, 0, 12), rows(10, 1, 12)
    permuted = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    shuffled = Features(queries.features[permuted], queries.outputs[permuted])
    torch.testing.assert_close(scored(name, bank, queries)[permuted], scored(name, bank, shuffled), atol=1e-5, rtol=1e-5)
    strange = Features(-queries.features, torch.zeros_like(queries.outputs))
    assert scored(name, bank, strange).mean() > scored(name, bank, queries).mean()


@pytest.mark.parametrize("name", SCORES)
def test_a_bank_of_one_and_finite_gradients(name: str) -> None:
    bank, queries = rows(1, 0), rows(4, 1)
    features = queries.features.clone().requires_grad_(True)
    outputs = queries.outputs.clone().requires_grad_(True)
    values = SCORES[name].score(Features(features, outputs), bank.features, SCORES[name].fit(bank))
    assert torch.isfinite(values).all()
    values.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (features, outputs) if x.grad is not None)
