"""Radiographs are brought to a common frame, and told by how they look there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from medood.detection import registration
from medood.detection.appearance import Appearance
from medood.detection.registration import SHARE, Registration, equalize_histogram
from medood.phantom.chest import frontal_chest

SIDE = 96


def films(count: int, first: int = 0) -> Tensor:
    drawn = (frontal_chest(seed, SIDE).image for seed in range(first, first + count))
    return torch.stack([torch.from_numpy(image.astype(np.float32))[None] for image in drawn])


def moved(images: Tensor, share: float, right: float, down: float, tilt: float = 0.0) -> Tensor:
    """What another framing shows: ``share`` of each side, its middle moved, tilted."""
    angle = torch.tensor(tilt)
    matrix = torch.tensor(
        [[share * angle.cos(), -share * angle.sin(), right], [share * angle.sin(), share * angle.cos(), down]]
    )
    grid = affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images, grid, padding_mode="border", align_corners=False)


@pytest.fixture(scope="module")
def fitted() -> Appearance:
    model = Appearance()
    model.fit(films(120), seed=0)
    return model


def test_equalizing_is_the_share_of_darker_pixels_and_half_of_the_equal_ones() -> None:
    images = (torch.rand(3, 1, 7, 5, generator=torch.Generator().manual_seed(0)) * 6).round() / 6
    expected = np.zeros((3, 35))
    for n, image in enumerate(images.flatten(1).numpy()):
        for i, value in enumerate(image):
            expected[n, i] = ((image < value).sum() + (image <= value).sum()) / 70
    np.testing.assert_allclose(equalize_histogram(images).flatten(1).numpy(), expected, atol=1e-6)
    torch.testing.assert_close(equalize_histogram(images.square() * 0.5), equalize_histogram(images))
    grey = torch.full((1, 1, 96, 96), 77 / 255)
    assert (registration._comparable(grey) == 0.5).all(), "resampling does not order an area of one grey"


@pytest.mark.parametrize(("share", "right", "down", "tilt"), [(0.85, 0.1, -0.05, 0.0), (0.95, 0.0, 0.05, 0.1)])
def test_the_frame_follows_what_another_framing_moves(
    fitted: Appearance, share: float, right: float, down: float, tilt: float
) -> None:
    images = films(20, 500)
    before = fitted.registration.places(images)
    after = fitted.registration.places(moved(images, share, right, down, tilt))
    found = torch.cat(
        [after[:, :2] / before[:, :2] * share, after[:, 2:4] * share - before[:, 2:4], after[:, 4:] - before[:, 4:]], 1
    )
    expected = torch.tensor([1.0, 1.0, -right, -down, -tilt])
    assert (found.median(dim=0).values - expected).abs().max() < 0.04


def test_the_match_is_the_best_of_a_search_over_more_places(fitted: Appearance) -> None:
    """No place of a fine grid of shares and shifts matches a radiograph better by more than a hair."""
    image, model = films(1, 700), fitted.registration
    template = model.template.numpy().ravel()

    def match(place: list[float]) -> float:
        small = registration._comparable(image)
        grid = registration._grid(torch.tensor([place]), 24)
        seen = grid_sample(small, grid, padding_mode="border", align_corners=False)[0, 0].numpy().ravel()
        return float(np.corrcoef(seen, template)[0, 1])

    best = match(model.places(image)[0].tolist())
    others = [
        match([s, s, x, y, 0.0]) for s in (0.65, 0.7, 0.75, 0.8, 0.85) for x in (-0.1, 0.0, 0.1) for y in (-0.1, 0.0, 0.1)
    ]
    assert best > max(others) - 1e-6


def test_the_search_is_bounded_and_films_keep_their_size_on_average(fitted: Appearance) -> None:
    strange = torch.rand(30, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    places = fitted.registration.places(torch.cat([strange, films(8).rot90(1, (2, 3))]))
    assert (places[:, :2] >= 0.5).all() and (places[:, :2] <= 1.1).all()
    assert ((places[:, 0] / places[:, 1]).log().abs() <= 0.2201).all()
    assert (places[:, 2:4].abs() <= 0.3).all() and (places[:, 4].abs() <= 0.2).all()
    mean = fitted.registration.places(films(120)).mean(dim=0)
    assert (mean - torch.tensor([SHARE, SHARE, 0.0, 0.0, 0.0])).abs().max() < 0.06


def test_a_film_is_placed_the_same_alone_and_among_others(fitted: Appearance) -> None:
    images = films(9, 40)
    together = fitted(images)
    torch.testing.assert_close(torch.cat([fitted(one[None]) for one in images]), together)


def test_the_distance_is_mahalanobis_in_the_principal_components_of_registered_films(fitted: Appearance) -> None:
    learned, queries = films(120), films(6, 900)

    def rows(images: Tensor) -> np.ndarray:
        seen = fitted.registration(images, 32).numpy().reshape(len(images), -1).astype(np.float64)
        ranks = np.stack([[((row < v).sum() + (row <= v).sum()) / 2 / row.size for v in row] for row in seen])
        ranks -= ranks.mean(axis=1, keepdims=True)
        return ranks / np.linalg.norm(ranks, axis=1, keepdims=True)

    known = rows(learned)
    mean = known.mean(axis=0)
    axes = np.linalg.svd(known - mean, full_matrices=False)[2][:119]
    codes = (known - mean) @ axes.T * 100
    covariance = codes.T @ codes / len(codes)
    level = np.trace(covariance) / 119
    spread = ((covariance - level * np.eye(119)) ** 2).sum() / 119
    noise = sum(((np.outer(code, code) - covariance) ** 2).sum() for code in codes) / len(codes) ** 2 / 119
    share = min(noise, spread) / spread  # Ledoit and Wolf, 2004
    shrunk = (1 - share) * covariance + share * level * np.eye(119)
    asked = (rows(queries) - mean) @ axes.T * 100
    expected = np.sqrt(np.einsum("ni,ij,nj->n", asked, np.linalg.inv(shrunk), asked))
    np.testing.assert_allclose(fitted(queries).numpy(), expected, rtol=2e-2)


def test_framing_counts_for_little_and_mirrored_or_turned_films_for_much(fitted: Appearance) -> None:
    images = films(30, 300)
    plain, framed = fitted(images), fitted(moved(images, 0.9, 0.05, 0.0))
    assert framed.median() < plain.median() * 1.5
    for strange in (images.flip(3), images.flip(2), images.rot90(1, (2, 3)), torch.rand(30, 1, SIDE, SIDE)):
        assert (fitted(strange) > plain.max()).float().mean() > 0.9


def test_a_flat_picture_and_two_equal_films_give_numbers(fitted: Appearance) -> None:
    assert torch.isfinite(fitted(torch.zeros(2, 1, SIDE, SIDE))).all()
    model = Appearance()
    model.fit(films(1).expand(2, 1, SIDE, SIDE), seed=0)
    assert torch.isfinite(model(films(2))).all()


def test_progress_is_told_and_registration_can_be_had_alone() -> None:
    seen: list[object] = []

    def track(items):  # type: ignore[no-untyped-def]
        for item in items:
            seen.append(item)
            yield item

    model = Registration()
    model.fit(films(20), track)
    assert len(seen) == 3
    assert model(films(2), 40).shape == (2, 1, 40, 40)


def test_equalisation_against_a_slow_loop_and_on_odd_values() -> None:
    images = torch.rand(70, 1, 9, 9, generator=torch.Generator().manual_seed(0)) * 3.0 - 1.0
    images[1] = 0.25
    equalized = equalize_histogram(images)
    for image, values in zip(images, equalized, strict=True):
        rounded = (image.flatten() * 2**14).round()
        for pixel, value in zip(rounded, values.flatten(), strict=True):
            expected = (float((rounded < pixel).sum()) + 0.5 * float((rounded == pixel).sum())) / 81
            assert float(value) == pytest.approx(expected, abs=1e-6)
    assert equalize_histogram(torch.zeros(0, 1, 4, 4)).shape == (0, 1, 4, 4)
    odd = torch.tensor([[float("nan"), float("inf")], [1e30, -1e30]]).view(1, 1, 2, 2)
    assert torch.equal(equalize_histogram(odd).flatten(), torch.tensor([0.375, 0.75, 0.75, 0.125]))
