"""A detector folder whose digests fit and whose contents are wrong is refused in a sentence, in little memory and time."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medood.detection.detector import Detector
from medood.detection.detector_file import digest_of
from medood.errors import MedoodError

Change = Callable[[dict[str, Any]], Any]
MEMBER = {
    "model": {"backbone": "resnet18", "arguments": {}, "hidden_dim": 8, "bottleneck_dim": 8, "out_dim": 8},
    "size": 32,
    "crops": [1.0],
}

DESCRIPTIONS: dict[str, Change] = {
    "unknown key": lambda d: d.update(surprise=1),
    "unknown key of the model": lambda d: d["model"].update(surprise=1),
    "unknown key of the preprocessing": lambda d: d["preprocess"].update(surprise=1),
    "no model": lambda d: d.pop("model"),
    "no parts": lambda d: d.pop("parts"),
    "model is null": lambda d: d.update(model=None),
    "model is a list": lambda d: d.update(model=[]),
    "members is null": lambda d: d.update(members=None),
    "members is a number": lambda d: d.update(members=3),
    "a member is null": lambda d: d.update(members=[None]),
    "a member that has no weights": lambda d: d.update(members=[MEMBER]),
    "thousands of members": lambda d: d.update(members=[MEMBER] * 5000),
    "thousands of crops": lambda d: d["preprocess"].update(crops=[0.5] * 5000),
    "no crops": lambda d: d["preprocess"].update(crops=[]),
    "a crop of nothing": lambda d: d["preprocess"].update(crops=[0.0]),
    "crops that are text": lambda d: d["preprocess"].update(crops=["1"]),
    "an unknown fit": lambda d: d["preprocess"].update(fit="stretch"),
    "size is text": lambda d: d["preprocess"].update(size="32"),
    "size is a boolean": lambda d: d["preprocess"].update(size=True),
    "size is huge": lambda d: d["preprocess"].update(size=1_000_000),
    "size is negative": lambda d: d["preprocess"].update(size=-32),
    "another size": lambda d: d["preprocess"].update(size=48),
    "an unknown backbone": lambda d: d["model"].update(backbone="no_such_network"),
    "a backbone from a hub": lambda d: d["model"].update(backbone="hf-hub:someone/network"),
    "a backbone that is a path": lambda d: d["model"].update(backbone="../../network"),
    "another backbone": lambda d: d["model"].update(backbone="resnet18", arguments={}),
    "arguments are a list": lambda d: d["model"].update(arguments=[1]),
    "an unknown argument": lambda d: d["model"]["arguments"].update(surprise=1),
    "an argument that loads weights": lambda d: d["model"]["arguments"].update(checkpoint_path="/etc/passwd"),
    "an argument that picks a device": lambda d: d["model"]["arguments"].update(device="cpu"),
    "a depth without end": lambda d: d["model"]["arguments"].update(depth=1_000_000_000),
    "another depth": lambda d: d["model"]["arguments"].update(depth=200),
    "an argument nested without end": lambda d: d["model"]["arguments"].update(depth=[[[[[1]]]]]),
    "a patch of nothing": lambda d: d["model"]["arguments"].update(patch_size=0),
    "no heads": lambda d: d["model"]["arguments"].update(num_heads=0),
    "a width of half a terabyte": lambda d: d["model"].update(out_dim=2_000_000_000),
    "a wide head": lambda d: d["model"].update(hidden_dim=65_536),
    "a wide bottleneck": lambda d: d["model"].update(bottleneck_dim=65_536),
    "many prototypes": lambda d: d["model"].update(out_dim=1_000_000),
    "a negative width": lambda d: d["model"].update(out_dim=-1),
    "a width of nothing": lambda d: d["model"].update(hidden_dim=0),
    "a width that is null": lambda d: d["model"].update(hidden_dim=None),
    "a width that is no whole number": lambda d: d["model"].update(hidden_dim=1.5),
    "a score that does not exist": lambda d: d.update(score="magic"),
    "a score that is null": lambda d: d.update(score=None),
    "a score without its members": lambda d: d.update(score="ensemble"),
    "a scale of nothing": lambda d: d.update(cam_scale=0.0),
    "a negative scale": lambda d: d.update(cam_scale=-1.0),
    "a scale that is text": lambda d: d.update(cam_scale="1"),
    "a version to come": lambda d: d.update(schema_version=99),
    "a version that is text": lambda d: d.update(schema_version="4"),
    "an appearance model that is not there": lambda d: d.update(appearance=True),
    "an appearance model that is a number": lambda d: d.update(appearance=1),
    "a part outside the folder": lambda d: d["parts"].update({"../secret": "0" * 64}),
    "a part that is missing": lambda d: d["parts"].pop("bank.safetensors"),
    "data that are text": lambda d: d.update(data="none"),
    "a configuration that is a list": lambda d: d.update(config=[1]),
    "versions that are nested": lambda d: d.update(versions={"torch": {"a": 1}}),
}

NETWORKS: dict[str, Change] = {
    "no tensor at all": lambda t: t.clear(),
    "a tensor too many": lambda t: t.update(surprise=torch.zeros(3)),
    "a tensor too few": lambda t: t.pop("head.prototypes.weight"),
    "another shape": lambda t: t.update({"head.prototypes.weight": torch.zeros(3, 3)}),
    "another type": lambda t: t.update({"head.prototypes.weight": t["head.prototypes.weight"].to(torch.int32)}),
    "no finite value": lambda t: t["head.prototypes.weight"].view(-1)[:1].fill_(float("nan")),
    "infinite": lambda t: t["head.mlp.0.weight"].view(-1)[:1].fill_(float("inf")),
}

BANKS: dict[str, Change] = {
    "no row": lambda t: t.update(features=t["features"][:0], keys=t["keys"][:0]),
    "rows without keys": lambda t: t.pop("keys"),
    "fewer keys than rows": lambda t: t.update(keys=t["keys"][:-1]),
    "short keys": lambda t: t.update(keys=t["keys"][:, :8].contiguous()),
    "keys that are no bytes": lambda t: t.update(keys=t["keys"].float()),
    "features of another length": lambda t: t.update(features=t["features"][:, :-1].contiguous()),
    "a feature that is no finite value": lambda t: t["features"].view(-1)[:1].fill_(float("nan")),
    "no learned scan": lambda t: t.pop("learned_keys"),
    "a hash too few": lambda t: t.update(learned_hashes=t["learned_hashes"][:-1]),
    "a tensor of no score": lambda t: t.update({"magic/mean": torch.zeros(3)}),
    "a tensor of no name": lambda t: t.update(surprise=torch.zeros(3)),
    "a mean of another length": lambda t: t.update({"mahalanobis/mean": torch.zeros(1)}),
    "a spread of nothing": lambda t: [v.zero_() for k, v in t.items() if k.endswith("spread")],
    "places on no square": lambda t: t.update({"places/mean": torch.zeros(7, 4)}),
    "half of what the places need": lambda t: t.pop("places/center"),
}

CALIBRATIONS: dict[str, Change] = {
    "no score": lambda c: c.update(scores=[]),
    "a score that is text": lambda c: c["scores"].__setitem__(0, "1"),
    "a score that is true": lambda c: c["scores"].__setitem__(0, True),
    "scores that are null": lambda c: c.update(scores=None),
    "a score too few": lambda c: c["scores"].pop(),
    "strata without a reason": lambda c: c.update(strata=["a"] * len(c["scores"])),
    "strata that are missing": lambda c: c.update(by=["Modality"]),
    "strata that are numbers": lambda c: c.update(by=["Modality"], strata=[1] * len(c["scores"])),
    "another detector": lambda c: c.update(detector_sha256="0" * 64),
    "an unknown key": lambda c: c.update(surprise=1),
    "a version to come": lambda c: c.update(schema_version=2),
}


@pytest.fixture
def folder(tiny_detector: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_detector, tmp_path / "d", ignore=shutil.ignore_patterns("cache", "checkpoints", "*.csv"))
    return tmp_path / "d"


def signed(path: Path, change: Change) -> None:
    """Change a description and sign it anew, as whoever made it would."""
    stated = json.loads(path.read_text())
    change(stated)
    stated.pop("sha256", None)
    path.write_text(json.dumps({**stated, "sha256": digest_of(stated)}))


def repacked(folder: Path, name: str, change: Change) -> None:
    """Change the tensors of a part, and the digest that names it."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)
    part = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    signed(folder / "detector.json", lambda d: d["parts"].update({name: part}))


