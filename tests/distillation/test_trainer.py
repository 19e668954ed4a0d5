from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from medood.config.schema import RunConfig
from medood.distillation import trainer as trainer_module
from medood.distillation.collapse import CollapseError
from medood.distillation.data_defaults import resolve_defaults
from medood.distillation.losses import negative_loss
from medood.distillation.trainer import TerminatedError, Trainer
from medood.distillation.training_log import Metrics
from medood.errors import MedoodError
from tests.conftest import ROOT, tiny_config


def images(count: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 40, 40), dtype=np.uint8)


def run(config: RunConfig, folder: Path, *, resume: bool = False, stop_after: int | None = None) -> Trainer:
    def on_step(step: int, steps: int, metrics: Metrics) -> None:
        if step == stop_after:
            raise KeyboardInterrupt

    trainer = Trainer(config, images(), folder)
    if resume:
        trainer.resume()
    with suppress(KeyboardInterrupt):
        trainer.fit(on_step)
    return trainer


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (
            *("model.backbone=resnet10t", "model.arguments={}", "train.precision=bf16-mixed", "model.rotation_head=true"),
            *("preprocess.size=64", "views.local_count=0"),
        ),
        ("model.backbone=convnext_atto", "model.arguments={dims: [8, 8, 8, 8]}", "views.local_count=0"),
    ],
)
def test_resume_equals_no_interruption_bit_for_bit(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = tiny_config(tmp_path, tmp_path, "train.epochs=4", *overrides)
    whole = run(config, tmp_path / "whole")
    run(config, tmp_path / "cut", stop_after=7)  # in the middle of the third epoch of three steps each
    resumed = run(config, tmp_path / "cut", resume=True)
    assert resumed.next_step == 6
    for a, b in zip(whole.teacher.state_dict().values(), resumed.teacher.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.center, resumed.center)
    assert all(value.is_contiguous() for value in resumed.teacher.state_dict().values())
    steps = [line.split(",")[0] for line in (tmp_path / "cut" / "training.csv").read_text().splitlines()]
    assert steps == ["step", *(str(i) for i in range(12))]


@pytest.mark.parametrize("small", ["preprocess.size=16", "views.local_size=16"])
def test_bf16_on_a_cpu_is_refused_for_maps_of_one_pixel(tmp_path: Path, small: str) -> None:
    overrides = ("model.backbone=resnet10t", "model.arguments={}", "preprocess.size=64", "views.local_size=64", small)
    Trainer(tiny_config(tmp_path, tmp_path, *overrides), images(), tmp_path)
    with pytest.raises(MedoodError, match="a view of 16 px shrinks to one pixel"):
        Trainer(tiny_config(tmp_path, tmp_path, *overrides, "train.precision=bf16-mixed"), images(), tmp_path)
    wide = tiny_config(tmp_path, tmp_path, *overrides[:-1], "train.precision=bf16-mixed")
    assert Trainer(wide, images(), tmp_path).student.module.training is True


def test_the_same_seed_gives_the_same_network_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (
        run(tiny_config(tmp_path, tmp_path, "train.epochs=1", f"train.seed={seed}"), tmp_path / str(i)).teacher.state_dict()
        for i, seed in enumerate((1, 1, 2))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_what_is_logged(tmp_path: Path) -> None:
    run(tiny_config(tmp_path, tmp_path, "train.epochs=1"), tmp_path)
    header, *lines = (tmp_path / "training.csv").read_text().splitlines()
    for name in ("loss_positive", "kl_negatives", "teacher_entropy", "images_per_second", "effective_rank"):
        assert name in header
    assert len(lines) == 3
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_training_without_negatives_and_without_local_views(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path, "train.epochs=1", "views.local_count=0")
    config.negatives.mixture = {}
    run(config, tmp_path)
    assert "kl_negatives" not in (tmp_path / "training.csv").read_text()


def test_collapse_to_uniform_stops_training(tmp_path: Path) -> None:
    """A teacher at temperature 10 says the same of everything."""
    config = tiny_config(tmp_path, tmp_path, "train.epochs=40", "train.teacher_temperature=[10.0,10.0]")
    with pytest.raises(CollapseError, match="uniform"):
        run(config, tmp_path)


def test_collapse_to_one_point_stops_training_within_its_patience(tmp_path: Path) -> None:
    """Images that are all the same, and a cold teacher without a centre, have one output."""
    still = [f"views.{name}=0" for name in ("brightness", "contrast", "gamma", "blur", "rotation")]
    cold = ["train.teacher_temperature=[0.001,0.001]", "train.center_momentum=0.99", "train.learning_rate=1e-6"]
    config = tiny_config(tmp_path, tmp_path, "train.epochs=60", *still, *cold)
    config.negatives.mixture = {}
    with pytest.raises(CollapseError, match="one point"):
        Trainer(config, np.full((24, 40, 40), 90, dtype=np.uint8), tmp_path).fit()
    assert len((tmp_path / "training.csv").read_text().splitlines()) <= 51


def test_a_batch_larger_than_the_folder_and_too_few_pictures(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path, "train.epochs=1", "train.batch_size=100")
    assert Trainer(config, images(), tmp_path).batch == 24
    with pytest.raises(MedoodError, match="at least 2"):
        Trainer(config, images(1), tmp_path)


def test_a_new_run_leaves_no_checkpoint_of_an_old_one(tmp_path: Path) -> None:
    run(tiny_config(tmp_path, tmp_path, "train.epochs=3"), tmp_path)
    run(tiny_config(tmp_path, tmp_path, "train.epochs=3", "train.seed=5"), tmp_path, stop_after=4)
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert names == ["step-00000003.safetensors"]


@pytest.mark.parametrize(
    "change", ["train.epochs=2", "train.learning_rate=0.1", "negatives.mixture.rot=9", "model.out_dim=8"]
)
def test_a_run_of_another_configuration_is_not_resumed(tmp_path: Path, change: str) -> None:
    run(tiny_config(tmp_path, tmp_path, "train.epochs=1"), tmp_path)
    with pytest.raises(MedoodError, match="another configuration"):
        Trainer(tiny_config(tmp_path, tmp_path, "train.epochs=1", change), images(), tmp_path).resume()


def test_resuming_on_other_pictures_is_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path, "train.epochs=1")
    run(config, tmp_path)
    with pytest.raises(MedoodError, match="other images"):
        Trainer(config, images(), tmp_path, data_sha256="else").resume()


ONE_STEP = ("train.epochs=1", "train.batch_size=24", "model.drop_path=0", "views.blur=0")


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.student.module.parameters()])


