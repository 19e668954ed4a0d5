"""Detect a change in a stream of scores: exact ranks among what came before, and bets on them that win when things change.

While scans are exchangeable, the randomised rank of each score among the earlier ones is uniform and independent, whatever
the scores' distribution is: there is no calibration set whose error could look like a change. Bets against uniformity lose
on average then, and their capital grows after a change.

Sources: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005), on the ranks; Vovk et al., Retrain or
not retrain: conformal test martingales for change-point detection (2021), on jumping between bets; Shin, Ramdas and Rinaldo,
E-detectors (2022), on the alarm, which is false at most once in ``every`` scans on average.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
#: Share of the capital that moves to the other bets at each scan.
_JUMP = 0.01
#: Scans ranked at once.
_BLOCK = 2048
#: Smallest rank that is bet on, so that no bet wins without limit.
_LEAST = 1e-6


def ranks_among_earlier(scores: Vector, rng: np.random.Generator) -> Vector:
    """For each score the share of earlier scores above it, with ties (and itself) broken at random: ``[N]`` in (0, 1).

    Args:
        scores: ``[N]``, in the order in which the scans came.
        rng: breaks ties.
    """
    ranks = np.empty(len(scores))
    before = np.empty(0)
    for start in range(0, len(scores), _BLOCK):
        block = scores[start : start + _BLOCK]
        above = len(before) - np.searchsorted(before, block, side="right")
        equal = len(before) - above - np.searchsorted(before, block, side="left")
        earlier = np.tri(len(block), k=-1, dtype=np.bool_)
        above += (earlier & (block[None] > block[:, None])).sum(axis=1)
        equal += (earlier & (block[None] == block[:, None])).sum(axis=1)
        number = start + np.arange(len(block))
        ranks[start : start + len(block)] = (above + rng.random(len(block)) * (equal + 1)) / (number + 1)
        before = np.sort(np.concatenate([before, block]), kind="stable")
    return ranks


def evidence_of_change(ranks: Vector) -> Vector:
    """Logarithm of the capital after each rank, ``[N]``; it is set back to 1 (here 0) wherever it falls below.

    The bets are densities on (0, 1): uniform, on small ranks (scores rise) and on large ones (scores fall), each as a steep
    and as a gentle one.

    Args:
        ranks: ``[N]`` in (0, 1).
    """
    p = np.clip(ranks, _LEAST, 1.0 - _LEAST)
    bets = np.stack([np.ones_like(p), 0.5 / np.sqrt(p), 0.5 / np.sqrt(1.0 - p), 2.0 * (1.0 - p), 2.0 * p], axis=1)
    count = bets.shape[1]
    shares, total = np.full(count, 1.0 / count), 0.0
    totals = np.empty(len(p))
    for i, row in enumerate(bets):
        shares = (1.0 - _JUMP) * shares + _JUMP / count
        won = shares * row
        gain = float(won.sum())
        shares = won / gain
        total = max(total, 0.0) + math.log(gain)
        totals[i] = total
    return totals


def changes(scores: Vector, every: float, seed: int = 0) -> tuple[list[int], Vector]:
    """The scans at which a change is reported; after each, the comparison begins anew.

    Args:
        scores: ``[N]``, in the order in which the scans came.
        every: number of scans in which at most one false alarm is expected.
        seed: seed of the tie-breaking.

    Returns:
        indices of the alarms, and the evidence ``[N]`` (natural logarithm; the limit is ``log(every)``).
    """
    alarms: list[int] = []
    evidence = np.zeros(len(scores))
    start = 0
    while start < len(scores):
        rng = np.random.default_rng([seed, start])
        values = evidence_of_change(ranks_among_earlier(scores[start:], rng))
        over = np.flatnonzero(values >= math.log(every))
        stop = int(over[0]) + 1 if len(over) else len(values)
        evidence[start : start + stop] = values[:stop]
        if not len(over):
            break
        start += stop
        alarms.append(start - 1)
    return alarms, evidence
