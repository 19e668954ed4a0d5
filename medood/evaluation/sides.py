"""The scans of one side of a comparison, as every scorer sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from medood.detection.detector import Detector
from medood.detection.features import Features
from medood.detection.scores import Ensemble
from medood.evaluation.baselines import Trivial
from medood.evaluation.metrics import Vector


@dataclass(frozen=True)
class Side:
    """Scans of one side of a comparison.

    Attributes:
        scores: ``[N]`` by scorer.
        trivial: trivial features.
        patients: ``[N]``.
    """

    scores: dict[str, Vector]
    trivial: Trivial
    patients: npt.NDArray[np.str_]

    def take(self, chosen: npt.NDArray[np.bool_]) -> Side:
        """The scans of the mask ``chosen``."""
        trivial = Trivial(*(getattr(self.trivial, column.name)[chosen] for column in fields(Trivial)))
        return Side({name: scores[chosen] for name, scores in self.scores.items()}, trivial, self.patients[chosen])


def pool(parts: Sequence[Side]) -> Side:
    """All scans of several sides."""
    columns = [np.concatenate([getattr(part.trivial, column.name) for part in parts]) for column in fields(Trivial)]
    return Side(
        {name: np.concatenate([part.scores[name] for part in parts]) for name in parts[0].scores},
        Trivial(*columns),
        np.concatenate([part.patients for part in parts]),
    )


def deciding_scores(name: str, detector: Detector, rows: Features) -> dict[str, Vector]:
    """The deciding score and each part of it: heads in the order of the networks and appearance, or lesions and faults."""
    scores = {name: detector.raw_scores(rows)}
    if detector.score_name == "ensemble":
        parts = Ensemble.parts(rows, detector.fitted["ensemble"]).double().numpy()
        heads = 1 + len(detector.network.members)
        titles = [f"head {i + 1}" for i in range(heads)] + ["appearance"] * (parts.shape[1] - heads)
        scores |= {f"{name}: {title}": parts[:, i] for i, title in enumerate(titles)}
    if detector.score_name == "lesions" and rows.lesions is not None:
        scores |= {f"{name}: {title}": rows.lesions[:, i].double().numpy() for i, title in enumerate(("lesions", "faults"))}
    return scores