def test_accumulating_gives_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    whole = run(tiny_config(tmp_path, tmp_path, *ONE_STEP), tmp_path / "whole")
    parts = run(tiny_config(tmp_path, tmp_path, *ONE_STEP, "train.accumulate=5"), tmp_path / "parts")
    torch.testing.assert_close(weights(parts), weights(whole), atol=2e-4, rtol=0)
    logged = [
        (folder / "training.csv").read_text().splitlines()[1].split(",")
        for folder in (tmp_path / "whole", tmp_path / "parts")
    ]
    for a, b in list(zip(*logged, strict=True))[:5]:
        assert float(a) == pytest.approx(float(b), rel=1e-4)


def test_two_processes_lose_what_one_loses(tmp_path: Path) -> None:
    """gloo on loopback, the same global batch: losses and centre agree to 1e-5."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys; from pathlib import Path; from tests.distillation.test_trainer import two_process_run\n"
        "if __name__ == '__main__': two_process_run(Path(sys.argv[1]))\n"
    )
    alone = tmp_path / "one"
    two_process_run(alone)
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    launch = ["torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, str(script), str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for first, second in zip(one, two, strict=True):
        for name in ("loss", "loss_positive", "kl_negatives", "teacher_entropy", "mean_entropy"):
            assert first[name] == pytest.approx(second[name], abs=1e-5), name


def two_process_run(folder: Path) -> None:
    """Three steps of 24 images, in as many processes as the launcher started, where an earlier run left checkpoints."""
    for step in range(1000):
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / f"step-{step:08}.safetensors").touch()
    os.environ.setdefault("LOCAL_RANK", "0")
    config = tiny_config(folder, folder, "train.epochs=3", *ONE_STEP[1:])
    trainer = Trainer(config, images(), folder)
    assert trainer.fabric.world_size == int(os.environ.get("WORLD_SIZE", "1"))
    found: list[Metrics] = []
    trainer.fit(lambda step, steps, metrics: found.append(dict(metrics)))
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in names if "gloo" in name], names  # one that lives as Python ends aborts the process
    if trainer.fabric.is_global_zero:
        (folder / "metrics.json").write_text(json.dumps(found))


@pytest.mark.parametrize("override", ["train.centering=sinkhorn", "train.koleo=0.1"])
def test_alternatives_train(tmp_path: Path, override: str) -> None:
    trainer = run(tiny_config(tmp_path, tmp_path, "train.epochs=1", override), tmp_path)
    header, *lines = (tmp_path / "training.csv").read_text().splitlines()
    assert len(lines) == trainer.steps
    assert ("koleo" in header) == ("koleo" in override)
    assert all(np.isfinite(float(value)) for line in lines for value in line.split(",") if value)


def test_compiled_networks_learn_what_plain_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler's front end alone, which needs no C++ compiler."""
    compiled, plain_compile = [], torch.nn.Module.compile

    def compile_eagerly(module: torch.nn.Module, **_: object) -> None:
        compiled.append(module)
        plain_compile(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    plain = run(tiny_config(tmp_path, tmp_path, "train.epochs=1"), tmp_path / "plain")
    assert not compiled
    trainer = run(tiny_config(tmp_path, tmp_path, "train.epochs=1", "train.compile=true"), tmp_path / "compiled")
    assert len(compiled) == 2, "the student's and the teacher's"
    torch.testing.assert_close(weights(trainer), weights(plain), rtol=0, atol=1e-5)


def test_being_asked_to_end_saves_a_checkpoint_and_resuming_equals_no_interruption(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path, "train.epochs=4")
    whole = run(config, tmp_path / "whole")

    def on_step(step: int, steps: int, metrics: Metrics) -> None:
        if step == 4:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TerminatedError, match="after step 5 of 12"):
        Trainer(config, images(), tmp_path / "cut").fit(on_step)
    resumed = Trainer(config, images(), tmp_path / "cut")
    resumed.resume()
    assert resumed.next_step == 5
    resumed.fit()
    assert torch.equal(weights(whole), weights(resumed))
    assert len((tmp_path / "cut" / "training.csv").read_text().splitlines()) == 13


