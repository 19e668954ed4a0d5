"""Embeds everything that the cross-site study chooses by, once: parts of the deciding score, features, grey statistics.

Writes NAME.npz into FOLDER for every set: ``parts`` [N, K], ``feat`` [N, D], ``app`` [N, 128], ``grey`` [N, 10] and
``sharp`` [N, 2]. Sets: ``train`` (every second training radiograph), each data set of the manifest, ``id_test``,
``m_SET`` with matched histograms, and ``f_SET_FAULT`` with planted faults. Existing files are kept.

Usage: python -m reports.cross_site.embed DETECTOR MANIFEST.csv FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.ensemble import log_divergence
from medood.detection.features import Features
from medood.detection.scores import Ensemble
from medood.evaluation.acquisition_faults import FAULTS, Pixels, opacity
from medood.evaluation.baselines import trivial
from medood.evaluation.manifest import Entry, read_manifest
from medood.evaluation.shortcuts import CommonHistogram
from medood.scans.reader import read_source
from medood.scans.scan import Scan
from medood.scans.sources.source import Source

BATCH = 64
HEALTHY = ("nih_normal", "openist_normal", "pk_normal", "paediatric_normal")
PAIRED = ("nih_normal", "nih_pneumonia", "paediatric_normal", "paediatric_pneumonia")
#: Of the in-distribution test as many get planted faults; of each far set as many are taken.
FAULTY_TEST, FAR = 300, 150
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


@torch.no_grad()
def embed(detector: Detector, images: Tensor) -> Rows:
    """Features, parts of the score, and the appearance model's whitened components of ``[N, 1, S, S]`` images."""
    network = detector.network
    features, outputs = network.embed(images)
    others = [log_divergence(output) for output in network.member_outputs(images)]
    components = torch.zeros(len(images), 0)
    if network.appearance is not None:
        components = network.appearance.differences(images)[1] @ network.appearance.axes
        others.append(-components.norm(dim=1))
    rows = Features(features, outputs, None, torch.stack(others, dim=1))
    parts = Ensemble.parts(rows, detector.fitted["ensemble"]).numpy()
    return features.numpy().astype(np.float16), parts, components.numpy().astype(np.float16)


class Embedding:
    """Embeds sets of scans and keeps what is written."""

    def __init__(self, detector: Detector, root: Path, out: Path) -> None:
        self._detector, self._root, self._out = detector, root, out

    def read(self, entry: Entry) -> tuple[Scan, int]:
        path = self._root / entry.file
        scan = next(iter(read_source(Source(path))))
        assert isinstance(scan, Scan)
        return scan, path.stat().st_size

    def write(self, name: str, scans: Callable[[], Iterator[tuple[Scan, int]]]) -> None:
        target = self._out / f"{name}.npz"
        if target.exists():
            return
        rows: list[Rows] = []
        grey, sharp, waiting = [], [], list[Tensor]()
        for scan, size in scans():
            waiting.append(self._detector.prepare(scan))
            _, grey_row, _, sharp_row = trivial(scan, size)
            grey.append(grey_row)
            sharp.append(sharp_row)
            if len(waiting) == BATCH:
                rows.append(embed(self._detector, torch.stack(waiting)))
                waiting = []
        if waiting:
            rows.append(embed(self._detector, torch.stack(waiting)))
        feat, parts, app = (np.concatenate(column) for column in zip(*rows, strict=True))
        np.savez(target, feat=feat, parts=parts, app=app, grey=np.stack(grey), sharp=np.stack(sharp))
        print(name, len(grey), flush=True)


def changed(scan: Scan, pixels: Pixels) -> Scan:
    return dataclasses.replace(scan, pixels=np.ascontiguousarray(pixels, dtype=np.float32)[None])


def sets_of(entries: list[Entry]) -> dict[str, list[Entry]]:
    """Every second training radiograph as ``train``, the calibration and test scans, and some of each far set."""
    sets: dict[str, list[Entry]] = {"train": [entry for entry in entries if entry.split == "train"][::2]}
    for entry in entries:
        if entry.split == "test":
            sets.setdefault("id_test" if entry.group == "in_distribution" else entry.dataset, []).append(entry)
        elif entry.split == "calibration":
            sets.setdefault("calibration", []).append(entry)
    far = {entry.dataset for entry in entries if entry.group == "far"}
    return {name: rows[:FAR] if name in far else rows for name, rows in sets.items()}


def main() -> None:
    detector, manifest, out = Detector.load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    entries = read_manifest(manifest)
    work = Embedding(detector, manifest.parent, out)
    sets = sets_of(entries)
    described = {name: [(row.file, row.patient, row.pair, row.severity) for row in rows] for name, rows in sets.items()}
    (out / "sets.json").write_text(json.dumps(described))
    common = CommonHistogram()
    for entry in sets["train"]:
        common.add(work.read(entry)[0].pixels[0])
    for name, rows in sets.items():
        work.write(name, lambda rows=rows: map(work.read, rows))  # type: ignore[misc]
    for name in PAIRED:
        work.write(
            f"m_{name}",
            lambda name=name: (  # type: ignore[misc]
                (changed(scan, common.match(scan.pixels[0])), size) for scan, size in map(work.read, sets[name])
            ),
        )
    for name in (*HEALTHY, "id_test"):
        for fault, function in (FAULTS | {"opacity": opacity}).items():

            def faulty(name: str = name, function: Callable[..., Pixels] = function) -> Iterator[tuple[Scan, int]]:
                for scan, size in map(work.read, sets[name][: FAULTY_TEST if name == "id_test" else None]):
                    rng = np.random.default_rng([0, int(scan.identity.sha256[:15], 16)])
                    yield changed(scan, function(scan.pixels[0], rng)), size

            work.write(f"f_{name}_{fault}", faulty)


if __name__ == "__main__":
    main()
