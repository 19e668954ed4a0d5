"""Positive views on the device: batched crops, small rotations, acquisition noise. No flip, solarise or grey-drop."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from medood.config.schema import ViewsConfig
from medood.negatives.shift import Parameters, column, resample, uniform

#: Grey levels that a histogram is equalised over.
_BINS = 256
#: Cells a side of the coarser and of the finer grid that the light and dark around a place is taken from.
_CELLS = (6, 20)


def sample_view(count: int, scale: list[float], config: ViewsConfig, generator: Generator) -> Parameters:
    """Draw crops and acquisition noise for ``count`` views.

    Args:
        count: number of views.
        scale: range of the crop's share of the area.
        config: bounds of everything else.
        generator: a CPU generator.

    Returns:
        tensors ``[count]``: ``width``, ``height``, ``x``, ``y`` (crop in [-1, 1] coordinates), ``degrees``, ``shift``,
        ``contrast``, ``gamma``, ``sigma`` (0 where there is no blur) and, where the configuration asks for them,
        ``equalized`` (1 where the histogram is equalised) and ``fine``, ``coarse`` (factors), ``reach`` (in [0, 1)).
    """
    area = uniform(count, scale[0], scale[1], generator).sqrt()
    stretch = torch.exp(uniform(count, -0.5, 0.5, generator) * math.log(config.aspect))
    width, height = (area * stretch).clamp(max=1.0), (area / stretch).clamp(max=1.0)
    blurred = (torch.rand(count, generator=generator) < config.blur).float()
    drawn = {
        "width": width,
        "height": height,
        "x": uniform(count, -1.0, 1.0, generator) * (1.0 - width),
        "y": uniform(count, -1.0, 1.0, generator) * (1.0 - height),
        "degrees": uniform(count, -config.rotation, config.rotation, generator),
        "shift": uniform(count, -config.brightness, config.brightness, generator),
        "contrast": 1.0 + uniform(count, -config.contrast, config.contrast, generator),
        "gamma": torch.exp(uniform(count, -1.0, 1.0, generator) * math.log1p(config.gamma)),
        "sigma": uniform(count, 0.2, max(config.blur_sigma, 0.2), generator) * blurred,
    }
    if config.equalize > 0:
        drawn["equalized"] = (torch.rand(count, generator=generator) < config.equalize).float()
    if config.detail > 0:
        for name in ("fine", "coarse"):
            drawn[name] = torch.exp(uniform(count, -1.0, 1.0, generator) * math.log1p(config.detail))
        drawn["reach"] = torch.rand(count, generator=generator)
    return drawn


def crop(pictures: Tensor, parameters: Parameters, side: int) -> Tensor:
    """Cut the drawn crops out of ``[N, 1, S, S]`` pictures and bring them to ``side``."""
    angle = parameters["degrees"] * (math.pi / 180.0)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    width, height = parameters["width"], parameters["height"]
    matrix = torch.stack(
        [
            torch.stack([width * cosine, -width * sine, parameters["x"]], dim=1),
            torch.stack([height * sine, height * cosine, parameters["y"]], dim=1),
        ],
        dim=1,
    )
    return resample(pictures, matrix, side)


def acquire(views: Tensor, parameters: Parameters) -> Tensor:
    """Equalisation, detail, blur, contrast, brightness and gamma as drawn, on ``[N, 1, s, s]`` views in [0, 1]."""
    if "equalized" in parameters:
        views = equalize(views, parameters["equalized"] > 0)
    if "fine" in parameters:
        views = rebalance(views, *(column(parameters[name]) for name in ("fine", "coarse", "reach")))
    views = blur(views, parameters["sigma"])
    views = (views - 0.5) * column(parameters["contrast"]) + 0.5 + column(parameters["shift"])
    return views.clamp(1e-4, 1.0) ** column(parameters["gamma"])


def equalize(views: Tensor, chosen: Tensor) -> Tensor:
    """Histogram equalisation of the ``chosen`` ``[N]`` of ``[N, 1, s, s]`` views, as MONAI's ``HistogramNormalize`` does."""
    rows = views[chosen].flatten(1)
    if not rows.numel():
        return views
    low = rows.amin(dim=1, keepdim=True)
    level = (rows - low) / (rows.amax(dim=1, keepdim=True) - low).clamp(min=1e-6) * _BINS
    counts = rows.new_zeros(len(rows), _BINS).scatter_add_(1, level.long().clamp(max=_BINS - 1), torch.ones_like(rows))
    below = counts.cumsum(dim=1)
    shares = (below - below[:, :1]) / (below[:, -1:] - below[:, :1]).clamp(min=1.0)
    place = (level - 0.5).clamp(0.0, _BINS - 1.0)  # between the middles of the bins
    left = place.long()
    right = (left + 1).clamp(max=_BINS - 1)
    equalized = views.clone()
    equalized[chosen] = torch.lerp(shares.gather(1, left), shares.gather(1, right), place - left).view(-1, *views.shape[1:])
    return equalized


def rebalance(views: Tensor, fine: Tensor, coarse: Tensor, reach: Tensor) -> Tensor:
    """Multiscale processing in two bands, as devices that even out a film do it.

    What a view has above its surroundings is multiplied by ``fine``, what these have above the view's mean by ``coarse``.

    Args:
        views: float32 ``[N, 1, s, s]`` in [0, 1].
        fine: ``[N, 1, 1, 1]``, above 0.
        coarse: likewise.
        reach: likewise, in [0, 1]: how far the surroundings reach, 0 the coarser grid of means, 1 the finer.
    """
    side = views.shape[-1]
    wide, near = (
        functional.interpolate(functional.adaptive_avg_pool2d(views, min(cells, side)), size=(side, side), mode="bilinear")
        for cells in _CELLS
    )
    around = torch.lerp(wide, near, reach)
    mean = views.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + coarse * (around - mean) + fine * (views - around)).clamp(0.0, 1.0)


def blur(views: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each view with its own sigma in pixels; 0 leaves the view as it is."""
    chosen = torch.nonzero(sigma > 0).flatten()
    if not len(chosen):
        return views
    reach = max(1, math.ceil(3.0 * float(sigma.max())))
    offset = torch.arange(-reach, reach + 1, device=views.device, dtype=views.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma[chosen, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True))[:, None]
    rows = functional.pad(views[chosen].transpose(0, 1), (reach, reach, reach, reach), mode="reflect")
    rows = functional.conv2d(rows, kernel[..., None], groups=len(chosen))
    rows = functional.conv2d(rows, kernel[:, :, None], groups=len(chosen))
    blurred = views.clone()
    blurred[chosen] = rows.transpose(0, 1)
    return blurred


def to_device(parameters: Parameters, device: torch.device) -> Parameters:
    """The same parameters on another device."""
    return {name: value.to(device) for name, value in parameters.items()}
