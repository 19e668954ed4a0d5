"""Entries of a report: one a file, and one for files that show nearly the same picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medood.detection.perceptual_hash import NEAR
from medood.screening.ledger import Row

Words = npt.NDArray[np.uint64]

#: Why a scan stands under another one.
SAME_FILE, SAME_PICTURE = "same file", "nearly the same picture"


@dataclass(frozen=True)
class Entry:
    """A flagged scan, and those that are told with it.

    Attributes:
        row: the scan with the highest score.
        others: further frames of its file, and scans of nearly the same picture with the frames of theirs; each with why.
    """

    row: Row
    others: tuple[tuple[Row, str], ...] = ()


def entries_of(rows: Sequence[Row], looks: Mapping[tuple[str, int], bytes]) -> list[Entry]:
    """Group rows, in their order.

    Files show nearly the same picture where they have the same flagged frames and each looks alike.

    Args:
        rows: of flagged scans, the highest score first.
        looks: difference hashes of pictures by SHA-256 and frame, of those that could be read.
    """
    by_file: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        by_file.setdefault((row.source, row.member, row.sha256), []).append(row)
    files = list(by_file.values())
    leaders, first_words = list[int](), np.zeros((len(files), 4), np.uint64)
    words = [_words(some, looks) for some in files]
    others: dict[int, list[tuple[Row, str]]] = {}
    for i, some in enumerate(files):
        mine = words[i]
        leader = None if mine is None else _leader(mine, some, files, words, leaders, first_words)
        if leader is not None:
            others[leader] += [(row, SAME_PICTURE) for row in some]
            continue
        others[i] = [(row, SAME_FILE) for row in some[1:]]
        if mine is not None:
            first_words[len(leaders)] = mine[0]
            leaders.append(i)
    return [Entry(files[i][0], tuple(told)) for i, told in others.items()]


def _words(rows: Sequence[Row], looks: Mapping[tuple[str, int], bytes]) -> Words | None:
    """Difference hashes of a file's frames in their order, ``[n, 4]``; none where one could not be read."""
    frames = sorted(rows, key=lambda row: row.frame)
    if any((row.sha256, row.frame) not in looks for row in frames):
        return None
    return np.stack([np.frombuffer(looks[row.sha256, row.frame], np.uint64) for row in frames])


def _leader(
    mine: Words,
    rows: Sequence[Row],
    files: Sequence[Sequence[Row]],
    words: Sequence[Words | None],
    leaders: Sequence[int],
    first_words: Words,
) -> int | None:
    """The first file before this one that shows nearly the same."""
    near = np.bitwise_count(first_words[: len(leaders)] ^ mine[0]).sum(axis=1) <= NEAR
    for place in map(int, np.nonzero(near)[0]):
        theirs = words[leaders[place]]
        same_frames = {row.frame for row in rows} == {row.frame for row in files[leaders[place]]}
        if same_frames and theirs is not None and (np.bitwise_count(theirs ^ mine).sum(axis=1) <= NEAR).all():
            return leaders[place]
    return None
