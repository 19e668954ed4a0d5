"""The second round: local evidence as a fourth part. ``embed`` writes the places, ``choose`` prints the candidates as CSV.

Usage: python -m reports.cross_site.places embed DETECTOR MANIFEST.csv FOLDER

       python -m reports.cross_site.places choose FOLDER > reports/cross_site/places.csv

FOLDER is that of reports.cross_site.embed, which comes first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.registration import equalize_histogram
from medood.evaluation.acquisition_faults import opacity
from medood.evaluation.manifest import Entry, read_manifest
from medood.evidence.padim import _describe_places, _distances, fit_places
from reports.cross_site.choose import HEALTHY, PAIRS, PARTS, Candidate, Study, Table, Vector, figures, write_choices
from reports.cross_site.embed import BATCH, FAULTY_TEST, Embedding, changed

TREATMENTS = ("plain", "registered", "equalised", "registered and equalised")
LARGEST = (1, 3, 7, 14)
BASES = ((0,), (0, 1), (0, 2), (0, 1, 2))


def embed(detector: Detector, manifest: Path, out: Path) -> None:
    assert detector.network.appearance is not None
    registration, side = detector.network.appearance.registration, detector.preprocess.size
    treatments: dict[str, Callable[[Tensor], Tensor]] = {
        "plain": lambda images: images,
        "registered": lambda images: registration(images, side),
        "equalised": equalize_histogram,
        "registered and equalised": lambda images: equalize_histogram(registration(images, side)),
    }
    entries = read_manifest(manifest)
    work = Embedding(detector, manifest.parent, out)
    train = [entry for entry in entries if entry.split == "train"]
    sets: dict[str, list[Entry]] = {"train": train[1::8][:500]}
    sets["calibration"] = [entry for entry in entries if entry.split == "calibration"]
    for name in {*HEALTHY.values(), *(name for pair in PAIRS.values() for name in pair)}:
        sets[name] = [entry for entry in entries if entry.dataset == name and entry.split == "test"]
    sets["id_test"] = [e for e in entries if e.group == "in_distribution" and e.split == "test"][:FAULTY_TEST]

    def images(rows: list[Entry], planted: bool = False) -> Tensor:
        prepared = []
        for entry in rows:
            scan = work.read(entry)[0]
            if planted:
                rng = np.random.default_rng([0, int(scan.identity.sha256[:15], 16)])
                scan = changed(scan, opacity(scan.pixels[0], rng))
            prepared.append(detector.prepare(scan))
        return torch.stack(prepared)

    def each(treat: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([treat(part) for part in torch.split(rows, BATCH)])

    fit, development = images(train[::4][:1200]), images(train[1::24][:200])
    learned = {}
    for name, treat in treatments.items():
        learned[name] = fit_places(detector.network, each(treat, fit), each(treat, development))
    planted_sets = [(f"f_{name}_opacity", name) for name in (*HEALTHY.values(), "id_test")]
    for target, name in [(name, name) for name in sets] + planted_sets:
        found = {}
        rows = images(sets[name], planted=target != name)
        for treatment, treat in treatments.items():
            fitted = learned[treatment]
            with torch.no_grad():
                treated = (treat(part) for part in torch.split(rows, BATCH))
                distances = torch.cat([_distances(_describe_places(detector.network, part), fitted) for part in treated])
            standardised = (distances - fitted["center"]) / fitted["spread"]
            found[treatment] = standardised.numpy().astype(np.float16)
        np.savez(out / f"p_{target}.npz", **found)  # type: ignore[arg-type]
        print(target, len(rows), flush=True)


@dataclass(frozen=True)
class WithPlaces(Candidate):
    """A candidate with local evidence as a further part."""

    treatment: str = ""
    largest: int = 0

    @property
    def name(self) -> str:
        return f"{self.rule} of {' + '.join(PARTS[i] for i in self.parts[:-1])} + {self.largest} places, {self.treatment}"


class PlacesStudy(Study):
    """The embedded sets with their places."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._sorted = dict[tuple[str, str], Vector]()

    def places(self, name: str, treatment: str, largest: int) -> Vector:
        if (name, treatment) not in self._sorted:
            stored = np.load(self._folder / f"p_{name}.npz")[treatment].astype(np.float64)
            self._sorted[name, treatment] = -np.sort(-stored, axis=1)
        return np.asarray(self._sorted[name, treatment][:, :largest].mean(axis=1))

    def scores(self, candidate: Candidate) -> Callable[[str], Vector]:
        assert isinstance(candidate, WithPlaces)
        base = candidate.parts[:-1]
        train = self["train"]["parts"][:, base]
        local = self.places("train", candidate.treatment, candidate.largest)

        def of(name: str) -> Vector:
            found = self.places(name, candidate.treatment, candidate.largest)
            parts = (self[name]["parts"][: len(found), base] - train.mean(axis=0)) / train.std(axis=0)
            rows = np.concatenate([parts, ((found - local.mean()) / local.std())[:, None]], axis=1)
            return np.asarray(rows.sum(axis=1) if candidate.rule == "sum" else rows.max(axis=1))

        return of


def tell(folder: Path) -> None:
    study = PlacesStudy(folder)
    candidates = [
        WithPlaces((*base, len(PARTS)), "as it is", rule, treatment, largest)
        for base in BASES
        for treatment in TREATMENTS
        for largest in LARGEST
        for rule in ("sum", "maximum")
    ]
    table: Table = {candidate: figures(study, candidate) for candidate in candidates}
    write_choices(table, table, {candidate: {} for candidate in candidates})


if __name__ == "__main__":
    if sys.argv[1] == "embed":
        embed(Detector.load(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        tell(Path(sys.argv[2]))
