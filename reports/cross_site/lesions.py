"""Trains a network that finds synthetic lesions place by place, and embeds the study's sets with it.

The backbone starts from the shipped detector's first network. A 1 x 1 convolution on its third and fourth stages gives a
logit per 16 x 16 pixels; a linear layer on the pooled fourth stage gives one per radiograph.

Usage: python -m reports.cross_site.lesions train DETECTOR MANIFEST.csv FOLDER [MINUTES]
       python -m reports.cross_site.lesions embed DETECTOR MANIFEST.csv FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from medood.config.schema import ViewsConfig
from medood.detection.detector import Detector
from medood.distillation.views import acquire, crop, sample_view
from medood.evaluation.acquisition_faults import plant
from medood.evaluation.manifest import read_manifest
from reports.cross_site.synthetic_lesions import distract, plant_lesions

SIDE, BATCH, RATE, EMA = 192, 48, 6e-4, 0.998
VIEWS = ViewsConfig(
    brightness=0.15, contrast=0.35, gamma=0.35, blur=0.4, blur_sigma=1.6, equalize=0.4, detail=0.6, aspect=1.2
)
SCALE = [0.55, 1.0]
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


def views(source: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Augmented images, the lesions' share of each cell ``[N, H, W]`` in [0, 1], and whether there is one ``[N]``."""
    parameters = sample_view(len(source), SCALE, VIEWS, generator)
    plain = crop(source, parameters, SIDE)
    planted, change = plant_lesions(plain, generator)
    cells = functional.adaptive_avg_pool2d(change, SIDE // 16)[:, 0]
    images = acquire(distract(planted, generator), parameters)
    noise = torch.rand(len(images), 1, 1, 1, generator=generator) * 0.03
    images = (images + noise * torch.randn(images.shape, generator=generator)).clamp(0.0, 1.0)
    return images, cells, (change.amax(dim=(1, 2, 3)) > 0).float()


def loss(outputs: tuple[Tensor, Tensor], cells: Tensor, there: Tensor) -> Tensor:
    local = functional.binary_cross_entropy_with_logits(outputs[0], cells, pos_weight=torch.tensor(4.0))
    return local + 0.3 * functional.binary_cross_entropy_with_logits(outputs[1], there)


def read(paths: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path).convert("L").resize((224, 224))) for path in paths])


def floats(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).float().div_(255.0)[:, None]


def backbone_of(detector: str) -> nn.Module:
    return Detector.load(detector).network.backbone


def training_paths(manifest: Path) -> list[Path]:
    return [manifest.parent / entry.file for entry in read_manifest(manifest) if entry.split == "train"]


def figures(network: LesionNetwork, images: np.ndarray) -> str:
    """Loss on synthetic lesions and AUROC on the benchmark's own opacities, in kept training radiographs."""
    from sklearn.metrics import roc_auc_score

    generator = Generator().manual_seed(1)
    plain = floats(images)
    network.eval()
    with torch.no_grad():
        made = [views(batch, generator) for batch in plain.split(BATCH)]
        value = np.mean([float(loss(network(batch[0]), *batch[1:])) for batch in made])
        whole = torch.cat([network(batch[0])[1] for batch in made])
        there = torch.cat([batch[2] for batch in made])
        small = functional.interpolate(plain, [SIDE, SIDE], mode="bilinear", antialias=True)
        faulty = plant("opacity", small, generator)[0]
        scores = [scores_of(network, batch) for batch in (small, faulty)]
    network.train()
    truth = np.r_[np.zeros(len(small)), np.ones(len(small))]
    aurocs = [roc_auc_score(truth, np.r_[scores[0][:, i], scores[1][:, i]]) for i in range(scores[0].shape[1])]
    return f"loss {value:.4f} AUROC synthetic {roc_auc_score(there, whole):.3f}, opacities {np.round(aurocs, 3)}"


@torch.no_grad()
def scores_of(network: LesionNetwork, images: Tensor) -> np.ndarray:
    """The radiograph's logit and the means of the 1, 3, 7 and 14 highest places: ``[N, 5]``."""
    rows = []
    for batch in images.split(BATCH):
        local, whole = network(batch)
        highest = local.flatten(1).sort(dim=1, descending=True).values
        rows.append(torch.stack([whole, *(highest[:, :k].mean(dim=1) for k in (1, 3, 7, 14))], dim=1))
    return torch.cat(rows).numpy()


def train(detector: str, manifest: Path, out: Path, minutes: float) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    paths = training_paths(manifest)
    images = read([path for i, path in enumerate(paths) if i % KEPT])
    kept = read(paths[::KEPT])[:300]
    network = LesionNetwork(backbone_of(detector)).requires_grad_(True).train()
    ema = LesionNetwork(backbone_of(detector))
    ema.load_state_dict(network.state_dict())
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=RATE
    )
    generator, start, step, running = Generator().manual_seed(0), time.monotonic(), 0, 0.0
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        rows = torch.randint(len(images), (BATCH,), generator=generator).numpy()
        batch, cells, there = views(floats(images[rows]), generator)
        rate = RATE * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * np.cos(np.pi * share))
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            outputs = network(batch)
        value = loss(outputs, cells, there)
        optimiser.zero_grad()
        value.backward()
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
            print(figures(ema, kept), flush=True)
            save_file(ema.state_dict(), out / "lesions.safetensors")
    print(figures(ema, kept), flush=True)
    save_file(ema.state_dict(), out / "lesions.safetensors")


if __name__ == "__main__":
    command, detector, manifest, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    if command == "train":
        train(detector, manifest, folder, float(sys.argv[5]) if len(sys.argv) > 5 else 30.0)
