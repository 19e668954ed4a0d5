"""Show what was read from a file, in words and as the image that the network sees."""

from __future__ import annotations

import re
from pathlib import Path

from medood.config.schema import PreprocessConfig
from medood.scans.scan import Refusal, Scan
from medood.text import visible


def describe(result: Scan | Refusal) -> tuple[str, str]:
    """Return a block of text on one result, and its status in one word."""
    identity = result.identity
    head = visible(identity.name, keep="") + (f", frame {identity.frame}" if identity.frame else "")
    if isinstance(result, Refusal):
        return f"{head}\n  {result.status:<27}{visible(result.reason, keep='')}", str(result.status)
    height, width = result.pixels.shape[1:]
    spacing = "not stated"
    if result.spacing:
        spacing = f"{result.spacing[0]:.4g} x {result.spacing[1]:.4g} mm ({result.spacing_source})"
    grayscale = result.grayscale
    lines = [
        ("size", f"{height} rows x {width} columns" + ("" if result.aspect == 1 else f", pixels {result.aspect:.4g} : 1")),
        ("spacing", spacing),
        ("modality step", grayscale.modality_lut),
        ("voi", grayscale.voi),
        ("inverted", grayscale.inverted),
        ("decoder", grayscale.plugin),
        ("left out", grayscale.ignored),
        ("grey values", f"{result.pixels.min():.3f} to {result.pixels.max():.3f}, mean {result.pixels.mean():.3f}"),
        *result.attributes.items(),
        ("sha256", identity.sha256),
    ]
    return "\n".join([head, *(f"  {name:<27}{visible(text)}" for name, text in lines if text)]), "read"


def write_picture(result: Scan | Refusal, folder: Path, number: int, preprocess: PreprocessConfig) -> Path | None:
    """Write the network's input as an 8-bit PNG and return its path; None for a refusal.

    Args:
        result: what was read.
        folder: folder for the image; created if missing.
        number: index of the result, for the file name.
        preprocess: how a detector prepares scans.
    """
    if isinstance(result, Refusal):
        return None
    from PIL import Image

    from medood.scans.transforms import network_input, preprocessing, to_levels

    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(
        r"[^A-Za-z0-9._-]+", "_", (result.identity.member or result.identity.source).replace("\\", "/").split("/")[-1]
    )
    target = folder / f"{number:06d}_{stem[:80]}_{result.identity.frame}.png"
    image = to_levels(network_input(result, preprocessing(preprocess))).permute(1, 2, 0).squeeze(-1).contiguous()
    Image.fromarray(image.numpy()).save(target)
    return target
