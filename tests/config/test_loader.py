from __future__ import annotations

from pathlib import Path

import pytest

from medood.config.loader import config_keys, load_config
from medood.config.resources import shipped_file
from medood.errors import MedoodError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configurations_load(path: Path) -> None:
    config = load_config(path, ["data.root=x", "train.epochs=3"])
    assert config.data.root == "x"
    assert config.train.epochs == 3
    assert config.negatives.mixture


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("train.epoch=3", "train.epochs"),
        ("+train.epochz=3", "train.epochs"),
        ("trian.epochs=3", "train.epochs"),
        ("views.globalcount=2", "views.global_count"),
    ],
)
def test_an_unknown_key_names_the_nearest(override: str, nearest: str) -> None:
    with pytest.raises(MedoodError, match=f"Did you mean '{nearest}'"):
        load_config(ROOT / "configs" / "demo.yaml", [override])


def test_a_folder_named_like_a_key_beside_the_file_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "a.yaml").write_text("name: a\n")
    assert load_config(tmp_path / "a.yaml", ["out=here"]).out == "here"


def test_a_file_may_build_on_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: base\ntrain: {epochs: 7}\n")
    (tmp_path / "a.yaml").write_text("defaults: [base, _self_]\nname: a\n")
    config = load_config(tmp_path / "a.yaml", ["train.seed=3"])
    assert (config.name, config.train.epochs, config.train.seed) == ("a", 7, 3)


def test_an_unknown_key_in_the_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {batchsize: 3}\n")
    with pytest.raises(MedoodError, match=r"Did you mean 'train\.batch_size'"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.epochs=many", "many"),
        ("train.epochs=-1", "at least 1"),
        ("train.centering=median", "mean, sinkhorn"),
        ("negatives.sources=both", "folders, because negatives.sources is both"),
        ("negatives.mixture.image_as_is=1", "no image_as_is"),
        ("train.accumulate=0", "at least 1"),
        ("preprocess.fit=crop", "squash, letterbox"),
        ("preprocess.crop=0.9", "preprocess.crops"),
        ("preprocess.crops=[0.9,1.1]", "at most 1"),
        ("preprocess.crops=[]", "one or more fractions"),
        ("views.global_scale=[0.9,0.1]", "views.global_scale"),
        ("views.global_count=1", "at least 2"),
        ("data.calibration_fraction=1.5", "below 1"),
        ("negatives.mixture.rot=-1", "weights"),
        ("train.teacher_temperature=[0.04]", "two numbers"),
        ("train.epochs", "key=value"),
        ("train.learning_rate=nan", "above 0"),
        ("train.student_temperature=0", "above 0"),
        ("train.precision=fp16", "bf16-mixed"),
        ("train.device=tpu", "auto, cpu, cuda"),
        ("views.aspect=0", "at least 1"),
        ("views.detail=-0.5", "at least 0"),
        ("data.limit=-5", "at least 0"),
        ("preprocess.size=50", "multiple of 4"),
    ],
)
def test_wrong_values_are_told(override: str, told: str) -> None:
    with pytest.raises(MedoodError, match=told):
        load_config(ROOT / "configs" / "demo.yaml", [override])


@pytest.mark.parametrize("content", ["a: [1", "\tx: 1", "- 1\n- 2\n", "train: 3\n"])
def test_files_that_are_not_a_configuration_are_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(MedoodError, match=r"a\.yaml"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize("path", ["/a b/c=d", "/x(1)/y", "it's", "a,b", "C:\\scans", "C:\\x\\", "[1]"])
def test_paths_need_no_quotes(path: str) -> None:
    assert load_config(ROOT / "configs" / "demo.yaml", [f"data.root={path}"]).data.root == path


def test_a_picture_is_not_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(MedoodError, match="not valid YAML"):
        load_config(tmp_path / "a.png")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(MedoodError, match="missing from this installation"):
        shipped_file("configs/none.yaml")


def test_every_key_is_explained() -> None:
    assert [key for key, _, text in config_keys() if not text] == []


def test_a_mapping_given_whole_takes_the_place_of_the_file_s_and_one_weight_changes_it() -> None:
    path = ROOT / "configs" / "cxr_small.yaml"
    before = load_config(path).negatives.mixture
    assert len(before) > 5
    assert load_config(path, ["negatives.mixture={rot: 1}"]).negatives.mixture == {"rot": 1.0}
    both = ["+negatives.mixture={rot: 1}", "negatives.mixture.mirror=2"]
    assert load_config(path, both).negatives.mixture == {"rot": 1.0, "mirror": 2.0}
    assert "rot" not in load_config(path, ["~negatives.mixture.rot"]).negatives.mixture
    assert load_config(path, ["negatives.mixture={}"]).negatives.mixture == {}
    assert load_config(path, ["negatives.mixture.rot=7"]).negatives.mixture == {**before, "rot": 7.0}
    further = load_config(ROOT / "configs" / "cxr_small_further.yaml").negatives.mixture
    assert further == before  # by its defaults list


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("[/data/müller]", ["/data/müller"]),
        ("[/a b/c (1),D:\\new\\x, 'with, comma' ,\"q\"]", ["/a b/c (1)", "D:\\new\\x", "with, comma", "q"]),
        ("[]", []),
        ("[/it's,/日本/#1@=]", ["/it's", "/日本/#1@="]),
    ],
)
def test_lists_of_folders_take_any_name(text: str, folders: list[str]) -> None:
    config = load_config(ROOT / "configs" / "demo.yaml", [f"negatives.auxiliary={text}"])
    assert config.negatives.auxiliary == folders