def test_auxiliary_pictures_are_a_source_of_negatives(tmp_path: Path) -> None:
    others = 255 - images(7)

    def with_sources(sources: str, **mixtures: object) -> Trainer:
        config = tiny_config(tmp_path, tmp_path, "train.epochs=1")
        config.negatives.sources, config.negatives.auxiliary = sources, ["somewhere"]
        for name, value in mixtures.items():
            setattr(config.negatives, name, value)
        return Trainer(config, images(), tmp_path / sources, auxiliary=others)

    as_is = {"auxiliary_mixture": {"image_as_is": 1.0}}
    rows = np.arange(8)
    auxiliary = with_sources("auxiliary", **as_is).views.make(0, rows).negatives
    both = with_sources("both", **as_is).views.make(0, rows).negatives
    alone = with_sources("in_distribution").views.make(0, rows).negatives
    assert auxiliary is not None and both is not None and alone is not None
    assert len(auxiliary) == len(alone) == 8
    assert len(both) == 16
    torch.testing.assert_close(both[:8], alone)
    with_sources("both", **as_is).fit()
    with pytest.raises(MedoodError, match="no image in it"):
        config = tiny_config(tmp_path, tmp_path)
        config.negatives.sources = "both"
        Trainer(config, images(), tmp_path, auxiliary=images(0))


