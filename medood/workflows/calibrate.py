"""Add a calibration for another hospital to a detector, without training; existing calibrations are kept."""

from __future__ import annotations

import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from medood.config.resources import find_detector
from medood.config.schema import ReadConfig
from medood.detection.calibration import Calibration, digests, fingerprint, stratum
from medood.detection.detector import Detector
from medood.detection.detector_folder import CALIBRATIONS, CARD, DESCRIPTION, PARTS
from medood.detection.farthest_scans import FarthestScans
from medood.detection.features import Features, concatenate_features
from medood.detection.perceptual_hash import NEAR, Hashes, HashIndex, difference_hashes
from medood.errors import MedoodError
from medood.progress import Progress
from medood.reasons import Reason
from medood.scans.reader import DigestStore, least_side_for, read_source
from medood.scans.scan import Identity, Refusal, Status
from medood.scans.sources.csv_table import CsvTable, TableError
from medood.scans.sources.source import count_sources, find_sources
from medood.text import visible
from medood.workflows.calibration_check import (
    MAX_PLANTED,
    NAMED,
    CalibrationCheck,
    planted_shares,
    tail_test,
    write_page,
)
from medood.workflows.preflight import check_calibrating

_BATCH = 64
#: Refused files that are named on the terminal.
_TOLD = 20
#: A scan lies far out if at most this share of the detector's own calibration scans scores as high.
_FAR = 0.01


@dataclass(frozen=True)
class _Prepared:
    identity: Identity
    stratum: str
    patient: str
    image: Tensor


