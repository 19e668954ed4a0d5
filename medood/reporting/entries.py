"""Group flagged scans into report entries: one per file, with near-duplicate files in one entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medood.detection.perceptual_hash import NEAR
from medood.screening.ledger.database import Row

Words = npt.NDArray[np.uint64]

#: Reasons for listing a scan under another one.
SAME_FILE, SAME_PICTURE = "same file", "nearly the same image"


@dataclass(frozen=True)
class Entry:
    """A flagged scan and the scans grouped with it.

    Attributes:
        row: the scan with the highest score.
        others: further frames of its file, and near-duplicate files with all their frames; each with the reason.
    """

    row: Row
    others: tuple[tuple[Row, str], ...] = ()


def entries_of(rows: Sequence[Row], looks: Mapping[tuple[str, int], bytes]) -> list[Entry]:
    """Group rows into entries, keeping their order.

    Two files are near-duplicates if the same frames of both are flagged and each pair of frames looks alike.

    Args:
        rows: flagged scans, highest score first.
        looks: difference hashes by SHA-256 and frame, for images that could be read.
    """
    by_file: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        by_file.setdefault((row.source, row.member, row.sha256), []).append(row)
    files = list(by_file.values())
    leaders, first_words = list[int](), np.zeros((len(files), 4), np.uint64)
    words = [_words(frames, looks) for frames in files]
    others: dict[int, list[tuple[Row, str]]] = {}
    for i, frames in enumerate(files):
        own_words = words[i]
        leader = None if own_words is None else _leader(own_words, frames, files, words, leaders, first_words)
        if leader is not None:
            others[leader] += [(row, SAME_PICTURE) for row in frames]
            continue
        others[i] = [(row, SAME_FILE) for row in frames[1:]]
        if own_words is not None:
            first_words[len(leaders)] = own_words[0]
            leaders.append(i)
    return [Entry(files[i][0], tuple(duplicates)) for i, duplicates in others.items()]


def _words(rows: Sequence[Row], looks: Mapping[tuple[str, int], bytes]) -> Words | None:
    """Difference hashes of a file's frames in order, ``[n, 4]``; None if any frame could not be read."""
    frames = sorted(rows, key=lambda row: row.frame)
    if any((row.sha256, row.frame) not in looks for row in frames):
        return None
    return np.stack([np.frombuffer(looks[row.sha256, row.frame], np.uint64) for row in frames])


def _leader(
    own_words: Words,
    rows: Sequence[Row],
    files: Sequence[Sequence[Row]],
    words: Sequence[Words | None],
    leaders: Sequence[int],
    first_words: Words,
) -> int | None:
    """Index of the first earlier file that is a near-duplicate of this one."""
    near = np.bitwise_count(first_words[: len(leaders)] ^ own_words[0]).sum(axis=1) <= NEAR
    for place in map(int, np.nonzero(near)[0]):
        theirs = words[leaders[place]]
        same_frames = {row.frame for row in rows} == {row.frame for row in files[leaders[place]]}
        if same_frames and theirs is not None and (np.bitwise_count(theirs ^ own_words).sum(axis=1) <= NEAR).all():
            return leaders[place]
    return None
