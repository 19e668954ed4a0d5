"""Reads damaged files whole and at the lowest resolution, and counts where the two disagree; prints CSV.

Drawn radiographs in five transfer syntaxes, and the real files that can be reduced, are cut short and get 1, 3 or 20 random
bytes changed, 30 times each.

Usage: MEDOOD_DATA=FOLDER python -m reports.speed.damage > reports/speed/damage.csv
"""

from __future__ import annotations

import csv
import random
import sys
from collections import Counter

from pydicom.uid import HTJ2K, JPEG2000, HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit

from reports.speed.reduced import files, read
from tests.scans.films import film, write

TIMES, LEAST_SIDE, LARGEST = 30, 16, 3_000_000
#: Bytes at the beginning that are never changed: of a small file they are all header.
HEADER = 600


def damaged(content: bytes, how: str, rng: random.Random) -> bytes:
    if how == "cut short":
        return content[: rng.randrange(min(HEADER, len(content) // 2), len(content))]
    changed = bytearray(content)
    for _ in range(rng.choice([1, 3, 20])):
        changed[rng.randrange(min(HEADER, len(content) // 2), len(content))] ^= rng.randrange(1, 256)
    return bytes(changed)


def is_read(content: bytes, least_side: int) -> bool:
    try:
        return bool(read(content, least_side))
    except Exception:  # a parser or decoder may raise anything on a damaged file; a run makes a row of it
        return False


def main() -> None:
    wavelets = (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless)
    deep, eight = ({"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits} for bits in (12, 8))  # without one, read whole
    drawn = {syntax.keyword: write(film(640, 512), 12, syntax, **deep) for syntax in wavelets}
    drawn[JPEGBaseline8Bit.keyword] = write(film(640, 512) >> 4, 8, JPEGBaseline8Bit, **eight)
    real = [content for content in files() if len(content) < LARGEST]
    real = [content for content in real if any(scan.grayscale.reduction > 1 for scan in read(content, LEAST_SIDE))]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["files", "damage", "tries", "both read", "both refuse", "refused whole alone", "refused reduced alone"])
    for name, contents in {**{name: [content] for name, content in drawn.items()}, "real files": real}.items():
        for how in ("cut short", "bytes changed"):
            rng, counts = random.Random(0), Counter[tuple[bool, bool]]()
            for content in contents:
                for _ in range(TIMES):
                    bad = damaged(content, how, rng)
                    counts[is_read(bad, 0), is_read(bad, LEAST_SIDE)] += 1
            row = [counts[True, True], counts[False, False], counts[False, True], counts[True, False]]
            writer.writerow([f"{name} ({len(contents)})", how, sum(row), *row])


if __name__ == "__main__":
    main()
