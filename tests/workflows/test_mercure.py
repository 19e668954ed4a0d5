"""The processing module of mercure: the contract's folders, settings, results and failures."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydicom
import pytest

from medood.errors import MedoodError
from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes
from medood.workflows.mercure import TaskSettings, check_task, read_settings

SERIES = "1.2.826.0.1.3680043.10.1000"


def folders(root: Path, settings: dict[str, Any] | None = None) -> tuple[Path, Path]:
    incoming, outgoing = root / "in", root / "out"
    incoming.mkdir()
    outgoing.mkdir()
    if settings is not None:
        task = {"id": "1", "info": {"mrn": "secret"}, "process": {"module_name": "medood", "settings": settings}}
        (incoming / "task.json").write_text(json.dumps(task))
    return incoming, outgoing


def test_settings_come_from_the_task(tmp_path: Path) -> None:
    incoming, _ = folders(tmp_path, {"fpr": 0.01, "objects": False})
    assert read_settings(incoming) == TaskSettings(fpr=0.01, objects=False)
    (incoming / "task.json").write_text(json.dumps({"process": [{"settings": {"fpr": 1}}]}))  # several steps: ours is first
    assert read_settings(incoming) == TaskSettings(fpr=1.0)
    (incoming / "task.json").write_text(json.dumps({"process": None}))
    assert read_settings(incoming) == TaskSettings()
    (incoming / "task.json").unlink()
    assert read_settings(incoming) == TaskSettings()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            '{"process": {"settings": {"fprr": 0.1}}}',
            "'fprr' is no setting of this module; expected detector, calibration, fpr",
        ),
        ('{"process": {"settings": {"fpr": "0.1"}}}', "fpr must be of type float, as 0.05 is"),
        ('{"process": {"settings": {"objects": 1}}}', "objects must be of type bool"),
        ('{"process": {"settings": [1]}}', "cannot be read as a task"),
        ('{"process"', "cannot be read as a task"),
        ("[]", "cannot be read as a task"),
    ],
)
def test_a_wrong_task_is_refused(tmp_path: Path, task: str, message: str) -> None:
    incoming, _ = folders(tmp_path)
    (incoming / "task.json").write_text(task)
    with pytest.raises(MedoodError, match=message):
        read_settings(incoming)


def test_what_needs_no_network_is_checked_first(tmp_path: Path) -> None:
    incoming, outgoing = folders(tmp_path, {"fpr": 0.05})
    with pytest.raises(MedoodError, match="no DICOM file"):
        check_task(incoming, outgoing)
    with pytest.raises(MedoodError, match=r"The output folder .* does not exist"):
        check_task(incoming, tmp_path / "elsewhere")
    (incoming / "a.dcm").write_bytes(dicom_bytes(frontal_chest(1, 64).image, "a"))
    (incoming / "a.tags").write_text("{}")
    settings, files = check_task(incoming, outgoing)
    assert [path.name for path in files] == ["a.dcm"]
    assert settings == TaskSettings()
    (incoming / "task.json").write_text(json.dumps({"process": {"settings": {"detector": "missing"}}}))
    with pytest.raises(MedoodError, match="missing"):
        check_task(incoming, outgoing)


def test_the_module_runs_in_the_folders_of_the_contract(tiny_detector: Path, tmp_path: Path) -> None:
    incoming, outgoing = folders(tmp_path, {"detector": str(tiny_detector), "fpr": 0.95})
    names = [f"{SERIES}.{i}#{SERIES}.{i}.1.dcm" for i in range(3)]
    for i, name in enumerate(names[:2]):
        dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(frontal_chest(7 + i, 64).image, name)))
        dataset.StudyInstanceUID, dataset.PatientName = f"{SERIES}.9", "Secret^Name"
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = f"{SERIES}.{i}", f"{SERIES}.{i}.1"
        dataset.save_as(incoming / name)
    (incoming / names[2]).write_bytes(b"not an object")
    environment = {"MERCURE_IN_DIR": str(incoming), "MERCURE_OUT_DIR": str(outgoing)}
    done = subprocess.run(
        [sys.executable, "-m", "medood", "mercure", "--quiet"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(outgoing / "result.json")
    text = (outgoing / "result.json").read_text()
    result = json.loads(text)
    lines = {line["file"]: line for line in result["scans"]}
    assert list(lines) == names
    assert [lines[name]["status"] for name in names[:2]] == ["scored", "scored"]
    assert lines[names[1]]["decision"] == "out_of_distribution"
    assert lines[names[1]]["finding"]
    assert lines[names[2]]["status"] != "scored"
    assert lines[names[2]]["reason"]
    assert result["fpr"] == 0.95
    assert result["__mercure_notification"]["requested"] is True
    assert "1 could not be scored" in result["__mercure_notification"]["text"]
    assert "Secret" not in text
    objects = sorted(outgoing.glob("*.dcm"))
    assert objects
    assert len(objects) + 1 == len(list(outgoing.iterdir()))
    for path in objects:
        dataset = pydicom.dcmread(path)
        assert path.name == f"{dataset.SeriesInstanceUID}#{dataset.SOPInstanceUID}.dcm"
        assert dataset.StudyInstanceUID == f"{SERIES}.9"
