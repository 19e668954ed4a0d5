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
_BLOCK = 1024
#: Smallest rank that is bet on, so that no bet wins without limit.
_LEAST = 1e-6


class ChangeDetector:
    """Ranks scores among the earlier ones and bets on the ranks.

    Args:
        rng: breaks ties.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng, self._before = rng, np.empty(0)
        self._shares, self._total = np.full(5, 0.2), 0.0

    def rank(self, block: Vector) -> Vector:
        """For each score the share of earlier scores above it, ties (and itself) broken at random: ``[N]`` in (0, 1)."""
        count = len(self._before)
        above = count - np.searchsorted(self._before, block, side="right")
        equal = count - above - np.searchsorted(self._before, block, side="left")
        earlier = np.tri(len(block), k=-1, dtype=np.bool_)
        above += (earlier & (block[None] > block[:, None])).sum(axis=1)
        equal += (earlier & (block[None] == block[:, None])).sum(axis=1)
        self._before = np.sort(np.concatenate([self._before, block]), kind="stable")
        ranks: Vector = (above + self._rng.random(len(block)) * (equal + 1)) / (count + np.arange(len(block)) + 1)
        return ranks

    def evidence(self, ranks: Vector) -> Vector:
        """Logarithm of the capital after each rank, ``[N]``; it is set back to 1 (here 0) wherever it falls below.

        The bets are densities on (0, 1): uniform, on small ranks (scores rise) and on large ones (scores fall), each as a
        steep and as a gentle one.
        """
        p = np.clip(ranks, _LEAST, 1.0 - _LEAST)
        bets = np.stack([np.ones_like(p), 0.5 / np.sqrt(p), 0.5 / np.sqrt(1.0 - p), 2.0 * (1.0 - p), 2.0 * p], axis=1)
        totals = np.empty(len(p))
        for i, row in enumerate(bets):
            won = ((1.0 - _JUMP) * self._shares + _JUMP / len(row)) * row
            gain = float(won.sum())
            self._shares = won / gain
            self._total = max(self._total, 0.0) + math.log(gain)
            totals[i] = self._total
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
    position, detector = 0, ChangeDetector(np.random.default_rng([seed, 0]))
    while position < len(scores):
        block = scores[position : position + _BLOCK]
        values = detector.evidence(detector.rank(block))
        over = np.flatnonzero(values >= math.log(every))
        stop = int(over[0]) + 1 if len(over) else len(block)
        evidence[position : position + stop] = values[:stop]
        position += stop
        if len(over):
            alarms.append(position - 1)
            detector = ChangeDetector(np.random.default_rng([seed, position]))
    return alarms, evidence
