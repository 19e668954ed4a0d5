"""Views for the lesion network: registered frames with lesions planted in some, in the styles of other devices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from medood.config.schema import ViewsConfig
from medood.detection.lesions.network import cut_frames
from medood.detection.registration import equalize_histogram
from medood.distillation.views import acquire, sample_view, to_device
from medood.negatives.lungs import smooth_noise
from medood.negatives.mixture import Mixture
from medood.negatives.shift import column

#: Acquisition noise. Equalisation and registration remove grey curve and crop, so these do not vary.
_VIEWS = ViewsConfig(brightness=0.0, contrast=0.0, gamma=0.0, blur=0.3, blur_sigma=1.6)
#: Standard deviations of a frame's width, height, shifts and tilt, and of the factor common to width and height.
_JITTER, _COMMON_JITTER = 0.03, 0.05
#: Mean change of the grey value from which a place counts fully as lesion; a lesion that changes no place by so much as
#: ``_LEAST`` is undone.
_PLAIN, _LEAST = 0.05, 0.03
#: Shares of the planted radiographs with a second lesion, and of those with a fainter one.
_SECOND, _FAINT = 0.2, 0.5
#: Cells a side of the grids that divide detail into bands, and the standard deviation of their gains' logarithm.
_BANDS, _BAND_GAIN = (96, 30, 12, 4), 0.35
#: Share of the images with adaptive contrast, cells a side of its places, and the standard deviation added to a place's.
_ADAPTED, _PLACES, _LEAST_DEVIATION = 0.5, (4, 10), 0.02
#: Side of the squares whose mean change counts, as a share of the frame's side.
_SQUARE = 0.047


@dataclass(frozen=True)
class LesionViews:
    """Views of one step.

    Attributes:
        frames: float32 ``[N, 1, S, S]``, equalised.
        cells: float32 ``[N, g, g]``, how much of each place is lesion, in [0, 1].
        present: float32 ``[N]``, 1 where a lesion was planted.
        fault: int64 ``[N]``, index in :data:`medood.detection.lesions.faults.FAULTS`; 0 for none.
    """

    frames: Tensor
    cells: Tensor
    present: Tensor
    fault: Tensor


def lesion_views(
    images: Tensor,
    fault: Tensor,
    places: Tensor,
    mixture: Mixture,
    healthy: float,
    side: int,
    cell: int,
    generator: Generator,
) -> LesionViews:
    """Cut frames, plant lesions, and vary the style of healthy and planted frames alike.

    Args:
        images: float32 ``[N, 1, S, S]`` radiographs in [0, 1].
        fault: int64 ``[N]`` on the CPU; radiographs with one get no lesion.
        places: ``[N, 5]``, their frames.
        mixture: lesions.
        healthy: share of the other radiographs that stay as they are.
        side: side of the frames.
        cell: side of a place in pixels.
        generator: a CPU generator.
    """
    plain = cut_frames(images, _jitter(places, generator), side)
    planted, change = plant(plain, fault == 0, mixture, healthy, generator)
    parameters = to_device(sample_view(len(images), [1.0, 1.0], _VIEWS, generator), images.device)
    compressed = 0.2 + 0.6 * mark(planted, generator)  # so that nothing is clipped, whose noise equalisation would amplify
    processed = adapt_contrast(rebalance_bands(shade(acquire(compressed, parameters), generator), generator), generator)
    styled = sharpen(processed, generator)
    amount = (0.02 * torch.rand(len(images), 1, 1, 1, generator=generator)).to(images.device)
    device_generator = Generator(images.device).manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
    styled = styled + amount * torch.randn(styled.shape, generator=device_generator, device=images.device)
    cells = functional.adaptive_avg_pool2d(change, side // cell)[:, 0]
    present = (change.amax(dim=(1, 2, 3)) > 0).float()
    return LesionViews(equalize_histogram(styled), cells, present, fault.to(images.device))


def plant(images: Tensor, allowed: Tensor, mixture: Mixture, healthy: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Plant lesions in a share of the allowed ``[N, 1, S, S]`` images, two in some, from faint to plain.

    Returns:
        the images, and how much of a lesion each pixel is, ``[N, 1, S, S]`` in [0, 1]; both are unchanged and 0 where a
        lesion would change nearly nothing.
    """
    count, side = len(images), images.shape[-1]
    shifted = images.clone()
    chosen = (torch.rand(count, generator=generator) >= healthy) & allowed
    for share in (1.0, _SECOND):
        chosen &= torch.rand(count, generator=generator) < share
        rows = torch.nonzero(chosen).flatten()
        if len(rows) > 1:  # some lesions need another patient
            shifted[rows.to(images.device)] = mixture.apply(shifted[rows], mixture.sample(len(rows), side, generator))
    faint = torch.rand(count, generator=generator) * 0.65 + 0.35
    strength = torch.where(torch.rand(count, generator=generator) < _FAINT, faint, 1.0).view(-1, 1, 1, 1).to(images.device)
    shifted = torch.lerp(images, shifted, strength)
    reach = max(1, round(side * _SQUARE / 2))
    change = functional.avg_pool2d(functional.pad((shifted - images).abs(), [reach] * 4), 2 * reach + 1, stride=1)
    slight = change.flatten(1).amax(dim=1) < _LEAST
    shifted[slight], change[slight] = images[slight], 0.0
    return shifted, (torch.where(change < _PLAIN / 5, 0.0, change) / _PLAIN).clamp(0.0, 1.0)