def test_a_key_of_a_later_version_at_its_default_leaves_checkpoints_good(tmp_path: Path) -> None:
    def identity(*overrides: str) -> str:
        return trainer_module._identity(tiny_config(tmp_path, tmp_path, *overrides), "data")

    config = tiny_config(tmp_path, tmp_path)
    parts = [asdict(config.model), asdict(config.views), asdict(config.negatives), asdict(config.train)]
    for name in ("mirror", "saturation", "hue"):
        del parts[1][name]
    del parts[2]["local_count"]
    del parts[0]["rotation_head"]
    described = json.dumps(["data", config.network_size, config.preprocess.fit, *parts])
    assert identity() == hashlib.sha256(described.encode()).hexdigest()  # as it was before
    colour = ["preprocess.channels=3", "negatives.mixture={rot: 1}"]
    others = {identity("negatives.local_count=1"), identity(*colour), identity(*colour, "views.mirror=0.5")}
    assert len(others | {identity()}) == 4


@pytest.mark.parametrize(("local", "small", "large"), [(0, 2, 1), (2, 3, 1), (1, 1, 0)])
def test_small_negatives_count_like_large_ones(tmp_path: Path, local: int, small: int, large: int) -> None:
    counts = [f"views.local_count={local}", f"negatives.local_count={small}", f"negatives.count={large}"]
    trainer = Trainer(tiny_config(tmp_path, tmp_path, "train.epochs=1", *counts), images(), tmp_path)
    rows = np.arange(8)
    views = trainer.views.make(0, rows)
    assert views.local_negatives is not None
    assert views.local_negatives.shape == (8 * small, 1, 16, 16)
    half = views.part(slice(0, 4), 8).local_negatives
    assert half is not None
    torch.testing.assert_close(half, views.local_negatives.view(small, 8, 1, 16, 16)[:, :4].flatten(0, 1))
    student = trainer.student.module.eval()
    parts = [part for part in (views.negatives, views.local_negatives) if part is not None]
    with torch.no_grad():
        outputs = torch.cat([student([part])[0][1] for part in parts])
        teacher = torch.softmax(torch.rand(2, 8, outputs.shape[1]), dim=-1)
        terms, total = trainer._losses(views, teacher)
    temperature = trainer.config.train.student_temperature
    expected = negative_loss(outputs, temperature)
    torch.testing.assert_close(terms["kl_negatives"], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(total, terms["loss_positive"] + expected, atol=1e-5, rtol=1e-4)
    trainer.fit()


def test_a_run_left_open_follows_the_data(tmp_path: Path) -> None:
    config = RunConfig()
    small, lines = resolve_defaults(config, 3000)
    large, _ = resolve_defaults(config, 200_000)
    assert config.train.epochs == 0
    assert small.model.out_dim < large.model.out_dim
    assert small.train.epochs > large.train.epochs
    assert small.train.teacher_temperature[0] < large.train.teacher_temperature[0]
    assert "train.batch_size = 88 for 3,000 images" in lines
    chosen = tiny_config(tmp_path, tmp_path)
    assert resolve_defaults(chosen, 3000) == (chosen, [])


@pytest.mark.parametrize("kind", ["equal", "three"])
def test_training_on_images_without_variety_ends_with_a_network(tmp_path: Path, kind: str) -> None:
    config = tiny_config(tmp_path, tmp_path, "train.epochs=30", "train.learning_rate=0.01")
    given = images(3) if kind == "three" else np.full((24, 40, 40), 90, dtype=np.uint8)
    trainer = Trainer(config, given, tmp_path)
    trainer.fit()
    assert trainer.steps == len((tmp_path / "training.csv").read_text().splitlines()) - 1 == (30 if kind == "three" else 90)
    assert torch.isfinite(weights(trainer)).all()


def test_a_loss_that_is_not_a_number_stops_training(tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(tmp_path, tmp_path, "train.epochs=30"), images(), tmp_path)
    next(trainer.student.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(CollapseError, match="not a number at step 0"):
        trainer.fit()


def test_a_full_disk_ends_in_a_sentence_and_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medood.distillation import checkpoint

    saved, write = [0], checkpoint.save_file

    def until_full(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        saved[0] += 1
        if saved[0] == 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoint, "save_file", until_full)
    config = tiny_config(tmp_path, tmp_path, "train.epochs=3")
    with pytest.raises(MedoodError, match=r"cannot be written.*Free some space, then --resume"):
        run(config, tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000003.safetensors"]
    monkeypatch.undo()
    assert run(config, tmp_path, resume=True).next_step == 3
