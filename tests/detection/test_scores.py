from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.covariance import LedoitWolf
from torch import Tensor

from medood.config.schema import ModelConfig
from medood.detection import knn as search
from medood.detection.ensemble import EnsembleNetwork, log_divergence
from medood.detection.features import HEAD_TEMPERATURE, Features, embed, head_entropy
from medood.detection.knn import nearest_rows
from medood.detection.score_selection import rows_at
from medood.detection.scores import SCORES, TEMPERATURE, fisher, fit_all
from medood.distillation.network import Network
from medood.errors import MedoodError

#: The scores that are computed from features and head outputs; those of other heads have tests of their own.
OF_FEATURES = [name for name in SCORES if name not in ("lesions", "rotation")]


def rows(count: int, seed: int, dim: int = 6) -> Features:
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(count, dim, generator=generator) + 1, dim=1)
    outputs = torch.rand(count, 9, generator=generator) * 2 - 1
    orientations, members, lesions = (torch.rand(count, n, generator=generator) * 2.2 for n in (5, 2, 2))
    return Features(features, outputs, orientations, members, lesions)


def scored(name: str, bank: Features, queries: Features) -> Tensor:
    return SCORES[name].score(queries, bank.features, SCORES[name].fit(bank, rows(30, 9, bank.features.shape[1])))


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
    assert torch.equal(scored("head_logit", rows(20, 0), queries), -queries.outputs.max(dim=1).values)


def test_head_entropy_is_log_k_less_the_divergence_to_uniform() -> None:
    queries = rows(5, 3)
    p = torch.softmax(queries.outputs.double() / HEAD_TEMPERATURE, dim=1)
    divergence = (p * (p * 9).log()).sum(dim=1)
    torch.testing.assert_close(
        scored("head_entropy", rows(20, 0), queries).double(), np.log(9) - divergence, atol=1e-5, rtol=0
    )


def test_head_contrast_against_a_loop_over_the_copies() -> None:
    torch.manual_seed(0)
    network = EnsembleNetwork(Network(ModelConfig("resnet10t", {}, 0.0, 16, 8, 12), 32)).eval()
    images = torch.rand(3, 1, 32, 32)
    found = scored("head_contrast", rows(20, 0), embed(network, images))
    for n, image in enumerate(images.numpy()[:, 0]):
        copies = [image, image[:, ::-1], image[::-1], image[::-1, ::-1], np.rot90(image), np.rot90(image, 3)]
        entropies = []
        for copy in copies:
            outputs = network.embed(torch.from_numpy(copy.copy())[None, None])[1].detach().double()[0]
            p = torch.softmax(outputs / HEAD_TEMPERATURE, dim=0)
            entropies.append(-float((p * p.log()).sum()))
        assert float(found[n]) == pytest.approx(entropies[0] - np.median(entropies[1:]), abs=1e-5)
    with pytest.raises(ValueError, match="orientations=True"):
        scored("head_contrast", rows(20, 0), embed(network, images, orientations=False))


@pytest.mark.parametrize("name", ["nearest", "soft_nearest"])
def test_centred_scores_compare_features_less_the_banks_mean(name: str) -> None:
    bank, queries = rows(40, 0), rows(7, 1)
    mean = bank.features.mean(dim=0)
    moved = [Features(torch.nn.functional.normalize(r.features - mean, dim=1), r.outputs) for r in (bank, queries)]
    torch.testing.assert_close(scored(f"{name}_centered", bank, queries), scored(name, *moved))


def test_residual_is_what_the_principal_subspace_leaves() -> None:
    bank, queries = rows(200, 0), rows(7, 1)
    x, y = bank.features.double().numpy(), queries.features.double().numpy()
    _, lengths, axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    kept = int(np.searchsorted(np.cumsum(lengths**2) / (lengths**2).sum(), 0.9)) + 1
    centred = y - x.mean(axis=0)
    left = centred - centred @ axes[:kept].T @ axes[:kept]
    np.testing.assert_allclose(scored("residual", bank, queries).numpy(), np.linalg.norm(left, axis=1), rtol=1e-4)


def test_combined_is_fishers_rule_over_normal_tails() -> None:
    bank, queries, held_out = rows(100, 0), rows(9, 1), rows(30, 9)
    total = np.zeros(9)
    for name in ("mahalanobis", "head_logit"):
        own = scored(name, bank, held_out).double().numpy()
        total -= 2 * norm.logsf(scored(name, bank, queries).double().numpy(), own.mean(), own.std())
    np.testing.assert_allclose(scored("combined", bank, queries).numpy(), np.sqrt(total), rtol=1e-3)


