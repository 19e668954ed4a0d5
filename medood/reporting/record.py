"""The record: everything a report shows, taken from the ledger and the detector, as plain JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medood.detection.detector import Detector
from medood.detection.reference import TRAINING
from medood.detection.shipped import find_detector
from medood.errors import MedoodError
from medood.evidence.gradcam import EXPLAINED
from medood.evidence.reasons import Distances
from medood.progress import Progress
from medood.reporting.pictures import EvidencePictures, draw_evidence
from medood.scans.scan import Status
from medood.schema import PreprocessConfig, ReadConfig
from medood.screening.ledger import Ledger, Row
from medood.screening.pipeline import summary
from medood.screening.whole import sentences

SCHEMA_VERSION = 2
_BINS = 40
#: Lines of a table in the report; verdicts.csv has them all.
MAX_LINES = 1000
#: Rows listed as files without a score; what the selection left out is counted, not listed.
_REFUSED = f"status NOT IN ('{Status.SCORED}', '{Status.NOT_SELECTED}')"
#: DICOM attributes in the order a report lists them, and what it calls them.
_SHOWN = {
    "Modality": "Modality",
    "BodyPartExamined": "Body part",
    "ViewPosition": "View",
    "Manufacturer": "Manufacturer",
    "PhotometricInterpretation": "Photometric",
    "TransferSyntax": "Syntax",
}


def detector_of(run: Path, folder: str | Path | None = None) -> tuple[dict[str, Any], Detector]:
    """The facts of a finished run, and the detector that scored it.

    Args:
        run: the run's folder.
        folder: the detector's, where it is no longer the one noted in the ledger.

    Raises:
        MedoodError: there is no run, it is unfinished, or the detector is gone or another one.
    """
    facts = Ledger.facts_of(run)
    if "finished" not in facts:
        raise MedoodError(f"{run} was not finished. Screen again before reporting.")
    folder = folder or facts.get("detector", {}).get("folder") or ""
    if not folder or not find_detector(folder).is_dir():
        raise MedoodError(f"The detector of {run} is no longer at {folder or 'any known place'}. Give --detector.")
    detector = Detector.load(folder, facts.get("calibration", {}).get("name", TRAINING))
    if facts["detector"]["sha256"] != detector.sha256:
        raise MedoodError(
            f"{run} was scored by the detector {facts['detector']['sha256'][:12]}, not by {detector.sha256[:12]}. "
            "Give the right one with --detector."
        )
    return facts, detector


def make_record(
    run: Path, detector: Detector, folder: Path, *, top: int, progress: Progress, pictures: bool = True
) -> dict[str, Any]:
    """Collect a run's record and draw the evidence of its most out-of-distribution scans.

    Args:
        run: the run's folder.
        detector: the one that scored it.
        folder: where pictures go.
        top: number of scans shown with evidence.
        progress: where to draw.
        pictures: show the scans and their Grad-CAM.

    """
    ledger = Ledger(run)
    try:
        facts = ledger.run()
        flagged = list(ledger.rows("decision = 'out_of_distribution'", "score DESC, id"))
        pages = []
        read = ReadConfig(**facts.get("read", {}))
        read.select = ""
        distances = Distances.of(detector) if pictures else None
        with progress.bar(min(top, len(flagged)), "evidence") as bar:
            for rank, row in enumerate(flagged[:top], start=1):
                drawn = EvidencePictures(missing="left out of this report")
                if pictures:
                    base = Path(facts.get("working_directory", "."))
                    drawn = draw_evidence(
                        row,
                        detector,
                        folder,
                        f"scan-{rank:04d}",
                        base,
                        read,
                        distances=distances,
                    )
                    if drawn.missing:
                        progress.say(f"no picture of {row.source} {row.member}: {drawn.missing}")
                pages.append(_page(rank, row, drawn))
                bar(1, "")
        scores = np.array([row.score for row in ledger.rows("status = 'scored'")], dtype=np.float64)
        record = {
            "schema_version": SCHEMA_VERSION,
            "run": {name: value for name, value in facts.items() if name not in ("detector", "working_directory")},
            "said": sentences(facts),
            "summary": vars(summary(ledger)),
            "counts": [
                {"status": status, "decision": decision, "count": count}
                for (status, decision), count in ledger.counts().items()
            ],
            "detector": {
                **{name: value for name, value in facts["detector"].items() if name != "folder"},
                "input": _input(detector.preprocess),
                "backbone": detector.model.backbone,
                "cam_scale": detector.cam_scale,
                "explained": EXPLAINED.get(detector.score_name, ""),
            },
            "histogram": histogram(detector.calibration.scores, scores, facts["threshold"]),
            "flagged": [_line(rank, row) for rank, row in enumerate(flagged[:MAX_LINES], start=1)],
            "pages": pages,
            "refused": [_line(0, row) for row in ledger.rows(_REFUSED, "status, id", MAX_LINES)],
        }
    finally:
        ledger.close()
    checked: dict[str, Any] = _checked(record)
    return checked


def histogram(
    calibration: npt.NDArray[np.float64], scores: npt.NDArray[np.float64], threshold: float | None
) -> dict[str, Any]:
    """Shares of calibration and screened scans in equal bins of the score.

    The range is that of the calibration scores, widened upwards by at most twice its length; what lies beyond is counted in
    the last bin (``beyond`` says how many).
    """
    calibration = calibration[np.isfinite(calibration)]
    low, high = (float(calibration.min()), float(calibration.max())) if len(calibration) else (0.0, 1.0)
    length = max(high - low, 1e-9)
    top = high + min(max(float(scores.max()) - high, 0.1 * length), 2.0 * length) if len(scores) else high
    low = min(low, float(scores.min())) if len(scores) else low
    edges = np.linspace(low, top, _BINS + 1)

    def shares(values: npt.NDArray[np.float64]) -> list[float]:
        counts, _ = np.histogram(np.clip(values, low, top), bins=edges)
        return [round(float(v), 6) for v in counts / max(len(values), 1)]

    return {
        "low": low,
        "high": float(top),
        "threshold": threshold if threshold is not None and np.isfinite(threshold) else None,
        "calibration": shares(calibration),
        "screened": shares(scores),
        "beyond": int((scores > top).sum()),
    }


def write_record(record: dict[str, Any], target: Path) -> None:
    """Write the record as JSON."""
    target.write_text(json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _page(rank: int, row: Row, pictures: EvidencePictures) -> dict[str, Any]:
    grey = row.facts.get("grayscale", {})
    attributes = row.facts.get("attributes", {})
    facts = [(words, attributes[name]) for name, words in _SHOWN.items() if name in attributes]
    spacing, source = row.facts.get("spacing"), row.facts.get("spacing_source", "")
    shape = row.facts.get("shape", [0, 0])
    facts.append(("Size", f"{shape[0]} rows x {shape[1]} columns"))
    facts.append(("Spacing", f"{spacing[0]:.3g} x {spacing[1]:.3g} mm, {source}" if spacing else "not stated"))
    facts.append(("Modality LUT", grey.get("modality_lut", "")))
    facts.append(("VOI", grey.get("voi", "")))
    facts.append(("Inverted", grey.get("inverted", "")))
    if grey.get("ignored"):
        facts.append(("Left out", grey["ignored"]))
    return {
        **_line(rank, row),
        **vars(pictures),
        "nearest": [
            {"cosine": round(cosine, 4), "sha256": key}
            for cosine, key in zip(row.facts.get("nearest", []), row.facts.get("nearest_keys", []), strict=True)
        ],
        "facts": facts,
    }


def _input(config: PreprocessConfig) -> str:
    seen = "" if config.crop == 1.0 else f", the middle {config.crop:.0%} of each side"
    return f"{config.size} x {config.size} pixels, {config.fit}{seen}"


def _line(rank: int, row: Row) -> dict[str, Any]:
    return {
        "rank": rank,
        "source": row.source,
        "member": row.member,
        "frame": row.frame,
        "sha256": row.sha256,
        "status": row.status,
        "score": row.score,
        "p_value": row.p_value,
        "reason": row.reason,
    }


def _checked(value: Any) -> Any:
    """Text without control characters and lone surrogates, numbers that are finite; what JSON and a typesetter can take."""
    if isinstance(value, dict):
        return {key: _checked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_checked(item) for item in value]
    if isinstance(value, str):
        clean = value.encode("utf-8", "replace").decode("utf-8")
        return "".join(c if c.isprintable() else "\ufffd" for c in clean)[:2000]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
