"""A run from a real PACS and back into it; Debian's orthanc and orthanc-dicomweb, in a network namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.pacs
def test_from_a_real_pacs_and_back(tiny_detector: Path, tmp_path: Path) -> None:
    if not (shutil.which("Orthanc") and Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so").exists()):
        if os.environ.get("MEDOOD_REQUIRE_PACS"):
            pytest.fail("MEDOOD_REQUIRE_PACS is set, and Orthanc with its DICOMweb plugin is not installed")
        pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc orthanc-dicomweb)")
    inside = f"ip link set lo up && exec {sys.executable} -m tests.screening.orthanc {tmp_path} {tiny_detector}"
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", inside],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["stored"] == 22
    assert told["statuses"] == ["scored"]
    assert told["rows"] == [22, 22]
    assert told["largest_difference"] < 1e-4
    assert told["modality"] == 2
    assert told["objects"] > told["flagged"] > 0
    assert told["pushed"] == told["objects"]
    assert told["held"] == 22 + told["objects"]
    assert told["notes"] == [told["flagged"]] * 2  # each radiograph has a study of its own
    assert told["titles"] == ["113001"] * told["flagged"]
    assert len(set(told["named"])) == told["rejected"] == told["flagged"]