def test_ensemble_adds_all_heads_log_divergences_from_uniform_among_development_scans() -> None:
    bank, queries, held_out = rows(50, 0), rows(7, 1), rows(30, 9)

    def divergences(some: Features) -> np.ndarray:
        assert some.members is not None
        p = torch.softmax(some.outputs.double() / HEAD_TEMPERATURE, dim=1).numpy()
        return np.column_stack([np.log((p * np.log(p * 9)).sum(axis=1)), some.members.double().numpy()])

    own = divergences(held_out)
    expected = -((divergences(queries) - own.mean(axis=0)) / own.std(axis=0)).sum(axis=1)
    np.testing.assert_allclose(scored("ensemble", bank, queries).numpy(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="the network has none"):
        scored("ensemble", bank, replace(queries, members=None))


def test_the_log_divergence_goes_on_falling_where_the_entropy_ends_and_has_a_floor() -> None:
    outputs = torch.zeros(4, 9)
    outputs[:, 0] = torch.tensor([0.01, 0.001, 0.0001, 0.0])
    found = log_divergence(outputs)
    assert (found.diff() < -1e-6).tolist() == [True, True, False]
    assert float(found[-1]) == pytest.approx(np.log(1e-6))
    assert (head_entropy(outputs).diff().abs() < 1e-2).all()


def test_a_member_sees_each_picture_at_its_own_size_and_in_its_own_crops() -> None:
    torch.manual_seed(0)
    network, member = (
        EnsembleNetwork(Network(ModelConfig("resnet10t", {}, 0.0, 16, 8, 12), side)).eval() for side in (64, 32)
    )
    images = torch.rand(3, 1, 64, 64)
    assert embed(network, images).members is None
    assert "ensemble" not in fit_all(embed(network, images), embed(network, images))
    member.crops = [0.9]
    network.members.append(member)
    small = torch.nn.functional.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    expected = log_divergence(member.embed(small)[1]).detach()
    found = embed(network, images, batch_size=2)
    assert found.members is not None
    torch.testing.assert_close(found.members, expected[:, None])
    assert "ensemble" in fit_all(found, found)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = rows(100, 0), rows(23, 1)
    names = [name for name in SCORES if name != "rotation"]  # that is no search of a bank
    whole = [scored(name, bank, queries) for name in names], nearest_rows(queries.features, bank.features, 5)
    monkeypatch.setattr(search, "BLOCK", 7)
    monkeypatch.setattr(search, "QUERIES", 4)
    for name, expected in zip(names, whole[0], strict=True):
        torch.testing.assert_close(scored(name, bank, queries), expected, atol=1e-5, rtol=1e-5)
    cosines, places = nearest_rows(queries.features, bank.features, 5)
    torch.testing.assert_close(cosines, whole[1][0])
    assert torch.equal(places, whole[1][1])
    assert torch.equal(places, (queries.features @ bank.features.T).topk(5, dim=1).indices)


def test_features_that_are_no_numbers_are_refused() -> None:
    bank, held_out = rows(20, 0), rows(8, 1)
    bank.features[3, 2] = float("nan")
    with pytest.raises(MedoodError, match="no finite features for 1 of 20 training scans"):
        fit_all(bank, held_out)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_scores_do_not_depend_on_the_order_and_rise_away_from_the_bank(name: str) -> None:
    bank, queries = rows(150, 0, 12), rows(10, 1, 12)
    permuted = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    shuffled = rows_at(queries, permuted)
    torch.testing.assert_close(scored(name, bank, queries)[permuted], scored(name, bank, shuffled), atol=1e-5, rtol=1e-5)
    strange = replace(queries, features=-queries.features, outputs=torch.zeros_like(queries.outputs))
    assert scored(name, bank, strange).mean() > scored(name, bank, queries).mean()


@pytest.mark.parametrize("name", OF_FEATURES)
def test_a_bank_of_one_and_finite_gradients(name: str) -> None:
    bank, queries = rows(1, 0), rows(4, 1)
    features = queries.features.clone().requires_grad_(True)
    outputs = queries.outputs.clone().requires_grad_(True)
    values = SCORES[name].score(
        replace(queries, features=features, outputs=outputs),
        bank.features,
        SCORES[name].fit(bank, rows(30, 9, bank.features.shape[1])),
    )
    assert torch.isfinite(values).all()
    values.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (features, outputs) if x.grad is not None)


def test_fishers_rule_and_its_gradient_far_out() -> None:
    """Of one part alone the rule is nearly z itself, and so is its slope, however far a scan lies."""
    for z in (31.0, 500.0, 5e4, 1e18):
        row = torch.tensor([[z]], requires_grad=True)
        value = fisher(row)
        value.backward()
        assert float(value) == pytest.approx(z, rel=5e-3)
        assert float(row.grad) == pytest.approx(1.0, rel=5e-3)  # type: ignore[arg-type]
    around = fisher(torch.linspace(29.9, 30.1, 201)[None])
    assert (around.diff() > 0).all()
    low = fisher(torch.tensor([[-7.0, -7.5], [-7.0, -7.5]]))
    assert low[0] > low[1] > 0


@pytest.mark.parametrize("name", ["nearest_centered", "soft_nearest_centered", "soft_nearest", "nearest"])
def test_gradients_in_blocks_are_those_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = rows(60, 0), rows(4, 1)
    fitted = SCORES[name].fit(bank, rows(30, 9))
    found = []
    for block in (1024, 7):
        monkeypatch.setattr(search, "BLOCK", block)
        features = queries.features.clone().requires_grad_(True)
        SCORES[name].score(Features(features, queries.outputs), bank.features, fitted).sum().backward()
        found.append(features.grad)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
    step = torch.zeros_like(queries.features)
    step[0, 0] = 1e-3
    up, down = (
        SCORES[name].score(Features(queries.features + s, queries.outputs), bank.features, fitted)[0] for s in (step, -step)
    )
    assert float(up - down) / 2e-3 == pytest.approx(float(found[0][0, 0]), abs=2e-2)
