"""A detector calibrated anew for another hospital, without training: its old calibrations stay."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medood.config.resources import find_detector, is_shipped
from medood.config.schema import ReadConfig
from medood.detection.calibration import Calibration, check_name, digests, fingerprint, stratum
from medood.detection.detector import Detector
from medood.detection.detector_folder import CALIBRATIONS, DESCRIPTION, PARTS
from medood.detection.farthest_scans import Farthest, check_sheet
from medood.detection.features import Features, joined
from medood.detection.perceptual_hash import NEAR, Hashes, HashIndex, difference_hashes
from medood.errors import MedoodError
from medood.progress import Progress
from medood.scans.dicom.reader import KEPT_ATTRIBUTES
from medood.scans.reader import Seen, check_options, read_source
from medood.scans.scan import Identity, Refusal, Status
from medood.scans.sources.folder import check_there
from medood.scans.sources.source import count_sources, find_sources

_BATCH = 64
#: A scan lies far out where at most this share of the detector's own calibration scans scores as high.
_FAR = 0.01


@dataclass(frozen=True)
class _Prepared:
    identity: Identity
    stratum: str
    picture: Tensor


def calibrate(
    detector: str | Path,
    data: str | Path,
    name: str,
    *,
    by: Sequence[str] = (),
    to: str | Path | None = None,
    fpr: float = 0.05,
    sheet: str | Path | None = None,
    read: ReadConfig | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Score in-distribution scans of another hospital and keep the scores with the detector.

    Args:
        detector: the detector's folder, or the name of a shipped one; ``calibrations/NAME.json`` and ``.safetensors`` are
            added to it.
        data: file, folder, archive, DICOMDIR or CSV manifest of scans that belong; any scan that does not raises what is
            taken for normal.
        name: what the calibration is called.
        by: DICOM attributes; scans are calibrated within each combination of their values.
        to: copy the detector there and add them to the copy, as a shipped detector needs it.
        fpr: the least false-alarm rate that every stratum must be able to state.
        sheet: where a contact sheet (PNG) of the scans that lie farthest out goes, and beside it a CSV of all; or none.
        read: which frames and objects become scans, and the limits.
        progress: where to draw; none is quiet.

    Raises:
        MedoodError: the name or ``to`` is taken, a shipped detector has no ``to``, scans are among those learned from, or a
            stratum has too few.
    """
    progress, read, folder = progress or Progress(quiet=True), read or ReadConfig(), find_detector(detector)
    check_options(read)
    check_name(name)
    if sheet is not None:
        check_sheet(Path(sheet))
    unknown = [attribute for attribute in by if attribute not in KEPT_ATTRIBUTES]
    if unknown:
        raise MedoodError(f"--by names {unknown[0]!r}; expected some of {', '.join(KEPT_ATTRIBUTES)}.")
    loaded, target = Detector.load(folder), _place(detector, folder, to)
    if (folder / CALIBRATIONS / f"{name}.json").exists():
        raise MedoodError(f"{folder} already has a calibration {name!r}. Give another name; old ones are kept.")
    keys: list[str] = []
    strata: list[str] = []
    parts: list[Features] = []
    left_out: Counter[str] = Counter()
    hashes: list[Tensor] = []
    farthest = Farthest()
    for some in _batches(_prepared(Path(data), loaded, tuple(by), read, left_out, progress)):
        pictures = torch.stack([item.picture for item in some])
        parts.append(loaded.embed(pictures))
        hashes.append(torch.from_numpy(difference_hashes(pictures)))
        keys += [item.identity.key for item in some]
        strata += [item.stratum for item in some]
        farthest.add([item.identity for item in some], pictures, loaded.raw_scores(parts[-1]).tolist())
    if not keys:
        counts = ", ".join(f"{n} {status}" for status, n in left_out.items()) or "no file at all"
        raise MedoodError(f"--data: no scan was found in {data} ({counts}).")
    _check_apart(keys, torch.cat(hashes).numpy(), loaded, str(data))
    if by and set(strata) == {stratum({}, by)}:
        raise MedoodError(
            f"--by {','.join(by)}: no scan in {data} states it; only DICOM files do. Calibrate "
            "without --by, or with DICOM files."
        )
    rows = joined(parts)
    made = Calibration(
        name,
        loaded.raw_scores(rows),
        rows.features,
        torch.cat(hashes),
        fingerprint(keys),
        tuple(by),
        tuple(strata) if by else (),
        dict(left_out),
        keys=torch.from_numpy(digests(keys)),
    )
    _check_strata(made, fpr)
    before = loaded.calibration
    if sheet is not None:
        farthest.write(Path(sheet), before.p_values(made.scores, [""] * len(made.scores)).tolist())
    if target != folder:
        _copy(folder, target)
    made = made.save(target / CALIBRATIONS, loaded.sha256)
    progress.say(
        _far_out(made, before) + (f" The farthest are in {sheet}: look whether all of them belong." if sheet else "")
    )
    return made


