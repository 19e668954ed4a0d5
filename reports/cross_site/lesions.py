"""Embeds the study's sets with a lesion network, and chooses how it decides, by the rules of the seventh round.

Usage: python -m reports.cross_site.lesions embed DETECTOR MANIFEST.csv FOLDER NETWORK.safetensors

       python -m reports.cross_site.lesions choose FOLDER > reports/cross_site/lesions_and_faults.csv

FOLDER is that of reports.cross_site.embed, which comes first.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import softplus

from medood.detection.detector import Detector
from medood.detection.lesions.faults import FAULTS as FAULT_NAMES
from medood.detection.lesions.network import LesionNetwork, fault_odds, frames
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

FAR_SETS = ("bone_xray", "brain_mri", "breast_ultrasound", "chest_ct", "cifar10", "textures")
#: The name of each fault of the benchmark that has one.
NAMES = {
    "rot90": "rotated_90_ccw",
    "rot180": "rotated_180",
    "mirror": "mirrored",
    "upside_down": "upside_down",
    "inverted": "inverted",
    "crop_quarter": "cropped_or_misframed",
    "perm4": "not_a_frontal_chest_radiograph",
}
#: Side of the frame and of the radiographs that it is cut from; radiographs at a time.
SIDE, SOURCE, BATCH = 192, 224, 48


@torch.no_grad()
def scores_of(network: LesionNetwork, images: Tensor, registration: Registration) -> tuple[Tensor, Tensor]:
    """Scores ``[N, 5]``, the radiograph's logit and the means of the 1, 3, 7 and 14 highest places, each plus the softplus
    of the odds of a fault; and the logits of the faults ``[N, F]``."""
    local, whole, fault = network(frames(images, registration.places(images), SIDE))
    highest = local.flatten(1).sort(dim=1, descending=True).values
    lesions = torch.stack([whole, *(highest[:, :k].mean(dim=1) for k in (1, 3, 7, 14))], dim=1)
    return lesions + softplus(fault_odds(fault))[:, None], fault


def embed(detector: Detector, manifest: Path, folder: Path, weights: Path) -> None:
    """Write ``l_SET.npz``: the five scores and the faults' logits of each scan of the sets that ``choose`` looks at."""
    network = LesionNetwork(detector.model, SIDE)
    network.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
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
        rows_of = [scores_of(network, batch, registration) for batch in torch.split(torch.stack(images), BATCH)]
        lesions, faults = (torch.cat(column).numpy() for column in zip(*rows_of, strict=True))
        np.savez(folder / f"l_{name}.npz", lesions=lesions, faults=faults)
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
        for fault, function in {"opacity": opacity, **FAULTS}.items():
            write(f"f_{name}_{fault}", rows, function)


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
            return np.asarray(np.sum(columns, axis=0))

        return of


def print_choices(folder: Path) -> None:
    study = LesionStudy(folder)
    candidates = [
        WithLesions(parts, form, "sum", lesions)
        for parts in ((), (2,))
        for lesions in LESIONS
        for form in ("as it is", "style residual")
    ]
    table: Table = {}
    extra: dict[Candidate, dict[str, float]] = {}
    for candidate in candidates:
        table[candidate] = figures(study, candidate)
        scores = study.scores(candidate)
        plain = scores("id_test")
        extra[candidate] = {"worst fault": min(auroc(scores(f"f_id_test_{fault}"), plain) for fault in FAULTS)}
        extra[candidate]["worst far"] = min(auroc(scores(name), plain) for name in FAR_SETS)
        for pair, (normal, disease) in PAIRS.items():
            extra[candidate][f"AUROC, {pair}"] = auroc(scores(disease), scores(normal))
            extra[candidate][f"matched, {pair}"] = auroc(scores(f"m_{disease}"), scores(f"m_{normal}"))
    allowed: Table = {candidate: table[candidate] for candidate in candidates if extra[candidate]["worst fault"] >= FLOOR}
    write_choices(table, allowed or table, extra)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([])
    writer.writerow(["named right", *NAMES, "not a fault"])
    for name in ("id_test", *HEALTHY.values()):
        right = [np.mean(named(folder, f"f_{name}_{fault}") == FAULT_NAMES.index(NAMES[fault])) for fault in NAMES]
        writer.writerow([name, *(f"{share:.4f}" for share in (*right, np.mean(named(folder, name) == 0)))])
    for name in FAR_SETS:
        share = np.mean(named(folder, name) == FAULT_NAMES.index("not_a_frontal_chest_radiograph"))
        writer.writerow([name, *[""] * (len(NAMES) - 1), f"{share:.4f}", ""])


def named(folder: Path, name: str) -> npt.NDArray[np.int64]:
    """The fault that the network names for each scan of a set, as its index."""
    return np.load(folder / f"l_{name}.npz")["faults"].argmax(axis=1)  # type: ignore[no-any-return]


def main() -> None:
    if sys.argv[1] == "embed":
        embed(Detector.load(sys.argv[2]), *(Path(argument) for argument in sys.argv[3:6]))
    else:
        print_choices(Path(sys.argv[2]))


if __name__ == "__main__":
    main()
