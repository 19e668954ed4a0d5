"""Draws the figure of docs/explanation/grayscale.md from a synthetic chest: ``python figure.py TARGET.png``."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

mpl.use("Agg")
import matplotlib.pyplot as plt

from medood.phantom.chest import frontal_chest
from medood.scans import grayscale

SLOPE, INTERCEPT, CENTER, WIDTH = 0.5, -200.0, 900.0, 1700.0
GREY = {"cmap": "gray", "vmin": 0, "vmax": 1}


def main(target: Path) -> None:
    """A MONOCHROME1 radiograph of 12 bits with rescale and a window, step by step, and with a step left out or misplaced."""
    chest = np.clip(frontal_chest(4, 320).image, 0, 1)
    values = CENTER + WIDTH * (0.5 - chest)  # white where little is absorbed, as MONOCHROME1 means it
    stored = np.rint((values - INTERCEPT) / SLOPE)
    stored[:36, :36] = 0  # a black marker plate, the brightest thing on the radiograph
    rescaled = stored * SLOPE + INTERCEPT
    windowed = grayscale.window(rescaled, CENTER, WIDTH)
    right = [
        ("1  stored values", "Bits Stored, High Bit,\nPixel Representation", stored / 4095),
        ("2  modality", "Modality LUT, or\nRescale Slope and Intercept", (rescaled - rescaled.min()) / np.ptp(rescaled)),
        ("3  VOI", "VOI LUT, or Window Center,\nWidth and Function", windowed),
        ("4  presentation", "MONOCHROME1 or\nPresentationLUTShape INVERSE", grayscale.invert(windowed)),
    ]
    early = grayscale.window((stored.max() - stored) * SLOPE + INTERCEPT, CENTER, WIDTH)
    wrong = [
        ("not inverted", "bone is black", windowed),
        ("inverted before the window,\nagainst the data's maximum", "too dark, by how much\ndepends on the image", early),
        ("window on stored values", "Rescale left out", grayscale.invert(grayscale.window(stored, CENTER, WIDTH))),
        ("no window", "minimum to maximum", 1 - stored / stored.max()),
    ]
    figure, axes = plt.subplots(2, 4, figsize=(10.4, 7.4), dpi=130)
    figure.subplots_adjust(left=0.02, right=0.98, top=0.9, bottom=0.07, wspace=0.16, hspace=0.52)
    for place, (title, attributes, image) in zip(axes.flat, [*right, *wrong], strict=True):
        place.imshow(image, **GREY)
        place.set_title(title, fontsize=11)
        place.set_xlabel(attributes, fontsize=9, color="0.35")
        place.set_xticks([])
        place.set_yticks([])
        for spine in place.spines.values():
            spine.set_visible(False)
    for place in axes[0, :3]:
        arrow = {"arrowstyle": "-|>", "color": "#d0491c"}
        place.annotate("", xy=(1.15, 0.5), xytext=(1.01, 0.5), xycoords="axes fraction", arrowprops=arrow)
    figure.text(0.02, 0.965, "The order of the standard", fontsize=13, weight="bold")
    figure.text(0.02, 0.475, "The same file with a step left out or misplaced", fontsize=13, weight="bold")
    png = io.BytesIO()
    figure.savefig(png)
    Image.open(png).convert("RGB").quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
