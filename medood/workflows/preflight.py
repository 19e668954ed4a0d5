"""Checks of training and calibration that need no network; does not import torch, so that a mistake is reported at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medood.config.resources import find_detector, is_shipped
from medood.config.schema import ReadConfig, RunConfig
from medood.detection.detector_folder import CALIBRATIONS, check_detector, check_free, check_name
from medood.errors import MedoodError
from medood.scans.dicom.reader import KEPT_ATTRIBUTES
from medood.scans.reader import check_options
from medood.scans.sources.folder import check_there


def check_training(config: RunConfig, *, resume: bool = False) -> None:
    """Check the paths and options of :func:`medood.workflows.train.train`.

    Raises:
        MedoodError: a path is not set or missing, the folder already holds a detector, or an option is invalid.
    """
    check_options(config.read)
    check_free(Path(config.out), resume=resume)
    if not config.data.root:
        raise MedoodError("data.root is not set. Add data.root=FOLDER, the folder with the in-distribution scans.")
    auxiliary = config.negatives.auxiliary if config.negatives.sources != "in_distribution" else []
    _check_there("data.root", config.data.root)
    if config.data.calibration_root:
        _check_there("data.calibration_root", config.data.calibration_root)
    for path in auxiliary:
        _check_there("negatives.auxiliary", path)
    for key, weights in (("model.weights", config.model.weights), ("lesions.weights", config.lesions.weights)):
        if weights and not Path(weights).is_file():
            raise MedoodError(f"{key}: {weights} does not exist. Give a safetensors file of a network.")
    for member in config.detector.members:
        check_detector(find_detector(member))
    if config.detector.score == "ensemble" and not (config.detector.members or config.detector.appearance):
        raise MedoodError(
            "detector.score is ensemble, which needs more than one ensemble member: name the folders of other detectors in "
            "detector.members, or set detector.appearance=true."
        )
    if config.detector.score == "lesions" and not (config.lesions.epochs or config.lesions.weights):
        raise MedoodError("detector.score is lesions, which needs a lesion network: set lesions.epochs or lesions.weights.")


def check_calibrating(
    detector: str | Path,
    data: str | Path,
    name: str,
    *,
    by: Sequence[str],
    to: str | Path | None,
    sheet: str | Path | None,
    read: ReadConfig,
) -> Path:
    """Check the paths and options of :func:`medood.workflows.calibrate.calibrate`.

    Returns:
        the detector folder to which the calibration is added; with ``to``, it does not exist yet.

    Raises:
        MedoodError: a path is missing or taken, or an option is invalid.
    """
    check_options(read)
    check_name(name)
    if sheet is not None:
        check_sheet(Path(sheet), "--sheet")
    unknown = [attribute for attribute in by if attribute not in KEPT_ATTRIBUTES]
    if unknown:
        raise MedoodError(f"--by names {unknown[0]!r}; expected one or more of {', '.join(KEPT_ATTRIBUTES)}.")
    folder = find_detector(detector)
    check_detector(folder)
    if to is None and is_shipped(folder):
        raise MedoodError(
            f"{detector} is part of the installation, which an upgrade replaces. Add --to FOLDER to calibrate a copy."
        )
    if to is not None and Path(to).exists():
        raise MedoodError(f"--to: {to} already exists. Give a new folder, or calibrate that one: medood calibrate {to}.")
    if (folder / CALIBRATIONS / f"{name}.json").exists():
        raise MedoodError(f"{folder} already has a calibration {name!r}. Give another name; existing ones are kept.")
    _check_there("--data", data)
    return folder if to is None else Path(to)


def _check_there(key: str, path: str | Path) -> None:
    try:
        check_there(Path(path))
    except FileNotFoundError as error:
        raise MedoodError(f"{key}: {error}. Give a folder that holds scans.") from error


def check_sheet(sheet: Path, key: str) -> None:
    """Reject early a contact sheet's path that cannot be written, or that its own CSV would overwrite.

    Raises:
        MedoodError: it does not end in ``.png``, or is in no folder that can be written to.
    """
    if sheet.suffix.lower() != ".png":
        raise MedoodError(f"{key} is {sheet}; expected a name that ends in .png.")
    above = next(path for path in sheet.absolute().parents if path.exists())
    if sheet.is_dir() or not above.is_dir() or not os.access(above, os.W_OK):
        raise MedoodError(f"{key}: {sheet} cannot be written. Name a PNG file in a folder that can be written to.")
