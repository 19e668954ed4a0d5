from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from medood.config.schema import ViewsConfig
from medood.distillation.views import crop, sample_view
from medood.errors import MedoodError
from medood.negatives.contact_sheet import contact_sheet
from medood.negatives.mixture import SHIFTS, Mixture
from medood.negatives.permutation import permutations
from medood.negatives.shift import partners
from medood.phantom.chest import frontal_chest


def images(count: int = 12, side: int = 32) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(5))


def shifted(name: str, seed: int, batch: Tensor) -> Tensor:
    rows = torch.arange(len(batch))
    drawn = SHIFTS[name].sample(rows, len(batch), batch.shape[-1], torch.Generator().manual_seed(seed))
    return SHIFTS[name].apply(batch, drawn, batch)


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shift_can_be_replayed_stays_in_range_and_changes_every_picture(name: str) -> None:
    batch = images()
    first = shifted(name, 3, batch)
    assert torch.equal(first, shifted(name, 3, batch))
    assert first.shape == batch.shape
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1 + 1e-6
    assert torch.isfinite(first).all()
    changed = (first - batch).abs().flatten(1).max(dim=1).values > 1e-3
    assert changed.all() != (name == "image_as_is")


@pytest.mark.parametrize("name", ["rot", "mirror", "upside_down", "perm4", "perm16", "pixel_perm"])
def test_shifts_that_only_move_pixels_keep_the_histogram(name: str) -> None:
    batch = images()
    moved = shifted(name, 1, batch)
    torch.testing.assert_close(moved.flatten(1).sort().values, batch.flatten(1).sort().values)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_permutation_is_never_the_identity(seed: int) -> None:
    order = permutations(64, 4, torch.Generator().manual_seed(seed))
    assert (order.sort(dim=1).values == torch.arange(4)).all()
    assert not (order == torch.arange(4)).all(dim=1).any()


@pytest.mark.parametrize("grid", [2, 4])
def test_patch_permutation_against_a_slow_loop(grid: int) -> None:
    batch, shift = images(3, 16), SHIFTS[f"perm{grid * grid}"]
    drawn = shift.sample(torch.arange(3), 3, 16, torch.Generator().manual_seed(0))
    result, step = shift.apply(batch, drawn, batch), 16 // grid
    for n in range(3):
        for place in range(grid * grid):
            r, c = divmod(place, grid)
            sr, sc = divmod(int(drawn["order"][n, place]), grid)
            here = result[n, :, r * step : (r + 1) * step, c * step : (c + 1) * step]
            assert torch.equal(here, batch[n, :, sr * step : (sr + 1) * step, sc * step : (sc + 1) * step])


def test_patches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="equal patches"):
        shifted("perm16", 0, images(side=30))


def test_a_turn_by_any_angle_shows_no_corner() -> None:
    """A constant image stays constant: nothing from outside gets in."""
    white = torch.full((200, 1, 32, 32), 0.7)
    torch.testing.assert_close(shifted("rot_360", 2, white), white)


def test_any_turn_agrees_with_quarter_turns() -> None:
    batch = images(1)
    orientations = SHIFTS["rot_360"].apply(batch, {"degrees": torch.tensor([90.0])}, batch)
    torch.testing.assert_close(orientations, torch.rot90(batch, 1, (-2, -1)), atol=1e-4, rtol=0)


@given(seed=st.integers(0, 10_000), pool=st.integers(2, 9))
@settings(max_examples=50, deadline=None)
def test_nobody_is_his_own_partner(seed: int, pool: int) -> None:
    rows = torch.arange(pool)
    assert (partners(rows, pool, torch.Generator().manual_seed(seed)) != rows).all()


def test_mixing_needs_two() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        partners(torch.tensor([0]), 1, torch.Generator())


def test_opacities_brighten_dark_places_only() -> None:
    batch = torch.full((50, 1, 64, 64), 0.9)
    batch[:, :, 20:44, 20:44] = 0.2
    added = shifted("opacity", 4, batch) - batch
    assert (added >= -1e-6).all()
    inside = added[:, :, 20:44, 20:44].sum(dim=(1, 2, 3))
    assert (inside > 0.6 * added.sum(dim=(1, 2, 3))).all()