def mark(images: Tensor, generator: Generator) -> Tensor:
    """Draw what is harmless: letters near the upper corners of half of the images, bars along the borders of a fifth."""
    count, side = len(images), images.shape[-1]
    draws = torch.rand(count, 8, generator=generator).numpy()
    texts = torch.rand(count, 2, 5, 4, generator=generator).numpy() < 0.6
    bars = (torch.rand(count, 4, generator=generator).square() * 0.1 * side).int().numpy()
    is_drawn, levels = np.zeros((count, 1, side, side), dtype=np.bool_), np.zeros((count, 1, side, side), dtype=np.float32)
    for drawn, level, draw, glyphs, bar in zip(is_drawn[:, 0], levels[:, 0], draws, texts, bars, strict=True):
        if draw[0] < 0.5:
            text = np.pad(glyphs[: 1 + int(2 * draw[1])], ((0, 0), (0, 0), (0, 1)))
            text = np.concatenate(list(text), axis=1).repeat(1 + int(4 * draw[2]), 0).repeat(1 + int(4 * draw[2]), 1)
            text = text[:side, :side]
            top = int(0.5 * draw[3] ** 2 * (side - text.shape[0]))
            left = int((0.2 * draw[4] if draw[5] < 0.5 else 1.0 - 0.2 * draw[4]) * (side - text.shape[1]))
            drawn[top : top + text.shape[0], left : left + text.shape[1]] = text
            level[top : top + text.shape[0], left : left + text.shape[1]] = 0.7 + 0.3 * draw[6]
        if draw[7] < 0.2:
            edges = (np.s_[: bar[0]], np.s_[side - bar[1] :], np.s_[:, : bar[2]], np.s_[:, side - bar[3] :])
            for edge in edges:
                drawn[edge], level[edge] = True, float(draw[6] >= 0.8)
    drawn_mask, level_map = (torch.from_numpy(array).to(images.device) for array in (is_drawn, levels))
    return torch.where(drawn_mask, level_map, images)


def shade(images: Tensor, generator: Generator) -> Tensor:
    """Smooth differences of exposure, as from a tilted tube."""
    count = len(images)
    depth = 0.4 * torch.rand(count, 1, 1, 1, generator=generator)
    grids = [torch.rand(count, 1, cells, cells, generator=generator) for cells in (2, 3)]
    return images + (depth * (smooth_noise(grids, images.shape[-1]) - 0.5)).to(images.device)


def rebalance_bands(images: Tensor, generator: Generator) -> Tensor:
    """Multiscale processing as of other devices: in most images each of four bands of detail gains or loses contrast."""
    count, side = len(images), images.shape[-1]
    gains = torch.exp(_BAND_GAIN * torch.randn(count, len(_BANDS), generator=generator))
    gains = torch.where(torch.rand(count, 1, generator=generator) < 0.7, gains, 1.0).to(images.device)
    processed, finer = torch.zeros_like(images), images
    for band, cells in enumerate(_BANDS):
        means = functional.adaptive_avg_pool2d(images, min(cells, side))
        coarser = functional.interpolate(means, (side, side), mode="bilinear", align_corners=False)
        processed = processed + column(gains[:, band]) * (finer - coarser)
        finer = coarser
    return processed + finer


def adapt_contrast(images: Tensor, generator: Generator) -> Tensor:
    """Adaptive processing as of other devices: in half of the images contrast is evened out from place to place.

    The exposure of coarse places is drawn together by up to a half, and the contrast of each place to that of the whole.
    """
    count, side = len(images), images.shape[-1]
    draws = torch.rand(count, 4, generator=generator)
    draws = (draws * (draws[:, 3:] < _ADAPTED)).to(images.device)
    for column_of, cells in enumerate(_PLACES):
        mean, square = (_spread(values, cells, side) for values in (images, images.square()))
        deviation = (square - mean.square()).clamp(min=0.0).sqrt() + _LEAST_DEVIATION
        level = deviation.mean(dim=(1, 2, 3), keepdim=True)
        images = mean + (images - mean) * (level / deviation) ** (0.7 * column(draws[:, column_of]))
    coarse = _spread(images, _PLACES[0], side)
    return images - 0.5 * column(draws[:, 2]) * (coarse - coarse.mean(dim=(1, 2, 3), keepdim=True))


def _spread(images: Tensor, cells: int, side: int) -> Tensor:
    """Means of ``cells`` x ``cells`` places, enlarged smoothly."""
    means = functional.adaptive_avg_pool2d(images, cells)
    return functional.interpolate(means, (side, side), mode="bilinear", align_corners=False)


def sharpen(images: Tensor, generator: Generator) -> Tensor:
    """Draw edges as another device does, softer to much sharper, and the lines of an anti-scatter grid on some images."""
    count, side = len(images), images.shape[-1]
    amount = torch.rand(count, 1, 1, 1, generator=generator) * 2.5 - 0.5
    amount = (amount * (torch.rand(count, 1, 1, 1, generator=generator) < 0.6)).to(images.device)
    smooth = functional.avg_pool2d(functional.pad(images, [1] * 4, mode="reflect"), 3, stride=1)
    lines = torch.rand(count, 3, 1, 1, generator=generator)
    wave = torch.sin(2.0 * torch.pi * torch.arange(side).view(1, 1, 1, side) / side * (20.0 + 70.0 * lines[:, 1:2]))
    grid = (0.02 * lines[:, :1] * wave * (lines[:, 2:] < 0.15)).to(images.device)
    return images + amount * (images - smooth) + grid


def _jitter(places: Tensor, generator: Generator) -> Tensor:
    noise = (_JITTER * torch.randn(places.shape, generator=generator)).to(places)
    common = (_COMMON_JITTER * torch.randn(len(places), 1, generator=generator)).to(places)
    return torch.cat([places[:, :2] * (1.0 + noise[:, :2] + common), places[:, 2:] + noise[:, 2:]], dim=1)
