from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from monai.transforms import HistogramNormalize
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter, zoom

from medood.config.schema import ModelConfig, ViewsConfig
from medood.detection.ensemble import EnsembleNetwork, center_crop
from medood.distillation.checkpoint import load_newest, save_checkpoint
from medood.distillation.collapse import CollapseError, CollapseWatch, effective_rank
from medood.distillation.network import Network, backbone_features, student_and_teacher, update_teacher
from medood.distillation.schedules import cosine, linear, warmup_cosine
from medood.distillation.views import acquire, blur, crop, equalize, rebalance, sample_view
from medood.errors import MedoodError

VIT = ModelConfig("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}, 0.1, 16, 8, 12)


def test_views_are_equalised_as_monai_equalises_films() -> None:
    views = torch.rand(4, 1, 24, 24, generator=torch.Generator().manual_seed(0)) ** 3
    views[3] = 0.4
    chosen = torch.tensor([True, False, True, True])
    found = equalize(views, chosen)
    monai = HistogramNormalize(num_bins=256, min=0, max=1)
    for i in (0, 2):
        torch.testing.assert_close(found[i], torch.as_tensor(monai(views[i].numpy())).float(), atol=1e-3, rtol=0)
    assert torch.equal(found[1], views[1])
    assert found[3].isfinite().all()
    config = ViewsConfig(equalize=0.3)
    drawn = sample_view(4000, [0.4, 1.0], config, torch.Generator().manual_seed(1))
    assert float(drawn.pop("equalized").mean()) == pytest.approx(0.3, abs=0.03)
    plain = sample_view(4000, [0.4, 1.0], ViewsConfig(), torch.Generator().manual_seed(1))
    assert drawn.keys() == plain.keys()  # and the numbers of recipes without it stay as they were
    assert all(torch.equal(drawn[name], plain[name]) for name in plain)


def test_detail_is_rebalanced_in_two_bands() -> None:
    side = 60
    views = 0.3 + 0.2 * torch.rand(3, 1, side, side, generator=torch.Generator().manual_seed(0))
    views[1] += torch.linspace(0, 0.3, side)
    fine, coarse, reach = (
        torch.tensor(values).view(3, 1, 1, 1) for values in ([1.0, 2.0, 0.5], [1.0, 0.5, 1.5], [0.3, 0.0, 1.0])
    )
    found = rebalance(views, fine, coarse, reach)
    torch.testing.assert_close(found[0], views[0], atol=1e-6, rtol=0)  # factors of 1 change nothing
    for i, cells in ((1, 6), (2, 20)):
        view = views[i, 0].double().numpy()
        blocks = view.reshape(cells, side // cells, cells, side // cells).mean(axis=(1, 3))
        around = zoom(blocks, side // cells, order=1, mode="nearest", grid_mode=True)
        expected = view.mean() + float(coarse[i]) * (around - view.mean()) + float(fine[i]) * (view - around)
        np.testing.assert_allclose(found[i, 0].numpy(), expected.clip(0, 1), atol=1e-5)


def test_detail_is_drawn_only_where_it_is_asked_for() -> None:
    drawn = sample_view(4000, [0.4, 1.0], ViewsConfig(detail=0.6), torch.Generator().manual_seed(1))
    for name in ("fine", "coarse"):
        logarithm = drawn.pop(name).log()
        assert float(logarithm.abs().max()) == pytest.approx(math.log(1.6), abs=0.01)
        assert float(logarithm.mean()) == pytest.approx(0.0, abs=0.02)
    assert 0 <= float(drawn.pop("reach").min()) < 0.01
    plain = sample_view(4000, [0.4, 1.0], ViewsConfig(), torch.Generator().manual_seed(1))
    assert drawn.keys() == plain.keys()
    assert all(torch.equal(drawn[name], plain[name]) for name in plain)


def test_schedules_at_their_ends() -> None:
    assert cosine(0, 10, 0.04, 0.4) == pytest.approx(0.04)
    assert cosine(9, 10, 0.04, 0.4) == pytest.approx(0.4)
    assert cosine(5, 11, 0.0, 1.0) == pytest.approx(0.5)
    assert linear(0, 10, 0.04, 0.01) == 0.04
    assert linear(10, 10, 0.04, 0.01) == linear(99, 10, 0.04, 0.01) == pytest.approx(0.01)
    rates = [warmup_cosine(step, 100, 10, 1.0, 0.1) for step in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert rates[99] == pytest.approx(0.1)
    assert all(a < b for a, b in pairwise(rates[:10]))


def test_a_full_crop_without_noise_is_the_picture() -> None:
    images = torch.rand(3, 1, 24, 24)
    config = ViewsConfig(aspect=1.0, rotation=0.0, brightness=0.0, contrast=0.0, gamma=0.0, blur=0.0)
    drawn = sample_view(3, [1.0, 1.0], config, torch.Generator().manual_seed(0))
    torch.testing.assert_close(acquire(crop(images, drawn, 24), drawn), images.clamp(1e-4, 1), atol=1e-5, rtol=1e-5)


def test_a_crop_shows_the_drawn_place() -> None:
    rows = torch.linspace(0, 1, 101).view(1, 1, 101, 1).expand(1, 1, 101, 101)
    drawn = {
        name: torch.tensor([value])
        for name, value in {"width": 0.5, "height": 0.5, "x": 0.0, "y": 0.5, "degrees": 0.0}.items()
    }
    view = crop(rows, drawn, 10)
    assert float(view.mean()) == pytest.approx(0.75, abs=0.01)
    assert float(view[0, 0, 0, 0]) == pytest.approx(0.525, abs=0.02)


def test_crops_keep_their_bounds_and_follow_the_seed() -> None:
    config = ViewsConfig()
    first = sample_view(2000, [0.4, 1.0], config, torch.Generator().manual_seed(1))
    again = sample_view(2000, [0.4, 1.0], config, torch.Generator().manual_seed(1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    area = first["width"] * first["height"]
    assert 0.39 < float(area.min()) < 0.45
    assert float(area.max()) <= 1.0
    assert (first["x"].abs() + first["width"] <= 1 + 1e-6).all()
    assert float(first["degrees"].abs().max()) <= config.rotation


def test_blur_against_scipy() -> None:
    images = torch.rand(3, 1, 40, 40)
    sigma = torch.tensor([0.0, 0.7, 1.5])
    result = blur(images, sigma)
    assert torch.equal(result[0], images[0])
    for i in (1, 2):
        expected = gaussian_filter(images[i, 0].double().numpy(), float(sigma[i]), mode="mirror", radius=5)
        np.testing.assert_allclose(result[i, 0].numpy(), expected, atol=2e-4)


def test_the_teacher_is_an_ema_of_the_student_and_the_head_gives_cosines() -> None:
    student, teacher = student_and_teacher(VIT, 32)
    before = [p.clone() for p in teacher.parameters()]
    assert all(torch.equal(s, t) for s, t in zip(student.parameters(), teacher.parameters(), strict=True))
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    update_teacher(teacher, student, 0.9)
    for old, new in zip(before, teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    assert not any(p.requires_grad for p in teacher.parameters())
    outputs = teacher([torch.rand(2, 1, 32, 32), torch.rand(3, 1, 16, 16)])
    assert [tuple(o.shape) for _, o, _ in outputs] == [(2, 12), (3, 12)]
    assert all(float(o.abs().max()) <= 1 + 1e-5 for _, o, _ in outputs)


def test_a_backbone_that_does_not_exist_is_told() -> None:
    with pytest.raises(MedoodError, match=r"model\.backbone"):
        Network(ModelConfig("vit_tinny"), 32)


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("hf-hub:someone/model", {}),
        ("resnet18", {"pretrained": True}),
        ("resnet18", {"checkpoint_path": "weights.pth"}),
        ("resnet18", {"pretrained_cfg_overlay": {"file": "weights.pth"}}),
    ],
)
def test_weights_from_elsewhere_are_refused(backbone: str, arguments: dict[str, object]) -> None:
    with pytest.raises(MedoodError, match="plain timm name"):
        Network(ModelConfig(backbone, arguments), 32)


def test_effective_rank_limits() -> None:
    assert effective_rank(torch.ones(50, 8)) == 1.0
    assert effective_rank(torch.rand(50, 1) @ torch.rand(1, 8)) == pytest.approx(1.0, abs=1e-4)
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert effective_rank(signs) == pytest.approx(2.0)


@pytest.mark.parametrize(("teacher", "mean", "way"), [(math.log(64), math.log(64), "uniform"), (0.01, 0.02, "one point")])
def test_collapse_is_caught_within_its_patience(teacher: float, mean: float, way: str) -> None:
    watch = CollapseWatch(64, patience=50)
    for _ in range(49):
        watch.update(teacher, mean)
    watch.update(2.0, 3.0)  # one healthy step starts the count again
    for _ in range(49):
        watch.update(teacher, mean)
    with pytest.raises(CollapseError, match=way):
        watch.update(teacher, mean)


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for epoch in (0, 1, 2):
        save_checkpoint(tmp_path, epoch, {"a": torch.full((3,), float(epoch))}, {"epoch": epoch})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001.safetensors", "step-00000002.safetensors"]
    newest = tmp_path / "step-00000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-5])
    loaded, damaged = load_newest(tmp_path)
    assert loaded is not None
    tensors, state = loaded
    assert state == {"epoch": 1}
    assert damaged == [newest]
    torch.testing.assert_close(tensors["a"], torch.ones(3))
    (tmp_path / "step-00000001.safetensors").write_bytes(b"")
    nothing, damaged = load_newest(tmp_path)
    assert nothing is None
    assert len(damaged) == 2


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedoodError, match="cannot be written"):
        save_checkpoint(tmp_path / "file", 0, {"a": torch.ones(1)}, {})


@pytest.mark.parametrize("backbone", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_any_backbone_of_timm_with_features_takes_one_channel_and_crops_of_two_sizes(backbone: str) -> None:
    network = Network(ModelConfig(backbone, hidden_dim=16, bottleneck_dim=8, out_dim=12), 64).eval()
    pairs = network([torch.rand(2, 1, 64, 64), torch.rand(2, 1, 32, 32)])
    assert [tuple(o.shape) for _, o, _ in pairs] == [(2, 12), (2, 12)]
    assert pairs[0][0].shape[1] == network.backbone.num_features


def test_a_backbone_begins_with_the_weights_of_a_file(tmp_path: Path) -> None:
    first = Network(VIT, 32)
    save_file(first.state_dict(), tmp_path / "network.safetensors")  # a detector's file, head and all
    save_file(first.backbone.state_dict(), tmp_path / "backbone.safetensors")
    for name in ("network", "backbone"):
        again = Network(dataclasses.replace(VIT, weights=str(tmp_path / f"{name}.safetensors")), 32)
        for a, b in zip(first.backbone.parameters(), again.backbone.parameters(), strict=True):
            assert torch.equal(a, b)
        heads = zip(first.head.parameters(), again.head.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in heads if a.ndim > 1) == (name == "network")
    with pytest.raises(MedoodError, match=r"the head in .*network\.safetensors has other widths. Set model\.hidden_dim"):
        Network(dataclasses.replace(VIT, weights=str(tmp_path / "network.safetensors"), out_dim=7), 32)
    with pytest.raises(MedoodError, match=r"model\.weights: .* does not fit resnet18"):
        Network(ModelConfig("resnet18", weights=str(tmp_path / "backbone.safetensors"), out_dim=12), 32)
    with pytest.raises(MedoodError, match=r"model\.weights"):
        Network(dataclasses.replace(VIT, weights=str(tmp_path / "nowhere.safetensors")), 32)


def test_published_weights_without_a_network_name_the_file_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, pretrained: bool = False, **_: object) -> object:
        if pretrained:
            raise OSError("no network")
        return built(name, **_)

    built = timm.create_model
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(MedoodError, match=r"fetch model.safetensors of .*, copy it here, and set model.weights"):
        Network(ModelConfig("resnet18", pretrained=True, out_dim=12), 32)


def test_the_centre_is_cut_at_its_place_and_a_network_embeds_it() -> None:
    ramp = ((torch.arange(40.0) + 0.5) / 40).view(1, 1, 1, 40).expand(2, 1, 40, 40)
    middle = center_crop(ramp, 0.5)
    expected = 0.25 + 0.5 * ramp  # columns of the middle half, stretched over the whole
    torch.testing.assert_close(middle, expected, atol=1e-5, rtol=0)
    network = EnsembleNetwork(Network(ModelConfig("resnet10t", {}, 0.0, 16, 8, 12), 40)).eval()
    plain = network.embed(center_crop(ramp, 0.9))
    network.crops = [0.9]
    for one, other in zip(plain, network.embed(ramp), strict=True):
        assert torch.equal(one, other)


def test_several_crops_are_averaged() -> None:
    images = torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    network = EnsembleNetwork(Network(ModelConfig("resnet10t", {}, 0.0, 16, 8, 12), 40)).eval()
    each = [network.features(center_crop(images, share)) for share in (0.8, 1.0)]
    network.crops = [0.8, 1.0]
    features, outputs = network.embed(images)
    torch.testing.assert_close(features, torch.nn.functional.normalize((each[0] + each[1]) / 2, dim=1))
    torch.testing.assert_close(outputs, (network.head(each[0]) + network.head(each[1])) / 2)


@pytest.mark.parametrize(("is_bf16", "is_trained"), [(True, True), (True, False), (False, True)])
def test_attention_is_plain_only_where_bf16_is_trained_on_a_cpu(is_bf16: bool, is_trained: bool) -> None:
    fused = []

    class Backbone(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            fused.append(torch.backends.cuda.flash_sdp_enabled())  # the switch holds for CPUs too
            return images.flatten(1)

    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16), torch.set_grad_enabled(is_trained):
        backbone_features(Backbone(), torch.zeros(1, 1, 4, 4))
    assert fused == [not (is_bf16 and is_trained)]
    assert torch.backends.cuda.flash_sdp_enabled()