def test_haze_brightens_lungs_only_and_veils_what_is_under_it() -> None:
    batch = torch.linspace(0.6, 0.95, 64)[:, None].expand(60, 1, 64, 64).clone()
    batch[:, :, 14:50, 8:26], batch[:, :, 14:50, 38:56] = 0.2, 0.2  # two lung fields
    lungs = batch < 0.5
    added = shifted("haze", 4, batch) - batch
    assert (added >= -1e-6).all()
    assert float(added[lungs].mean()) > 4 * float(added[~lungs].mean())
    left, right = added[..., :32].sum(dim=(1, 2, 3)), added[..., 32:].sum(dim=(1, 2, 3))
    assert ((left > 20 * right).sum() > 5) and ((right > 20 * left).sum() > 5) and ((left < 3 * right).sum() > 5)

    textured = (batch + 0.1 * torch.rand(batch.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    hazy = shifted("haze", 4, textured)
    rough = [(some[..., 1:, 16:20] - some[..., :-1, 16:20]).abs()[:, :, 20:44].mean() for some in (hazy, textured)]
    assert rough[0] < rough[1]


def test_an_effusion_fills_from_below() -> None:
    batch = torch.full((60, 1, 64, 64), 0.3)
    added = shifted("effusion", 4, batch) - batch
    assert (added >= -1e-6).all()
    by_row = added.mean(dim=(1, 3))
    assert float(by_row[:, :16].max()) < 0.05  # apices stay clear
    assert (by_row[:, 50:56].mean(dim=1) > by_row[:, 30:36].mean(dim=1)).all()


def test_stretching_takes_the_middle_of_one_axis_and_all_of_the_other() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    for wide, batch in ((True, ramp), (False, ramp.mT)):
        made = SHIFTS["stretched"].apply(batch, {"ratio": torch.tensor([2.0]), "wide": torch.tensor([wide])}, batch)
        inner = made[0, 0, 32, 8:56] if wide else made[0, 0, 8:56, 32]
        torch.testing.assert_close(inner[1:] - inner[:-1], torch.full((47,), 0.5 / 63), atol=1e-5, rtol=0)
        other = SHIFTS["stretched"].apply(batch.mT, {"ratio": torch.tensor([2.0]), "wide": torch.tensor([wide])}, batch)
        torch.testing.assert_close(other, batch.mT)


def test_dead_leaves_against_a_slow_loop_and_keep_nothing_of_the_film() -> None:
    batch, side = images(2, 24), 24
    drawn = SHIFTS["dead_leaves"].sample(torch.arange(2), 2, side, torch.Generator().manual_seed(1))
    drawn["depth"] = torch.zeros(2)
    drawn["alike"] = torch.tensor([True, False])
    made = SHIFTS["dead_leaves"].apply(batch, drawn, batch)
    assert torch.equal(made, SHIFTS["dead_leaves"].apply(torch.zeros_like(batch), drawn, batch))
    for n in range(2):
        for r in range(side):
            for c in range(side):
                v, u, grey = (r + 0.5) / side, (c + 0.5) / side, float(drawn["ground"][n])
                u = min(u, 1 - u) if n == 0 else u
                for x, y, a, b, angle, level in drawn["leaves"][n, : int(drawn["number"][n])].tolist():
                    p = (u - x) * np.cos(angle) + (v - y) * np.sin(angle)
                    q = (v - y) * np.cos(angle) - (u - x) * np.sin(angle)
                    cover = 1 / (1 + np.exp(-(1 - np.hypot(p / a, q / b)) / float(drawn["edge"][n])))
                    grey += (level - grey) * cover
                assert abs(float(made[n, 0, r, c]) - grey) < 1e-4


def test_a_mixture_draws_by_weight_and_replays() -> None:
    mixture = Mixture({"mirror": 3.0, "inverted": 1.0, "rot": 0.0})
    draw = mixture.sample(4000, 8, torch.Generator().manual_seed(0))
    assert set(draw.rows) == {"mirror", "inverted"}
    assert abs(len(draw.rows["mirror"]) / 4000 - 0.75) < 0.03
    batch = images(40, 8)
    small = mixture.sample(40, 8, torch.Generator().manual_seed(1))
    result = mixture.apply(batch, small)
    assert torch.equal(result, mixture.apply(batch, small))
    rows = small.rows["inverted"]
    torch.testing.assert_close(result[rows], 1 - batch[rows])
    rows = small.rows["mirror"]
    torch.testing.assert_close(result[rows], batch[rows].flip(-1))


def test_unknown_names_and_empty_weights_are_told() -> None:
    with pytest.raises(MedoodError, match="Did you mean 'mirror'"):
        Mixture({"miror": 1.0})
    with pytest.raises(MedoodError, match="no weight"):
        Mixture({"mirror": 0.0})


def probed(features: Tensor, count: int) -> float:
    """Cross-validated AUROC of a linear probe between originals (first half) and negatives."""
    labels = np.r_[np.zeros(count), np.ones(count)]
    groups = np.r_[np.arange(count), np.arange(count)]  # an image and its negative are never on two sides
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    scores = cross_val_predict(model, features.numpy(), labels, groups=groups, cv=GroupKFold(5), method="decision_function")
    return float(roc_auc_score(labels, scores))


def histogram(batch: Tensor) -> Tensor:
    return torch.stack([torch.histc(image, 16, 0, 1) for image in batch]) / batch.shape[-1] ** 2


def border(batch: Tensor) -> Tensor:
    """Every fourth pixel of the rim, each in its place."""
    ring = torch.cat([batch[..., 0, :], batch[..., -1, :], batch[..., :, 0], batch[..., :, -1]], dim=-1).flatten(1)
    return ring[:, ::4]


def chests(count: int) -> tuple[Tensor, Tensor]:
    """Two different crops of the same synthetic chests."""
    films = torch.stack([torch.from_numpy(frontal_chest(i, 64).image).float()[None] for i in range(count)])
    views = ViewsConfig(rotation=0, blur=0, brightness=0, contrast=0, gamma=0)
    first, second = (sample_view(count, [0.3, 0.6], views, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    return crop(films, first, 64).clamp(0, 1), crop(films, second, 64).clamp(0, 1)


def textures(count: int) -> tuple[Tensor, Tensor]:
    """Images in which no place differs from another, so that only what a shift leaves behind could give it away."""
    noise = np.random.default_rng(0).normal(size=(2 * count, 64, 64))
    smooth = gaussian_filter(noise, (0, 2, 2), mode="wrap")
    grey = torch.from_numpy((0.5 + smooth / smooth.std() / 8).clip(0, 1)).float()[:, None]
    return grey[:count], grey[count:]


@pytest.mark.parametrize("name", ["rot", "mirror", "perm4", "perm16"])
def test_no_low_level_statistic_gives_a_negative_away(name: str) -> None:
    """A linear probe cannot tell negatives from originals by grey histograms, nor by anything a shift leaves at the border.

    The border is tried on textures. Where a chest ends is its meaning, which turns and permutations change; how far that
    gives them away is measured in reports/training. Seams are edges that no permutation is without.
    """
    for what, (first, second) in ((histogram, chests(150)), (histogram, textures(150)), (border, textures(150))):
        features = torch.cat([what(first), what(shifted(name, 7, second))])
        assert probed(features, len(first)) < 0.6, what.__name__


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_the_probe_finds_a_cue_that_is_there(corner: float) -> None:
    """Black or white corners, which a turn by any angle leaves where nothing is done about it."""
    first, second = textures(150)
    second = second.clone()
    second[..., :12, :12] = corner
    assert probed(torch.cat([border(first), border(second)]), len(first)) > 0.9


def test_a_contact_sheet_has_a_row_a_picture_and_a_column_a_shift() -> None:
    sheet = contact_sheet(images(3, 96), {"rot": 1.0, "mirror": 2.0, "perm4": 0.0}, seed=0)
    assert sheet.size == (3 * 100 - 4, 3 * 100 - 4 + 16)
    cells = np.asarray(sheet, dtype=float)
    first, mirrored = cells[16:112, 0:96], cells[16:112, 200:296]
    np.testing.assert_allclose(first, mirrored[:, ::-1], atol=1)
