"""Trains a network that finds synthetic lesions place by place, and embeds the study's sets with it.

The backbone starts from the shipped detector's first network. A 1 x 1 convolution on its third and fourth stages gives a
logit per 16 x 16 pixels; a linear layer on the pooled fourth stage gives one per radiograph.

Usage: python -m reports.cross_site.lesions train DETECTOR MANIFEST.csv FOLDER [MINUTES]

       python -m reports.cross_site.lesions embed DETECTOR MANIFEST.csv FOLDER

       python -m reports.cross_site.lesions choose FOLDER > reports/cross_site/lesions.csv

FOLDER is that of reports.cross_site.embed, which comes first.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Generator, Tensor, nn

from medood.config.schema import ViewsConfig
from medood.detection.detector import Detector
from medood.detection.registration import Registration, affine, equalize_histogram
from medood.distillation.views import acquire, sample_view
from medood.evaluation.acquisition_faults import FAULTS, Pixels, opacity, plant
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
from reports.cross_site.embed import FAR, FAULTY_TEST, PAIRED, Embedding, changed
from reports.cross_site.synthetic_lesions import distract, plant_lesions
from reports.cross_site.synthetic_lesions import noise as noise_field

SIDE, BATCH, RATE, EMA = 192, 48, 6e-4, 0.998
#: Acquisition noise; the grey curve and the crop are left out, since equalisation and registration remove them.
VIEWS = ViewsConfig(brightness=0.0, contrast=0.0, gamma=0.0, blur=0.3, blur_sigma=1.6, detail=1.2)
#: Jitter of the frame: standard deviations of width, height, shifts right and down, and tilt.
JITTER = (0.03, 0.03, 0.03, 0.03, 0.03)
#: Every tenth training radiograph is kept for standardisation and for the loss that is watched.
KEPT = 10


class LesionNetwork(nn.Module):
    """A logit per place and one per radiograph."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        widths = [info["num_chs"] for info in backbone.feature_info]  # type: ignore[union-attr]
        self.local = nn.Conv2d(widths[2] + widths[3], 1, 1)
        self.whole = nn.Linear(widths[3], 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.backbone.stem((images - 0.5) / 0.25)  # type: ignore[operator]
        stages = []
        for stage in self.backbone.stages:  # type: ignore[union-attr]
            x = stage(x)
            stages.append(x)
        fine, coarse = stages[2], stages[3]
        up = functional.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        pooled = functional.layer_norm(coarse.mean(dim=(2, 3)), [coarse.shape[1]])
        local = self.local(torch.cat([normalised(fine), normalised(up)], dim=1))
        return local[:, 0].float(), self.whole(pooled)[:, 0].float()


def normalised(maps: Tensor) -> Tensor:
    return functional.layer_norm(maps.permute(0, 2, 3, 1), [maps.shape[1]]).permute(0, 3, 1, 2)


def frames(images: Tensor, places: Tensor, generator: Generator | None = None) -> Tensor:
    """The registered frames ``[N, 1, 192, 192]`` of ``[N, 1, S, S]`` radiographs, jittered if a generator is given."""
    if generator is not None:
        noise = torch.randn(places.shape, generator=generator) * torch.tensor(JITTER)
        common = torch.randn(len(places), 1, generator=generator) * 0.05
        places = torch.cat([places[:, :2] * (1 + noise[:, :2] + common), places[:, 2:] + noise[:, 2:]], dim=1)
    grid = functional.affine_grid(affine(places), [len(images), 1, SIDE, SIDE], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def shade(images: Tensor, generator: Generator) -> Tensor:
    """Smooth exposure differences over the radiograph, as from a tilted tube or a grid."""
    depth = torch.rand(len(images), 1, 1, 1, generator=generator) * 0.4
    field = noise_field(len(images), images.shape[-1], [2, 3], generator) - 0.5
    return images + depth * field


def sharpen(images: Tensor, generator: Generator) -> Tensor:
    """Edges as another device draws them, softer to much sharper, and the lines of an anti-scatter grid on some."""
    count, side = len(images), images.shape[-1]
    amount = torch.rand(count, 1, 1, 1, generator=generator) * 2.5 - 0.5
    amount = amount * (torch.rand(count, 1, 1, 1, generator=generator) < 0.6)
    smooth = functional.avg_pool2d(functional.pad(images, [1] * 4, mode="reflect"), 3, stride=1)
    lines = torch.rand(count, 3, 1, 1, generator=generator)
    position = torch.arange(side).view(1, 1, 1, side) / side
    grid = 0.02 * lines[:, :1] * torch.sin(2 * torch.pi * position * (20 + 70 * lines[:, 1:2])) * (lines[:, 2:] < 0.15)
    return images + amount * (images - smooth) + grid


def views(source: Tensor, places: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Registered, equalised images, the lesions' share of each cell ``[N, H, W]`` in [0, 1], and whether there is one."""
    plain = frames(source, places, generator)
    planted, change = plant_lesions(plain, generator)
    cells = functional.adaptive_avg_pool2d(change, SIDE // 16)[:, 0]
    parameters = sample_view(len(source), [1.0, 1.0], VIEWS, generator)
    compressed = 0.2 + 0.6 * distract(
        planted, generator
    )  # so that nothing is clipped, whose noise equalisation would amplify
    images = sharpen(shade(acquire(compressed, parameters), generator), generator)
    noise = torch.rand(len(images), 1, 1, 1, generator=generator) * 0.02
    images = images + noise * torch.randn(images.shape, generator=generator)
    return equalize_histogram(images), cells, (change.amax(dim=(1, 2, 3)) > 0).float()


def loss(outputs: tuple[Tensor, Tensor], cells: Tensor, there: Tensor) -> Tensor:
    local = functional.binary_cross_entropy_with_logits(outputs[0], cells, pos_weight=torch.tensor(4.0))
    return local + 0.3 * functional.binary_cross_entropy_with_logits(outputs[1], there)


def read(paths: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path).convert("L").resize((224, 224))) for path in paths])


def floats(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).float().div_(255.0)[:, None]


def backbone_of(detector: str) -> nn.Module:
    backbone: nn.Module = Detector.load(detector).network.backbone
    return backbone


def registration_of(detector: str) -> Registration:
    appearance = Detector.load(detector).network.appearance
    assert appearance is not None
    return appearance.registration


def training_paths(manifest: Path) -> list[Path]:
    return [manifest.parent / entry.file for entry in read_manifest(manifest) if entry.split == "train"]


def watched(network: LesionNetwork, plain: Tensor, registration: Registration) -> str:
    """Loss on synthetic lesions and AUROC on the benchmark's own opacities, in kept training radiographs."""
    generator = Generator().manual_seed(1)
    network.eval()
    with torch.no_grad():
        places = registration.places(plain)
        made = [views(plain[i : i + BATCH], places[i : i + BATCH], generator) for i in range(0, len(plain), BATCH)]
        value = np.mean([float(loss(network(batch[0]), *batch[1:])) for batch in made])
        whole = torch.cat([network(batch[0])[1] for batch in made])
        there = torch.cat([batch[2] for batch in made])
        faulty = plant("opacity", plain, generator)[0]
        scores = [scores_of(network, registered(images, registration)) for images in (plain, faulty)]
    network.train()
    aurocs = [auroc(scores[1][:, i], scores[0][:, i]) for i in range(scores[0].shape[1])]
    return f"loss {value:.4f} AUROC synthetic {roc_auc_score(there, whole):.3f}, opacities {np.round(aurocs, 3)}"


def registered(images: Tensor, registration: Registration) -> Tensor:
    return equalize_histogram(frames(images, registration.places(images)))


@torch.no_grad()
def scores_of(network: LesionNetwork, images: Tensor) -> np.ndarray:
    """The radiograph's logit and the means of the 1, 3, 7 and 14 highest places: ``[N, 5]``."""
    rows = []
    for batch in torch.split(images, BATCH):
        local, whole = network(batch)
        highest = local.flatten(1).sort(dim=1, descending=True).values
        rows.append(torch.stack([whole, *(highest[:, :k].mean(dim=1) for k in (1, 3, 7, 14))], dim=1))
    return torch.cat(rows).numpy()


def train(detector: str, manifest: Path, out: Path, minutes: float) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    registration = registration_of(detector)
    paths = training_paths(manifest)
    images = read([path for i, path in enumerate(paths) if i % KEPT])
    with torch.no_grad():
        all_places = torch.cat([registration.places(floats(images[i : i + 500])) for i in range(0, len(images), 500)])
    kept = floats(read(paths[::KEPT])[:300])
    network = LesionNetwork(backbone_of(detector))
    if (out / "start.safetensors").exists():
        network.load_state_dict(load_file(out / "start.safetensors"))
    ema = copy.deepcopy(network)
    network.requires_grad_(True).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=RATE
    )
    generator, start, step, running = Generator().manual_seed(0), time.monotonic(), 0, 0.0
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        rows = torch.randint(len(images), (BATCH,), generator=generator).numpy()
        batch, cells, there = views(floats(images[rows]), all_places[rows], generator)
        rate = RATE * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * np.cos(np.pi * share))
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(batch)
        value = loss(outputs, cells, there)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 3.0)
        optimiser.step()
        momentum = min(EMA, (step + 1) / (step + 10))
        with torch.no_grad():
            for slow, fast in zip(ema.parameters(), network.parameters(), strict=True):
                slow.lerp_(fast, 1 - momentum)
        running, step = running * 0.98 + float(value.detach()) * 0.02, step + 1
        if step % 100 == 0:
            print(f"{step} {time.monotonic() - start:.0f} s loss {running / (1 - 0.98**step):.4f}", flush=True)
        if step % 500 == 0:
            print(watched(ema, kept, registration), flush=True)
            save_file(ema.state_dict(), out / "lesions.safetensors")
    print(watched(ema, kept, registration), flush=True)
    save_file(ema.state_dict(), out / "lesions.safetensors")


