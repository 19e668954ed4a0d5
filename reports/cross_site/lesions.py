"""Embeds the study's sets with a lesion network, and chooses how it decides, by the rules of the third to the sixth round.

Usage: python -m reports.cross_site.lesions embed DETECTOR MANIFEST.csv FOLDER

       python -m reports.cross_site.lesions choose FOLDER > reports/cross_site/lesions.csv

FOLDER is that of reports.cross_site.embed, which comes first; it holds the network as lesions.safetensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from medood.detection.detector import Detector
from medood.detection.lesions.network import LesionNetwork, frames
from medood.detection.registration import Registration
from medood.evaluation.acquisition_faults import FAULTS, Pixels, opacity
from medood.evaluation.manifest import Entry, read_manifest
from medood.evaluation.shortcuts import CommonHistogram
from medood.scans.transforms import network_input, preprocessing
from reports.cross_site.choose import (
    FLOOR,
    HEALTHY,
    PAIRS,
    PARTS,
    Candidate,
    Study,
    Table,
    Vector,
    auroc,
    figures,
    write_choices,
)
from reports.cross_site.embed import FAULTY_TEST, PAIRED, Embedding, changed, sets_of
from reports.cross_site.gpu import KEPT

#: Side of the frame and of the radiographs that it is cut from; radiographs at a time.
SIDE, SOURCE, BATCH = 192, 224, 48


@torch.no_grad()
def scores_of(network: LesionNetwork, images: Tensor, registration: Registration) -> Tensor:
    """The radiograph's logit and the means of the 1, 3, 7 and 14 highest places: ``[N, 5]``."""
    local, whole = network(frames(images, registration.places(images), SIDE))
    highest = local.flatten(1).sort(dim=1, descending=True).values
    return torch.stack([whole, *(highest[:, :k].mean(dim=1) for k in (1, 3, 7, 14))], dim=1)


def embed(detector: Detector, manifest: Path, folder: Path) -> None:
    """Write ``l_SET.npz``: the five scores of each scan of the sets that ``choose`` looks at."""
    network = LesionNetwork(detector.model, SIDE)
    network.load_state_dict(load_file(folder / "lesions.safetensors"))
    network.eval()
    work, sets = Embedding(detector, manifest.parent, folder), sets_of(read_manifest(manifest))
    chain = preprocessing(replace(detector.preprocess, size=SOURCE))
    assert detector.network.appearance is not None
    registration = detector.network.appearance.registration

    def write(name: str, rows: list[Entry], function: Callable[..., Pixels] | None = None) -> None:
        if (folder / f"l_{name}.npz").exists():
            return
        images = []
        for entry in rows:
            scan = work.read(entry)[0]
            if function is not None:
                rng = np.random.default_rng([0, int(scan.identity.sha256[:15], 16)])
                scan = changed(scan, function(scan.pixels[0], rng))
            images.append(network_input(scan, chain))
        scores = [scores_of(network, batch, registration) for batch in torch.split(torch.stack(images), BATCH)]
        np.savez(folder / f"l_{name}.npz", lesions=torch.cat(scores).numpy())
        print(name, len(rows), flush=True)

    for name, rows in sets.items():
        write(name, rows[:: KEPT // 2] if name == "train" else rows)
    common = CommonHistogram()
    for entry in sets["train"]:
        common.add(work.read(entry)[0].pixels[0])
    for name in PAIRED:
        write(f"m_{name}", sets[name], lambda pixels, rng: common.match(pixels))
    for name in (*HEALTHY.values(), "id_test"):
        rows = sets[name][: FAULTY_TEST if name == "id_test" else None]
        write(f"f_{name}_opacity", rows, opacity)
    for fault, function in FAULTS.items():
        write(f"f_id_test_{fault}", sets["id_test"][:FAULTY_TEST], function)


#: Standard deviations beyond which another part than the lesion network counts in a hinge.
HINGE = 2.0
#: What the fourth part may be: columns of ``lesions``.
LESIONS = {"radiograph": (0,), "3 places": (2,), "7 places": (3,), "14 places": (4,), "radiograph + 7 places": (0, 3)}


@dataclass(frozen=True)
class WithLesions(Candidate):
    """A candidate with the lesion network as a further part."""

    lesions: str = ""

    @property
    def name(self) -> str:
        parts = [*(PARTS[i] for i in self.parts), f"lesions ({self.lesions})"]
        return f"{self.rule} of {' + '.join(parts)}, {self.form}"


class LesionStudy(Study):
    """The embedded sets with the scores of the lesion network."""

    def __getitem__(self, name: str) -> dict[str, Vector]:
        if name not in self._sets:
            stored = np.load(self._folder / f"{name}.npz")
            rows = {key: stored[key].astype(np.float64) for key in ("parts", "grey", "sharp")}
            if name == "train":
                rows = {key: value[:: KEPT // 2] for key, value in rows.items()}
            lesions = np.load(self._folder / f"l_{name}.npz")["lesions"].astype(np.float64)
            self._sets[name] = rows | {"parts": np.concatenate([rows["parts"], lesions], axis=1)}
        return self._sets[name]

    def scores(self, candidate: Candidate) -> Callable[[str], Vector]:
        assert isinstance(candidate, WithLesions)
        train = self.parts("train", candidate.form)
        middle, spread = train.mean(axis=0), train.std(axis=0)

        def of(name: str) -> Vector:
            rows = (self.parts(name, candidate.form) - middle) / spread
            lesions = np.mean([rows[:, len(PARTS) + i] for i in LESIONS[candidate.lesions]], axis=0)
            columns = [*(rows[:, i] for i in candidate.parts), lesions]
            if candidate.rule == "hinge":
                return np.asarray(lesions + np.sum([np.maximum(column - HINGE, 0.0) for column in columns[:-1]], axis=0))
            return np.asarray(np.sum(columns, axis=0) if candidate.rule == "sum" else np.max(columns, axis=0))

        return of


def print_choices(folder: Path) -> None:
    study = LesionStudy(folder)
    candidates = [
        WithLesions(parts, form, rule, lesions)
        for parts in ((), (0,), (0, 2))
        for lesions in LESIONS
        for form in ("as it is", "style residual")
        for rule in (("sum", "maximum", "hinge") if parts else ("sum",))
    ]
    table: Table = {}
    extra: dict[Candidate, dict[str, float]] = {}
    for candidate in candidates:
        table[candidate] = figures(study, candidate)
        scores = study.scores(candidate)
        plain = scores("id_test")
        extra[candidate] = {"worst fault": min(auroc(scores(f"f_id_test_{fault}"), plain) for fault in FAULTS)}
        for pair, (normal, disease) in PAIRS.items():
            extra[candidate][f"AUROC, {pair}"] = auroc(scores(disease), scores(normal))
            extra[candidate][f"matched, {pair}"] = auroc(scores(f"m_{disease}"), scores(f"m_{normal}"))
    allowed: Table = {candidate: table[candidate] for candidate in candidates if extra[candidate]["worst fault"] >= FLOOR}
    write_choices(table, allowed or table, extra)


def main() -> None:
    if sys.argv[1] == "embed":
        embed(Detector.load(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        print_choices(Path(sys.argv[2]))


if __name__ == "__main__":
    main()