def calibrate(
    detector: str | Path,
    data: str | Path,
    name: str,
    *,
    by: Sequence[str] = (),
    to: str | Path | None = None,
    fpr: float = 0.05,
    sheet: str | Path | None = None,
    exclude: str | Path | None = None,
    read: ReadConfig | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Score in-distribution scans of another hospital and store the scores as a new calibration of the detector.

    Args:
        detector: the detector's folder, or the name of a shipped one; ``calibrations/NAME.json`` and ``.safetensors`` are
            added to it.
        data: file, folder, archive, DICOMDIR or CSV manifest of in-distribution scans; any outlier among them makes the
            detector less sensitive.
        name: name of the calibration.
        by: DICOM attributes; each combination of their values is a stratum with its own calibration.
        to: copy the detector to this folder and calibrate the copy; required for a shipped detector.
        fpr: the lowest false-alarm rate that every stratum must support.
        sheet: contact sheet (PNG) of the farthest-out scans, with a CSV of all scans and a page (Markdown) on what the
            calibration still finds beside it; ``None`` writes none of them and plants no faults.
        exclude: a CSV with the column ``sha256``, or a text file with one SHA-256 per line, of scans to leave out.
        read: which frames and objects become scans, and the limits.
        progress: progress display; ``None`` is quiet.

    Raises:
        MedoodError: the name or ``to`` is taken, ``to`` is missing for a shipped detector, scans are among the detector's
            training scans, or a stratum has too few scans.
    """
    progress, read, folder = progress or Progress(quiet=True), read or ReadConfig(), find_detector(detector)
    target = check_calibrating(detector, data, name, by=by, to=to, sheet=sheet, read=read)
    loaded = Detector.load(folder)
    excluded = _read_excluded(Path(exclude)) if exclude is not None else set()
    keys: list[str] = []
    patients: list[str] = []
    strata: list[str] = []
    refused: list[str] = []
    planted_in: list[Tensor] = []
    parts: list[Features] = []
    left_out: Counter[str] = Counter()
    hashes: list[Tensor] = []
    farthest = FarthestScans()
    for batch in _batches(_prepare_scans(Path(data), loaded, tuple(by), read, excluded, refused, left_out, progress)):
        images = torch.stack([item.image for item in batch])
        parts.append(loaded.embed(images))
        hashes.append(torch.from_numpy(difference_hashes(images)))
        keys += [item.identity.key for item in batch]
        strata += [item.stratum for item in batch]
        patients += [item.patient for item in batch]
        planted_in += [item.image for item in batch][: MAX_PLANTED - len(planted_in)]
        farthest.add([item.identity for item in batch], images, loaded.raw_scores(parts[-1]).tolist())
    if not keys:
        counts = ", ".join(f"{n} {status}" for status, n in left_out.items()) or "no file at all"
        raise MedoodError(f"--data: no scan was found in {data} ({counts}).")
    _check_apart(keys, torch.cat(hashes).numpy(), loaded, str(data))
    if by and set(strata) == {stratum({}, by)}:
        raise MedoodError(
            f"--by {','.join(by)}: no scan in {data} has these attributes; only DICOM files can. Calibrate "
            "without --by, or with DICOM files."
        )
    rows = concatenate_features(parts)
    calibration = Calibration(
        name,
        loaded.raw_scores(rows),
        rows.features,
        torch.cat(hashes),
        fingerprint(keys),
        tuple(by),
        tuple(strata) if by else (),
        dict(left_out),
        keys=torch.from_numpy(digests(keys)),
        made=datetime.now(UTC).date().isoformat(),
    )
    _check_strata(calibration, fpr)
    before = loaded.calibration
    if target != folder:
        _copy(folder, target)
    calibration = calibration.save(target / CALIBRATIONS, loaded.sha256)
    progress.say(_far_out(calibration, before))
    if sheet is not None:
        farthest.write(Path(sheet), before.p_values(calibration.scores, [""] * len(calibration.scores)).tolist())
        planted = planted_shares(loaded, torch.stack(planted_in), calibration.scores, fpr, progress)
        count = len(set(patients)) if all(patients) else 0
        check = CalibrationCheck(len(keys), count, fpr, planted, tail_test(calibration.scores, before.scores))
        page = Path(sheet).with_suffix(".md")
        write_page(page, name, check, farthest.highest(NAMED), refused, Path(sheet))
        for sentence in check.sentences():
            progress.say(sentence)
        progress.say(f"The highest scans are in {sheet} and {page}: confirm that all belong.")
        for rank, (scan, score) in enumerate(farthest.highest(NAMED), start=1):
            progress.say(f"{rank:>4}  {score:.4g}  {scan}")
    for line in refused[:_TOLD]:
        progress.say(f"without a score: {line}")
    if len(refused) > _TOLD:
        progress.say(f"without a score: {len(refused) - _TOLD} further files" + (", which the page names" if sheet else ""))
    return calibration


def _read_excluded(path: Path) -> set[str]:
    """SHA-256 digests of the scans to leave out.

    Raises:
        MedoodError: the file cannot be read, or a line is no SHA-256.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split()
        if lines and len(lines[0]) != 64:  # a table
            table = CsvTable(path, ("sha256",), needed=("sha256",))
            lines = [table.value(row, "sha256") for _, row in table.rows()]
    except TableError as error:
        raise MedoodError(f"--exclude: {path} cannot be used: {error}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise MedoodError(
            f"--exclude: {path} cannot be read: {getattr(error, 'strerror', '') or 'not a text file'}."
        ) from error
    wrong = next((line for line in lines if not re.fullmatch("[0-9a-fA-F]{64}", line)), None)
    if wrong is not None or not lines:
        raise MedoodError(f"--exclude: {path} holds {wrong!r}; expected SHA-256 digests of 64 hexadecimal digits.")
    return {line.lower() for line in lines}


def _far_out(added: Calibration, before: Calibration) -> str:
    """A message with the number of scans that lie far outside the detector's own calibration."""
    rate = max(_FAR, 1.0 / (len(before.scores) + 1))
    count = int((before.p_values(added.scores, [""] * len(added.scores)) <= rate).sum())
    return (
        f"{count} of {len(added.scores)} scans lie farther out than {1 - rate:.1%} of the detector's own calibration scans; "
        f"about {rate * len(added.scores):.0f} would be expected if both had the same distribution."
    )


def _copy(folder: Path, target: Path) -> None:
    """Copy the files of a detector that affect its verdicts, and its card, whose known failures reports show."""
    target.mkdir(parents=True)
    for name in (DESCRIPTION, *PARTS, CARD):
        if name != CARD or (folder / CARD).is_file():
            shutil.copyfile(folder / name, target / name)
    shutil.copytree(folder / CALIBRATIONS, target / CALIBRATIONS)


def _prepare_scans(
    data: Path,
    detector: Detector,
    by: tuple[str, ...],
    read: ReadConfig,
    excluded: set[str],
    refused: list[str],
    left_out: Counter[str],
    progress: Progress,
) -> Iterator[_Prepared]:
    digests, least_side = DigestStore(), least_side_for(detector.preprocess.size, read)
    for item in progress.track(find_sources(data, read), count_sources(data), "calibrating"):
        for result in [item] if isinstance(item, Refusal) else read_source(item, read, digests, least_side=least_side):
            if isinstance(result, Refusal):
                left_out[str(result.status)] += 1
                if result.status != Status.NOT_SELECTED:
                    refused.append(f"{visible(result.identity.name)}: {result.reason}")
                continue
            if result.identity.sha256 in excluded:
                left_out["excluded"] += 1
                continue
            try:
                image = detector.prepare(result)
            except (RuntimeError, ValueError):
                left_out[str(Status.UNREADABLE)] += 1
                refused.append(f"{visible(result.identity.name)}: {Reason('image_not_resized')}")
                continue
            yield _Prepared(result.identity, stratum(result.attributes, by), result.patient, image)


def _batches(items: Iterator[_Prepared]) -> Iterator[list[_Prepared]]:
    batch: list[_Prepared] = []
    for item in items:
        batch.append(item)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _check_apart(keys: list[str], hashes: Hashes, detector: Detector, data: str) -> None:
    distances, _ = HashIndex(detector.learned.hashes.numpy()).nearest(hashes)
    learned = {bytes(row) for row in detector.learned.keys.numpy()}
    same = [bytes.fromhex(key.split(":")[0]) in learned for key in keys]
    near = [distance <= NEAR and not is_learned for distance, is_learned in zip(distances, same, strict=True)]
    if any(same) or any(near):
        raise MedoodError(
            f"--data: of the {len(keys)} scans in {data}, {sum(same)} were used to train the detector (same SHA-256) and "
            f"{sum(near)} are near-duplicates of such scans; calibration needs scans held out from training."
        )


def _check_strata(calibration: Calibration, fpr: float) -> None:
    needed = max(math.ceil(1.0 / fpr - 1e-9) - 1, 1)
    small = {name: count for name, count in calibration.counts().items() if count < needed}
    if small:
        listed = "; ".join(f"{name or 'all scans'}: {count}" for name, count in list(small.items())[:10])
        raise MedoodError(
            f"--data: too few scans for a false-alarm rate of {fpr:g}, which needs {needed}: {listed}. Give "
            "more scans, fewer attributes with --by, or a higher --fpr."
        )
