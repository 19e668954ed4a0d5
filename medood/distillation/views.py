"""Positive views on the device: batched crops, small rotations, acquisition noise. No solarisation or grey-drop."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from medood.config.schema import ViewsConfig
from medood.negatives.shift import Parameters, column, resample, uniform

#: Number of histogram bins for equalisation.
_BINS = 256
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
#: Cells per side of the coarser and of the finer grid of local means.
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
        ``contrast``, ``gamma``, ``sigma`` (0 for no blur) and, if the configuration enables them,
        ``mirrored`` (1 where the view is mirrored), ``saturation`` (factors), ``hue`` (fractions of the circle),
        ``equalized`` (1 where the histogram is equalised) and ``fine``, ``coarse`` (factors), ``reach`` (in [0, 1)).
    """
    area = uniform(count, scale[0], scale[1], generator).sqrt()
    stretch = torch.exp(uniform(count, -0.5, 0.5, generator) * math.log(config.aspect))
    width, height = (area * stretch).clamp(max=1.0), (area / stretch).clamp(max=1.0)
    blurred = (torch.rand(count, generator=generator) < config.blur).float()
    view_parameters = {
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
    if config.mirror > 0:
        view_parameters["mirrored"] = (torch.rand(count, generator=generator) < config.mirror).float()
    if config.saturation > 0 or config.hue > 0:
        view_parameters["saturation"] = 1.0 + uniform(count, -config.saturation, config.saturation, generator)
        view_parameters["hue"] = uniform(count, -config.hue, config.hue, generator)
    if config.equalize > 0:
        view_parameters["equalized"] = (torch.rand(count, generator=generator) < config.equalize).float()
    if config.detail > 0:
        for name in ("fine", "coarse"):
            view_parameters[name] = torch.exp(uniform(count, -1.0, 1.0, generator) * math.log1p(config.detail))
        view_parameters["reach"] = torch.rand(count, generator=generator)
    return view_parameters


def crop(images: Tensor, parameters: Parameters, side: int) -> Tensor:
    """Cut the drawn crops out of ``[N, 1, S, S]`` images, resample them to ``side``, and mirror those drawn."""
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
    if "mirrored" in parameters:
        across = 1.0 - 2.0 * parameters["mirrored"]
        matrix = matrix * torch.stack([across, torch.ones_like(across), torch.ones_like(across)], dim=1)[:, None]
    return resample(images, matrix, side)


def acquire(views: Tensor, parameters: Parameters) -> Tensor:
    """Apply the drawn equalisation, detail, blur, colour, contrast, brightness and gamma to ``[N, C, s, s]`` views."""
    if "equalized" in parameters:
        views = equalize(views, parameters["equalized"] > 0)
    if "fine" in parameters:
        views = rebalance(views, *(column(parameters[name]) for name in ("fine", "coarse", "reach")))
    views = blur(views, parameters["sigma"])
    if "saturation" in parameters:
        views = recolour(views, parameters["saturation"], parameters["hue"])
    views = (views - 0.5) * column(parameters["contrast"]) + 0.5 + column(parameters["shift"])
    return views.clamp(1e-4, 1.0) ** column(parameters["gamma"])


def equalize(views: Tensor, chosen: Tensor) -> Tensor:
    """Histogram equalisation of the ``[N, 1, s, s]`` views in the mask ``chosen``, like MONAI's ``HistogramNormalize``."""
    rows = views[chosen].flatten(1)
    if not rows.numel():
        return views
    low = rows.amin(dim=1, keepdim=True)
    level = (rows - low) / (rows.amax(dim=1, keepdim=True) - low).clamp(min=1e-6) * _BINS
    counts = rows.new_zeros(len(rows), _BINS).scatter_add_(1, level.long().clamp(max=_BINS - 1), torch.ones_like(rows))
    below = counts.cumsum(dim=1)
    shares = (below - below[:, :1]) / (below[:, -1:] - below[:, :1]).clamp(min=1.0)
    place = (level - 0.5).clamp(0.0, _BINS - 1.0)  # interpolate between bin centres
    left = place.long()
    right = (left + 1).clamp(max=_BINS - 1)
    equalized = views.clone()
    equalized[chosen] = torch.lerp(shares.gather(1, left), shares.gather(1, right), place - left).view(-1, *views.shape[1:])
    return equalized


def rebalance(views: Tensor, fine: Tensor, coarse: Tensor, reach: Tensor) -> Tensor:
    """Multiscale processing in two bands, like that of devices that even out a radiograph's contrast.

    The difference of a view from its local mean is multiplied by ``fine``, and the difference of the local mean from the
    view's mean by ``coarse``.

    Args:
        views: float32 ``[N, 1, s, s]`` in [0, 1].
        fine: ``[N, 1, 1, 1]``, above 0.
        coarse: likewise.
        reach: likewise, in [0, 1]: extent of the local mean, from the coarser grid (0) to the finer (1).
    """
    side = views.shape[-1]
    wide, near = (
        functional.interpolate(functional.adaptive_avg_pool2d(views, min(cells, side)), size=(side, side), mode="bilinear")
        for cells in _CELLS
    )
    around = torch.lerp(wide, near, reach)
    mean = views.mean(dim=(1, 2, 3), keepdim=True)
    return (mean + coarse * (around - mean) + fine * (views - around)).clamp(0.0, 1.0)


def recolour(views: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Scale the colour differences of ``[N, 3, s, s]`` views by ``saturation`` and turn them by ``hue`` of the circle, in
    the YIQ space of NTSC; the luminance stays."""
    cosine, sine = saturation * torch.cos(2 * math.pi * hue), saturation * torch.sin(2 * math.pi * hue)
    one, zero = torch.ones_like(hue), torch.zeros_like(hue)
    turn = torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], dim=1).view(-1, 3, 3)
    to_yiq = torch.tensor(_RGB_TO_YIQ, device=views.device, dtype=views.dtype)
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("nij,njhw->nihw", matrix, views).clamp(0.0, 1.0)


def blur(views: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each view with its own sigma in pixels; 0 leaves the view as it is."""
    chosen = torch.nonzero(sigma > 0).flatten()
    if not len(chosen):
        return views
    reach = max(1, math.ceil(3.0 * float(sigma.max())))
    offset = torch.arange(-reach, reach + 1, device=views.device, dtype=views.dtype)
    channels = views.shape[1]
    kernel = torch.exp(-0.5 * (offset / sigma[chosen, None]) ** 2).repeat_interleave(channels, dim=0)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True))[:, None]
    rows = functional.pad(views[chosen].flatten(0, 1)[None], (reach, reach, reach, reach), mode="reflect")
    rows = functional.conv2d(rows, kernel[..., None], groups=rows.shape[1])
    rows = functional.conv2d(rows, kernel[:, :, None], groups=rows.shape[1])
    blurred = views.clone()
    blurred[chosen] = rows.view(-1, channels, *views.shape[2:])
    return blurred


def to_device(parameters: Parameters, device: torch.device) -> Parameters:
    """The same parameters on another device."""
    return {name: value.to(device) for name, value in parameters.items()}