def _far_out(made: Calibration, before: Calibration) -> str:
    """How many scans lie far outside the calibration that the detector came with."""
    rate = max(_FAR, 1.0 / (len(before.scores) + 1))
    count = int((before.p_values(made.scores, [""] * len(made.scores)) <= rate).sum())
    return (
        f"{count} of {len(made.scores)} scans lie farther out than {1 - rate:.1%} of the detector's own calibration scans; "
        f"of scans like those, about {rate * len(made.scores):.0f} would."
    )


def _place(detector: str | Path, folder: Path, to: str | Path | None) -> Path:
    """Where the calibration goes."""
    if to is None and is_shipped(folder):
        raise MedoodError(
            f"{detector} is part of the installation, which an upgrade replaces. Add --to FOLDER to calibrate a copy."
        )
    if to is not None and Path(to).exists():
        raise MedoodError(f"--to: {to} is there already. Give a new folder, or calibrate that one: medood calibrate {to}.")
    return folder if to is None else Path(to)


def _copy(folder: Path, target: Path) -> None:
    """Copy all of a detector that decides."""
    target.mkdir(parents=True)
    for name in (DESCRIPTION, *PARTS):
        shutil.copyfile(folder / name, target / name)
    shutil.copytree(folder / CALIBRATIONS, target / CALIBRATIONS)


def _prepared(
    data: Path, detector: Detector, by: tuple[str, ...], read: ReadConfig, left_out: Counter[str], progress: Progress
) -> Iterator[_Prepared]:
    seen = Seen()
    try:
        check_there(data)
    except FileNotFoundError as error:
        raise MedoodError(f"--data: {error}. Give a folder that holds scans.") from error
    for item in progress.track(find_sources(data, read), count_sources(data), "calibrating"):
        for result in [item] if isinstance(item, Refusal) else read_source(item, read, seen):
            if isinstance(result, Refusal):
                left_out[str(result.status)] += 1
                continue
            try:
                picture = detector.prepare(result)
            except (RuntimeError, ValueError):
                left_out[str(Status.UNREADABLE)] += 1
                continue
            yield _Prepared(result.identity, stratum(result.attributes, by), picture)


def _batches(items: Iterator[_Prepared]) -> Iterator[list[_Prepared]]:
    some: list[_Prepared] = []
    for item in items:
        some.append(item)
        if len(some) == _BATCH:
            yield some
            some = []
    if some:
        yield some


def _check_apart(keys: list[str], hashes: Hashes, detector: Detector, data: str) -> None:
    distances, _ = HashIndex(detector.learned.hashes.numpy()).nearest(hashes)
    learned = {bytes(row) for row in detector.learned.keys.numpy()}
    same = [bytes.fromhex(key.split(":")[0]) in learned for key in keys]
    near = [distance <= NEAR and not known for distance, known in zip(distances, same, strict=True)]
    if any(same) or any(near):
        raise MedoodError(
            f"--data: of the {len(keys)} scans in {data} the detector learned from {sum(same)} (same SHA-256) and from "
            f"nearly the same picture of {sum(near)}; calibration needs other ones."
        )


def _check_strata(calibration: Calibration, fpr: float) -> None:
    needed = max(math.ceil(1.0 / fpr - 1e-9) - 1, 1)
    small = {name: count for name, count in calibration.counts().items() if count < needed}
    if small:
        listed = "; ".join(f"{name or 'all scans'}: {count}" for name, count in list(small.items())[:10])
        raise MedoodError(
            f"--data: too few scans to state a false-alarm rate of {fpr:g}, for which {needed} are needed: {listed}. Give "
            "more scans, fewer attributes with --by, or a higher --fpr."
        )
