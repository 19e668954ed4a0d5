"""Plants names, numbers and dates in radiographs, looks for them, and counts what is found in radiographs as they are.

Usage: python -m reports.text.study OUT_FOLDER     (needs the extra `text`, MEDOOD_DATA, and ten or more fonts in FONTS)
"""

from __future__ import annotations

import csv
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import binomtest

from medood.evidence.burned_in_text import Box, find_text

Picture = npt.NDArray[np.float32]
FONTS = Path("/usr/share/fonts/truetype")
FAMILIES = (
    *("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "DejaVuSansCondensed", "DejaVuSans-Bold"),
    *("LiberationSans-Regular", "LiberationSerif-Regular", "LiberationMono-Regular", "LiberationSans-Italic"),
    "LiberationSansNarrow-Regular",
)
#: Heights of the letters' line in pixels, of a radiograph of 1024.
SIZES, SIDE = (12, 14, 18, 24, 36, 48), 1024
#: Radiographs with planted text, texts in each, and radiographs as they are.
PLANTED, EACH, PLAIN = 200, 3, 500
#: Share of a text's box that must be covered.
COVERED = 0.9
SURNAMES = ("MUELLER", "Garcia", "O'Neill", "TANAKA", "Smith-Jones", "KOWALSKI", "Nguyen", "Rossi", "ANDERSSON", "Petrov")
GIVEN = ("Anna", "JOHN", "Maria", "KENJI", "Lars", "FATIMA", "Olga", "PEDRO", "Chloe", "IVAN")


def main() -> None:
    out, data = Path(sys.argv[1]), Path(os.environ["MEDOOD_DATA"])
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    films = sorted((data / "in_distribution" / "test").glob("*.jpg"))
    order = rng.permutation(len(films))
    found: dict[tuple[str, int], list[bool]] = {}
    for number in order[:PLANTED]:
        picture, texts = planted(films[number], rng)
        cover = covered(find_text(picture))
        for family, size, (left, top, right, bottom) in texts:
            found.setdefault((family, size), []).append(float(cover[top:bottom, left:right].mean()) >= COVERED)
    alarms, seconds = [], []
    for number in order[PLANTED : PLANTED + PLAIN]:
        picture = grey(Image.open(films[number]))
        started = time.perf_counter()
        alarms.append(bool(find_text(picture)))
        seconds.append(time.perf_counter() - started)
    with (out / "recall.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["by", "value", "planted", "found", "recall", "low", "high"])
        groups = [("all", "", [hit for hits in found.values() for hit in hits])]
        groups += [("size", str(s), [hit for (_, z), hits in found.items() if z == s for hit in hits]) for s in SIZES]
        groups += [("font", f, [hit for (g, _), hits in found.items() if g == f for hit in hits]) for f in FAMILIES]
        for by, value, hits in groups:
            low, high = interval(sum(hits), len(hits))
            row = [by, value, len(hits), sum(hits), f"{np.mean(hits):.4f}", f"{low:.4f}", f"{high:.4f}"]
            writer.writerow(row)
            print(*row)
    low, high = interval(sum(alarms), len(alarms))
    with (out / "plain.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["radiographs", "with_text_found", "share", "low", "high", "median_seconds", "tenth_beyond"])
        row = [len(alarms), sum(alarms), f"{np.mean(alarms):.4f}", f"{low:.4f}", f"{high:.4f}"]
        writer.writerow([*row, f"{statistics.median(seconds):.3f}", f"{np.quantile(seconds, 0.9):.3f}"])
        print(*row, statistics.median(seconds))


def interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    both = binomtest(count, total).proportion_ci(method="wilson")
    return float(both.low), float(both.high)


def planted(path: Path, rng: np.random.Generator) -> tuple[Picture, list[tuple[str, int, tuple[int, int, int, int]]]]:
    """A radiograph with texts, and font, size and box (left, top, right, bottom) of each."""
    image = Image.open(path).convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    draw, texts = ImageDraw.Draw(image), []
    for number in range(EACH):
        family, size = str(rng.choice(FAMILIES)), int(rng.choice(SIZES))
        font = ImageFont.truetype(str(next(FONTS.glob(f"*/{family}.ttf"))), size)
        words = text(rng)
        row = SIDE * number // EACH + int(rng.integers(5, SIDE // EACH - 70))
        width = int(draw.textlength(words, font))
        place = (int(rng.integers(5, SIDE - width - 5)), row)
        left, top, right, bottom = (int(value) for value in draw.textbbox(place, words, font))
        behind = np.asarray(image)[top:bottom, left:right].mean()
        draw.text(place, words, fill=255 if behind < 140 else 0, font=font)
        texts.append((family, size, (left, top, right, bottom)))
    return grey(image), texts


def text(rng: np.random.Generator) -> str:
    surname, given = str(rng.choice(SURNAMES)), str(rng.choice(GIVEN))
    day, month, year = int(rng.integers(1, 29)), int(rng.integers(1, 13)), int(rng.integers(1930, 2020))
    number = int(rng.integers(10**6, 10**8))
    return str(
        rng.choice(
            [
                *(f"{surname}^{given}", f"{surname}, {given}", f"{given} {surname}", f"ID {number}", f"MRN: {number}"),
                *(f"{day:02}.{month:02}.{year}", f"{year}-{month:02}-{day:02}", f"DOB {month}/{day}/{year}"),
            ]
        )
    )


def covered(boxes: list[Box]) -> npt.NDArray[np.bool_]:
    cover = np.zeros((SIDE, SIDE), dtype=np.bool_)
    for box in boxes:
        cover[int(box.top * SIDE) : int(box.bottom * SIDE) + 1, int(box.left * SIDE) : int(box.right * SIDE) + 1] = True
    return cover


def grey(image: Image.Image) -> Picture:
    return np.asarray(image.convert("L"), dtype=np.float32) / 255.0


if __name__ == "__main__":
    main()
