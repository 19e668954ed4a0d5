"""The metadata of a run: what was screened, with which detector and at which rate, and what was found of the archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from medood.config.schema import ReadConfig
from medood.detection.distribution_tests import Drift, Shift

#: Names under which the ledger stores fields that are called differently here.
_STORED_NAMES = {"fpr_interval": "true_rate", "archive": "whole"}
#: Fields that a ledger holds once they are known: of a finished run, a shard or a merged run.
_OPTIONAL = ("software", "runtime", "archive", "uncalibrated", "seen_before", "listing", "shards", "finished")


@dataclass(frozen=True)
class DetectorInfo:
    """The detector that scored a run.

    Attributes:
        folder: its folder, or empty where it was given as an object.
        sha256: digest of ``detector.json``.
        name: as configured.
        score: name of the score.
        training_scans: number of scans it was trained on.
    """

    folder: str = ""
    sha256: str = ""
    name: str = ""
    score: str = ""
    training_scans: int | None = None


@dataclass(frozen=True)
class CalibrationInfo:
    """The calibration set that p-values were computed from.

    Attributes:
        name: of the calibration.
        sha256: digest of its scores.
        scans: number of scans.
        keys_sha256: digest of the scans' keys.
        made: day on which ``medood calibrate`` made it, in ISO 8601; empty for a detector's own.
        by: DICOM attributes that define the strata.
        strata: number of scans in each stratum.
    """

    name: str = ""
    sha256: str = ""
    scans: int = 0
    keys_sha256: str = ""
    made: str = ""
    by: list[str] = field(default_factory=list)
    strata: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ArchiveFindings:
    """Tests on the archive as a whole.

    Attributes:
        shift: two-sample test against the calibration set; none where it could not be computed.
        drift: trend of the p-values over time, likewise.
        months: ``month``, ``scans`` and ``mean_p_value`` of each month with enough patients, and of a sample of the files
            ``sampled`` and ``flagged``, one scan each.
    """

    shift: Shift | None = None
    drift: Drift | None = None
    months: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class RunMetadata:
    """The metadata of a run, as its ledger stores them.

    Attributes:
        medood: version that began the run; empty where a ledger holds no run yet.
        software: SHA-256 of medood's own files that began the run; none in runs of earlier versions.
        started: time in ISO 8601, UTC.
        sources: as given.
        working_directory: folder that relative sources refer to.
        fpr: false-alarm rate; none where ``fdr`` decides.
        fdr: false-discovery rate; none where ``fpr`` decides.
        limit: largest p-value that is flagged.
        read: which frames and objects became scans, and the limits.
        shard: ``I/N``; empty for a whole run.
        watch: whether the sources were watched for new files.
        runtime: what embedded the scans instead of PyTorch: runtime, its version and the graph's digest; none for PyTorch.
        threshold: score at ``limit``; none where there are strata or nothing is flagged.
        fpr_interval: 90 % interval of the true false-alarm rate; none where ``fdr`` decides.
        calibration: the calibration set.
        detector: the detector.
        archive: tests on the archive as a whole; none for a shard and before the run is finished.
        uncalibrated: scored scans of a stratum without calibration scans.
        seen_before: scored files that are calibration or training scans of the detector, by that use.
        listing: digest of the source listing of a shard.
        shards: number of shards that were merged.
        finished: time in ISO 8601, UTC; none before that.
    """

    medood: str = ""
    software: str | None = None
    started: str = ""
    sources: list[str] = field(default_factory=list)
    working_directory: str = "."
    fpr: float | None = None
    fdr: float | None = None
    limit: float = 0.0
    read: ReadConfig = field(default_factory=ReadConfig)
    shard: str = ""
    watch: bool = False
    runtime: str | None = None
    threshold: float | None = None
    fpr_interval: list[float] | None = None
    calibration: CalibrationInfo = field(default_factory=CalibrationInfo)
    detector: DetectorInfo = field(default_factory=DetectorInfo)
    archive: ArchiveFindings | None = None
    uncalibrated: int | None = None
    seen_before: dict[str, int] | None = None
    listing: str | None = None
    shards: int | None = None
    finished: str | None = None

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> RunMetadata:
        """Metadata from what a ledger of any version stores; unknown names are ignored, missing ones take defaults."""
        names = {_STORED_NAMES.get(item.name, item.name): item.name for item in fields(cls)}
        values: dict[str, Any] = {names[key]: value for key, value in stored.items() if key in names and value is not None}
        if "read" in values:
            values["read"] = {"decode": "full"} | values["read"]  # runs of 0.1.0 knew no other way
        for name, kind in (("read", ReadConfig), ("calibration", CalibrationInfo), ("detector", DetectorInfo)):
            if name in values:
                values[name] = _known(kind, values[name])
        if "archive" in values:
            archive = values["archive"]
            shift, drift = archive.get("shift"), archive.get("drift")
            values["archive"] = ArchiveFindings(
                _known(Shift, shift) if shift else None,
                _known(Drift, drift) if drift else None,
                archive.get("months", []),
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The names and JSON values that a ledger stores; what is not known yet is left out."""
        values = asdict(self)
        return {
            _STORED_NAMES.get(name, name): value
            for name, value in values.items()
            if value is not None or name not in _OPTIONAL
        }


def _known(kind: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass from a mapping that may hold names of another version."""
    names = {item.name for item in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})