def assert_refused(folder: Path) -> str:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MedoodError) as refused:
        Detector.load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
    assert len(str(refused.value)) < 800
    return str(refused.value)


def test_the_folder_itself_is_read(folder: Path) -> None:
    signed(folder / "detector.json", lambda d: None)
    assert Detector.load(folder).sha256


@pytest.mark.parametrize("change", DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_descriptions(folder: Path, change: Change) -> None:
    signed(folder / "detector.json", change)
    assert "detector" in assert_refused(folder)


@pytest.mark.parametrize("change", NETWORKS.values(), ids=NETWORKS)
def test_networks(folder: Path, change: Change) -> None:
    repacked(folder, "network.safetensors", change)
    assert "network.safetensors" in assert_refused(folder)


@pytest.mark.parametrize("change", BANKS.values(), ids=BANKS)
def test_banks(folder: Path, change: Change) -> None:
    repacked(folder, "bank.safetensors", change)
    assert "bank.safetensors" in assert_refused(folder)


@pytest.mark.parametrize("change", CALIBRATIONS.values(), ids=CALIBRATIONS)
def test_calibrations(folder: Path, change: Change) -> None:
    signed(folder / "calibrations" / "training.json", change)
    assert "training" in assert_refused(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        '{"sha256": 1}',
        "[" * 100_000,
        '{"a": ' * 100_000,
        '{"sha256": "", "cam_scale": NaN}',
        '{"sha256": "", "cam_scale": 1e999}',
        "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
    ],
)
def test_what_is_no_description(folder: Path, text: str) -> None:
    for path in (folder / "detector.json", folder / "calibrations" / "training.json"):
        whole = path.read_text()
        path.write_text(text)
        assert path.name in assert_refused(folder)
        path.write_text(whole)


def test_a_description_without_end_is_not_read(folder: Path) -> None:
    with (folder / "detector.json").open("a") as stream:
        stream.truncate(10 * 1024**3)  # sparse
    assert "no file of medood's" in assert_refused(folder)


def test_a_part_that_is_no_safetensors_file(folder: Path) -> None:
    for content in (b"", b"\xff" * 8, (2**62).to_bytes(8, "little") + b"{}", b"\x80\x04K\x01."):
        (folder / "network.safetensors").write_bytes(content)
        part = hashlib.sha256(content).hexdigest()
        signed(folder / "detector.json", lambda d, part=part: d["parts"].update({"network.safetensors": part}))
        assert "network.safetensors" in assert_refused(folder)
