"""Decoded raster images of any format, and their grey values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medood.reasons import Reason
from medood.scans import grayscale
from medood.scans.scan import Grayscale, Pixels, Reduction, RefusedError, Status


@dataclass(frozen=True)
class RasterImage:
    """One image or page.

    Attributes:
        values: ``[H, W]`` grey values or ``[H, W, 3]`` colours, as stored.
        plugin: the decoder.
        bits: bits per value if they define the range: up to 8, unsigned. None for deeper values, whose actual range the
            format does not state.
        white_is_zero: 0 is white.
        ignored: what the file requests and the reader ignores, in words.
        reduction: how the image was reduced in decoding; None if it is whole.
    """

    values: npt.NDArray[Any]
    plugin: str
    bits: int | None = 8
    white_is_zero: bool = False
    ignored: str = ""
    reduction: Reduction | None = None

    def colours(self) -> npt.NDArray[np.uint8] | None:
        """Colours ``[H, W, 3]`` of 8 bits each, or None if the image has none."""
        return self.values if self.values.ndim == 3 and self.values.dtype == np.uint8 and self.bits == 8 else None

    def grey(self) -> tuple[Pixels, Grayscale]:
        """Return grey values ``[1, H, W]`` in [0, 1] and the record of how they were made.

        Raises:
            RefusedError: no value is a finite number.
        """
        inverted = "TIFF WhiteIsZero" if self.white_is_zero else "no"
        voi = "percentile 0.5-99.5" if self.bits is None else "full range"
        divisor = self.reduction.divisor if self.reduction else 1
        grayscale_record = Grayscale(voi=voi, inverted=inverted, plugin=self.plugin, ignored=self.ignored, reduction=divisor)
        values, top = self.values, float(2 ** (self.bits or 0) - 1)
        if values.ndim == 3:
            if self.bits is not None:
                return grayscale.luminance(values, top), grayscale_record
            # in float64, so that colours with three equal channels keep the order of their values
            values = np.round(values.astype(np.float64) @ np.array([0.299, 0.587, 0.114]), 6)
        levels = grayscale.Levels(values)
        finite = np.isfinite(levels.words)
        if not finite.any():
            raise RefusedError(Status.UNREADABLE, Reason("image_without_finite_value"))
        if self.bits is not None:
            unit = levels.words / top
        else:
            words = np.where(finite, levels.words, 0).astype(np.float64)
            unit = grayscale.percentile_window(words, np.where(finite, levels.counts(), 0))
        unit = grayscale.invert(unit) if self.white_is_zero else unit
        return levels.paint(np.where(finite, unit, 0.0)), grayscale_record
