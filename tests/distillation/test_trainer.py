from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from medood.distillation.collapse import CollapseError
from medood.distillation.trainer import Metrics, Trainer
from medood.errors import MedoodError
from medood.schema import RunConfig
from tests.conftest import tiny_config


def pictures(count: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 40, 40), dtype=np.uint8)


def run(config: RunConfig, folder: Path, *, resume: bool = False, stop_after: int | None = None) -> Trainer:
    def on_step(step: int, steps: int, metrics: Metrics) -> None:
        if step == stop_after:
            raise KeyboardInterrupt

    trainer = Trainer(config, pictures(), folder)
    if resume:
        trainer.resume()
    with suppress(KeyboardInterrupt):
        trainer.fit(on_step)
    return trainer


def test_resume_equals_no_interruption_bit_for_bit(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path, "train.epochs=4")
    whole = run(config, tmp_path / "whole")
    run(config, tmp_path / "cut", stop_after=7)  # in the middle of the third epoch of three steps each
    resumed = run(config, tmp_path / "cut", resume=True)
    assert resumed.next_epoch == 2
    for a, b in zip(whole.teacher.state_dict().values(), resumed.teacher.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.center, resumed.center)
    steps = [line.split(",")[0] for line in (tmp_path / "cut" / "training.csv").read_text().splitlines()]
    assert steps == ["step", *(str(i) for i in range(12))]


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


def test_a_batch_larger_than_the_folder_and_too_few_pictures(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path, "train.epochs=1", "train.batch_size=100")
    assert Trainer(config, pictures(), tmp_path).batch == 24
    with pytest.raises(MedoodError, match="at least 2"):
        Trainer(config, pictures(1), tmp_path)


def test_a_new_run_leaves_no_checkpoint_of_an_old_one(tmp_path: Path) -> None:
    run(tiny_config(tmp_path, tmp_path, "train.epochs=3"), tmp_path)
    run(tiny_config(tmp_path, tmp_path, "train.epochs=3", "train.seed=5"), tmp_path, stop_after=4)
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert names == ["epoch-0000.safetensors"]


@pytest.mark.parametrize(
    "change", ["train.epochs=2", "train.learning_rate=0.1", "negatives.mixture.rot=9", "model.out_dim=8"]
)
def test_a_run_of_another_configuration_is_not_resumed(tmp_path: Path, change: str) -> None:
    run(tiny_config(tmp_path, tmp_path, "train.epochs=1"), tmp_path)
    with pytest.raises(MedoodError, match="another configuration"):
        Trainer(tiny_config(tmp_path, tmp_path, "train.epochs=1", change), pictures(), tmp_path).resume()


def test_resuming_on_other_pictures_is_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path, "train.epochs=1")
    run(config, tmp_path)
    with pytest.raises(MedoodError, match="other pictures"):
        Trainer(config, pictures(), tmp_path, data_sha256="else").resume()