def embed(detector: Detector, manifest: Path, folder: Path) -> None:
    """Write ``l_SET.npz``: the five scores of each scan of the sets that ``choose`` looks at."""
    network = LesionNetwork(detector.network.backbone)
    network.load_state_dict(load_file(folder / "lesions.safetensors"))
    network.eval()
    entries = read_manifest(manifest)
    work = Embedding(detector, manifest.parent, folder)
    sets = {"train": [entry for entry in entries if entry.split == "train"][::KEPT]}
    for entry in entries:
        if entry.split == "test":
            sets.setdefault("id_test" if entry.group == "in_distribution" else entry.dataset, []).append(entry)
        elif entry.split == "calibration":
            sets.setdefault("calibration", []).append(entry)
    far = {entry.dataset for entry in entries if entry.group == "far"}
    chain = preprocessing(replace(detector.preprocess, size=224))
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
        frame = torch.cat([registered(batch, registration) for batch in torch.split(torch.stack(images), BATCH)])
        np.savez(folder / f"l_{name}.npz", lesions=scores_of(network, frame))
        print(name, len(rows), flush=True)

    for name, rows in sets.items():
        write(name, rows[:FAR] if name in far else rows)
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
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "train":
        train(arguments[0], Path(arguments[1]), Path(arguments[2]), float(arguments[3]) if len(arguments) > 3 else 40.0)
    elif command == "embed":
        embed(Detector.load(arguments[0]), Path(arguments[1]), Path(arguments[2]))
    else:
        print_choices(Path(arguments[0]))


if __name__ == "__main__":
    main()
