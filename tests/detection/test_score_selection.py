from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medood.config.schema import ModelConfig, ViewsConfig
from medood.detection.ensemble import EnsembleNetwork
from medood.detection.features import Features, embed
from medood.detection.score_selection import choose, reactions, reduce_bank, rows_at, separations
from medood.detection.scores import SCORES, fit_all
from medood.distillation.network import Network
from medood.negatives.mixture import LESIONS, SHIFTS


def test_the_best_mean_is_taken_and_of_nearly_equal_ones_the_one_without_a_blind_spot() -> None:
    assert choose({"a": {"x": 0.6, "y": 0.8}, "b": {"x": 0.95, "y": 0.6}, "c": {"x": 0.75, "y": 0.75}}) == "b"
    assert choose({"a": {"x": 0.6, "y": 0.8}, "b": {"x": 0.908, "y": 0.6}, "c": {"x": 0.75, "y": 0.75}}) == "c"
    assert choose({"a": {"x": 0.5}, "b": {"x": 0.5}}) == "a"


def test_the_table_is_the_auroc_of_each_score_under_each_shift() -> None:
    torch.manual_seed(0)
    network = EnsembleNetwork(Network(ModelConfig("resnet18", {}, 0.0, 16, 8, 12), 32)).eval()
    bank, images = embed(network, torch.rand(20, 1, 32, 32)), torch.rand(6, 1, 32, 32)
    rows = reactions(network, images, ViewsConfig(), 3)
    assert set(rows) == {"", *SHIFTS} - {"image_as_is", *LESIONS}
    assert torch.equal(rows["mirror"].features, reactions(network, images, ViewsConfig(), 3)["mirror"].features)
    torch.testing.assert_close(rows["mirror"].features, embed(network, images.flip(-1)).features, atol=1e-5, rtol=1e-5)
    fitted = fit_all(bank, rows[""])
    table = separations(rows, bank.features, fitted)
    assert set(table) == set(SCORES) - {"ensemble", "lesions", "rotation"}, (
        "there are no members, lesion network and rotation head"
    )
    score = SCORES["mahalanobis"]
    plain, shifted = (score.score(rows[k], bank.features, fitted["mahalanobis"]).numpy() for k in ("", "rot"))
    expected = roc_auc_score(np.r_[np.zeros(6), np.ones(6)], np.r_[plain, shifted])
    assert table["mahalanobis"]["rot"] == pytest.approx(expected)


def test_a_row_that_is_no_number_counts_as_out_of_distribution() -> None:
    bank = Features(torch.nn.functional.normalize(torch.rand(20, 4), dim=1), torch.rand(20, 3), torch.rand(20, 5))
    odd = Features(torch.full((5, 4), float("nan")), torch.full((5, 3), float("nan")), torch.full((5, 5), float("nan")))
    fitted = fit_all(bank, bank)
    assert separations({"": bank, "odd": odd}, bank.features, fitted)["mahalanobis"]["odd"] == 1.0


def test_a_reduced_bank_is_rows_of_the_whole_one_near_every_row() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(5, 16, generator=generator), dim=1)
    rows = torch.nn.functional.normalize(
        centres.repeat_interleave(40, 0) + 0.02 * torch.randn(200, 16, generator=generator), dim=1
    )
    bank = Features(rows, torch.zeros(200, 3))
    places = reduce_bank(bank, 20, 0)
    assert len(places) <= 20
    assert set((places // 40).tolist()) == set(range(5)), "no group of scans is lost"
    assert torch.equal(rows_at(bank, places).features, rows[places])
    assert torch.equal(reduce_bank(bank, 500, 0), torch.arange(200))
