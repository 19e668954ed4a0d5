"""The ablation: trains each run, one change at a time, then measures all of them on the same scans.

Usage: python -m reports.cxr_small.ablation train WORK [PART PARTS]   trains every PARTS-th run; keeps finished ones
       python -m reports.cxr_small.ablation measure WORK TABLE.csv    adds the runs that are not in the table yet
       python -m reports.cxr_small.ablation table TABLE.csv           prints it as Markdown
MEDOOD_DATA names the folder of real images.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medood.config.loader import load_config
from medood.detection.detector import Detector
from medood.detection.scores import SCORES
from medood.evaluation.manifest import Entry, read_manifest
from medood.evaluation.metrics import draw, separation
from medood.evaluation.scan_features import Set, collect
from medood.phantom.dicom import dicom_bytes
from medood.phantom.outliers import OUTLIERS
from medood.progress import Progress
from medood.workflows.train import train

HERE, DATA = Path(__file__).parent, Path(os.environ.get("MEDOOD_DATA", ""))
ACQUISITION = (
    "{rot: 1, rot_360: 0.5, mirror: 3, upside_down: 0.7, perm4: 1, perm16: 0.5, inverted: 0.7, wrong_window: 0.5, "
    "framing: 0.8}"
)
LONG = ("train.epochs=30", "model.drop_path=0.05", "train.teacher_momentum=[0.98,0.998]", "detector.half=true")
VIT = "{patch_size: 8, embed_dim: 128, depth: 6, num_heads: 4, global_pool: avg, class_token: false}"
#: As many tokens of as many numbers, behind a convolution, a norm and a pooling that take the side to a quarter.
STEM = VIT.replace("patch_size: 8", "img_size: 48, patch_size: 2")
#: Run to what it changes in ablation.yaml; ``WORK`` stands for the folder of the study.
RUNS: dict[str, list[str]] = {
    **{
        f"{name} seed {seed}": [*changes, f"train.seed={seed}"]
        for seed in (0, 1, 2)
        for name, changes in {
            "domain's negatives": [],
            "no negatives": ["negatives.count=0"],
            "paper's negatives: rot": ["negatives.mixture={rot: 1}"],
        }.items()
    },
    "paper's negatives: perm16": ["negatives.mixture={perm16: 1}"],
    "paper's negatives: auxiliary, turned": [
        "negatives.sources=auxiliary",
        "negatives.auxiliary=[WORK/auxiliary]",
        "negatives.auxiliary_mixture={image_as_is: 1, rot: 1}",
    ],
    **{
        f"domain's negatives without lesions seed {seed}": [f"negatives.mixture={ACQUISITION}", f"train.seed={seed}"]
        for seed in (0, 1, 2)
    },
    "without lesions, 30 epochs": [f"negatives.mixture={ACQUISITION}", *LONG],
    "without lesions, equalised, 30 epochs": [f"negatives.mixture={ACQUISITION}", "preprocess.equalize=true", *LONG],
    "without lesions, equalised": [f"negatives.mixture={ACQUISITION}", "preprocess.equalize=true"],
    "backbone ViT": ["model.backbone=vit_tiny_patch16_224", f"model.arguments={VIT}"],
    "backbone ViT, convolutional stem": ["model.backbone=vit_tiny_r_s16_p8_224", f"model.arguments={STEM}"],
    "backbone ResNet": ["model.backbone=resnet10t"],
    "one epoch": ["train.epochs=1"],
    "64 px": ["preprocess.size=64", "views.source_size=96"],
    "Sinkhorn-Knopp": ["train.centering=sinkhorn"],
}
#: The first run, scored without the crop.
WHOLE = "scored uncropped"
FAR = ("bone_xray", "chest_ct", "brain_mri", "breast_ultrasound", "cifar10", "textures")
GROSS = ("rot90", "rot180", "upside_down", "inverted", "crop_quarter")
HEALTHY = ("nih_normal", "openist_normal", "pk_normal")


def folder_of(work: Path, name: str) -> Path:
    """Where a run lies."""
    return work / "".join(c if c.isalnum() else "_" for c in name)


def train_part(work: Path, part: int, parts: int) -> None:
    """Train every run of this part that is not there yet."""
    auxiliary = work / "auxiliary"
    if not auxiliary.exists() and part == 0:
        auxiliary.mkdir(parents=True)
        for kind in ("hand_like", "ct_like", "lateral_like"):  # synthetic images of other parts of the body
            for seed in range(100):
                (auxiliary / f"{kind}-{seed}.dcm").write_bytes(dicom_bytes(OUTLIERS[kind](seed, 256), f"{kind}-{seed}"))
    real = DATA / "in_distribution"
    places = [f"data.root={real / 'train'}", f"data.calibration_root={real / 'calibration'}", f"data.cache={work / 'cache'}"]
    for name, changes in list(RUNS.items())[part::parts]:
        out = folder_of(work, name)
        if not (out / "detector.json").exists():
            started = time.perf_counter()
            changes = [change.replace("WORK", str(work)) for change in changes]
            train(load_config(HERE / "ablation.yaml", [*places, f"out={out}", *changes]), resume=True)
            print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def rows(
    sets: dict[tuple[str, str], Set], detector: Detector, which: str, score: str
) -> dict[str, tuple[float, float, float]]:
    """AUROC with its interval by measure; the worst of several sets where the measure is over several."""

    def auroc(positives: list[tuple[str, str]], negatives: list[tuple[str, str]]) -> tuple[float, float, float]:
        scores, patients = [], []
        for keys in (positives, negatives):
            scores.append(np.concatenate([detector.raw_scores(sets[key].features[which], score) for key in keys]))
            patients.append(np.concatenate([sets[key].patients for key in keys]))
        found = separation(scores[0], scores[1], draw(patients[0], patients[1], 200, 0)).auroc
        return found.value, found.low, found.high

    test, healthy = [key for key in sets if key[0] == "in_distribution"], [("id_shift", name) for name in HEALTHY]
    shifted = np.array([auroc([key], test) for key in healthy])
    return {
        "far, worst": min(auroc([("far", name)], test) for name in FAR),
        "gross faults, worst": min(auroc([("acquisition", name)], test) for name in GROSS),
        "quarters permuted": auroc([("acquisition", "perm4")], test),
        "mirrored": auroc([("acquisition", "mirror")], test),
        "id_shift, mean of 3": tuple(shifted.mean(axis=0)),
        "covid_cohen vs id_shift": auroc([("near", "covid_cohen")], healthy),
        "nih_pneumonia vs nih_normal": auroc([("near", "nih_pneumonia")], [("id_shift", "nih_normal")]),
        "paediatric_normal vs id_shift": auroc([("near", "paediatric_normal")], healthy),
        "tb_tbdb vs id_shift": auroc([("near", "tb_tbdb")], healthy),
    }


def sample(entries: list[Entry]) -> list[Entry]:
    """The test scans of the ablation: of the in-distribution radiographs and of each far set some, of the others all."""
    kept: dict[tuple[str, str], list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: hashlib.sha256(entry.file.encode()).digest()):
        if entry.split == "test":
            kept.setdefault((entry.group, entry.dataset), []).append(entry)
    most = {"in_distribution": 400, "far": 150}
    return [entry for (group, _), some in kept.items() for entry in some[: most.get(group)]]


def measure(work: Path, table: Path) -> None:
    """Add the figures of every run that is there, and not in the table yet, under every score."""
    with table.open(newline="") if table.exists() else io.StringIO("run\n") as stream:
        known = {line["run"] for line in csv.DictReader(stream)}
    there = [name for name in RUNS if (folder_of(work, name) / "detector.json").exists() and name not in known]
    detectors = {name: Detector.load(folder_of(work, name)) for name in there}
    plain = "domain's negatives seed 0"
    if plain in detectors:
        detectors[WHOLE] = Detector.load(folder_of(work, plain))
        detectors[WHOLE].network.crops = [1.0]
    if not detectors:
        return
    sets = collect(sample(read_manifest(DATA / "manifest.csv")), DATA, detectors, {}, 0, Progress()).sets
    with table.open("a", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if not known:
            writer.writerow(["run", "score", "chosen", "development_mean", "measure", "auroc", "low", "high"])
        for name, detector in detectors.items():
            for score, reactions in detector.metadata.score_choice.items():
                development: npt.NDArray[np.float64] = np.array(list(reactions.values()))
                for which, values in rows(sets, detector, name, score).items():
                    told = [name, score, int(score == detector.score_name), f"{development.mean():.4f}", which]
                    writer.writerow([*told, *(f"{value:.4f}" for value in values)])


def tell(table: Path) -> None:
    """Print a table a score as Markdown: of runs with several seeds the mean, and the smallest and largest."""
    with table.open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    measures = list(dict.fromkeys(line["measure"] for line in lines))
    names = list(dict.fromkeys(name.rpartition(" seed ")[0] or name for name in [*RUNS, WHOLE]))
    for score in ("chosen by the rule", "head_entropy", "soft_nearest"):
        print(f"\n**{score}**\n\n| run | {' | '.join(measures)} |\n|---|{'---|' * len(measures)}")
        for name in names:
            cells = []
            for which in measures:
                mine = [line for line in lines if line["run"].partition(" seed ")[0] == name and line["measure"] == which]
                mine = [line for line in mine if (line["chosen"] == "1" if score not in SCORES else line["score"] == score)]
                values = [float(line["auroc"]) for line in mine]
                spread = f" ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}" if values else "")
            print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    if sys.argv[1] == "train":
        train_part(Path(sys.argv[2]), *(int(text) for text in sys.argv[3:5] or ("0", "1")))
    elif sys.argv[1] == "measure":
        measure(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        tell(Path(sys.argv[2]))


if __name__ == "__main__":
    main()
