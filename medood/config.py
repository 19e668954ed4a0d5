"""The typed schema of a run. Hydra composes a YAML file and ``key=value`` overrides; an unknown key is an error."""

from __future__ import annotations

import dataclasses
import difflib
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medood.errors import MedoodError


@dataclass
class PreprocessConfig:
    """From a scan to the network's input; saved with the detector.

    Attributes:
        size: side of the network's input in pixels.
        fit: ``squash`` to a square, or ``letterbox`` (black bars, aspect ratio kept).
    """

    size: int = 224
    fit: str = "squash"


@dataclass
class DataConfig:
    """The in-distribution scans.

    Attributes:
        root: folder, zip or file of in-distribution scans.
        calibration_root: scans for calibration; empty holds out ``calibration_fraction`` of ``root``.
        calibration_fraction: share of ``root`` held out for calibration, split by patient where PatientID is known.
        limit: use at most this many scans; 0 is all.
        cache: folder for decoded pictures; empty is ``OUT/cache``.
    """

    root: str = ""
    calibration_root: str = ""
    calibration_fraction: float = 0.15
    limit: int = 0
    cache: str = ""


@dataclass
class ModelConfig:
    """Backbone and head.

    Attributes:
        backbone: name of a timm model.
        arguments: keyword arguments for ``timm.create_model`` (``patch_size``, ``embed_dim``, ...).
        drop_path: stochastic depth of the student; the teacher has none.
        hidden_dim: width of the head's hidden layers.
        bottleneck_dim: width before the last layer.
        out_dim: number of prototypes.
    """

    backbone: str = "vit_small_patch16_224"
    arguments: dict[str, Any] = field(default_factory=dict)
    drop_path: float = 0.1
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    out_dim: int = 4096


@dataclass
class ViewsConfig:
    """Positive views: what must not matter.

    Attributes:
        source_size: side of the cached pictures that crops are taken from.
        global_count: large crops of a picture (teacher and student); at least 2.
        global_scale: range of their share of the picture's area.
        local_count: small crops (student only).
        local_size: side of the small crops in pixels.
        local_scale: range of their share of the picture's area.
        aspect: largest ratio of a crop's sides (1 is square).
        rotation: largest rotation in degrees, either way.
        brightness: largest shift of the grey values, either way.
        contrast: largest relative change of contrast, either way.
        gamma: largest relative change of gamma, either way.
        blur: probability of a Gaussian blur.
        blur_sigma: largest sigma of the blur, in pixels of the view.
    """

    source_size: int = 256
    global_count: int = 2
    global_scale: list[float] = field(default_factory=lambda: [0.4, 1.0])
    local_count: int = 8
    local_size: int = 96
    local_scale: list[float] = field(default_factory=lambda: [0.15, 0.4])
    aspect: float = 1.15
    rotation: float = 5.0
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.2
    blur: float = 0.3
    blur_sigma: float = 1.0


@dataclass
class NegativesConfig:
    """Negative views: what the domain is not.

    Attributes:
        mixture: shifting transformation to its weight; weights need not sum to 1. Empty trains without negatives.
        count: negative views of a picture.
        scale: range of their share of the picture's area, before the shifting transformation.
        weight: weight of the negative term of the loss.
    """

    mixture: dict[str, float] = field(default_factory=dict)
    count: int = 1
    scale: list[float] = field(default_factory=lambda: [0.6, 1.0])
    weight: float = 1.0


@dataclass
class TrainConfig:
    """Self-distillation.

    Attributes:
        epochs: passes over the training pictures.
        batch_size: pictures a step, over all processes.
        learning_rate: peak, for a batch of 256; scaled by ``batch_size / 256``.
        final_learning_rate: at the end of the cosine.
        warmup: share of the steps over which the learning rate rises from 0.
        weight_decay: first and last value of its cosine.
        gradient_clip: largest norm of the gradient.
        freeze_last_layer: share of the steps in which the head's last layer stays as it is.
        student_temperature: temperature of the student's softmax.
        teacher_temperature: first and last value of the teacher's temperature.
        teacher_cooling: share of the steps over which the teacher cools linearly.
        teacher_momentum: first and last value of the EMA's cosine.
        center_momentum: momentum of the centre of the teacher's outputs.
        seed: everything random follows from it.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``auto``, ``32-true`` or ``bf16-mixed``.
        threads: CPU threads; 0 leaves torch's choice.
    """

    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 0.004
    final_learning_rate: float = 1e-6
    warmup: float = 0.06
    weight_decay: list[float] = field(default_factory=lambda: [0.04, 0.4])
    gradient_clip: float = 3.0
    freeze_last_layer: float = 0.002
    student_temperature: float = 0.1
    teacher_temperature: list[float] = field(default_factory=lambda: [0.04, 0.01])
    teacher_cooling: float = 0.6
    teacher_momentum: list[float] = field(default_factory=lambda: [0.996, 1.0])
    center_momentum: float = 0.9
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    threads: int = 0


@dataclass
class DetectorConfig:
    """The score.

    Attributes:
        score: ``combined``, ``mahalanobis``, ``nearest``, ``soft_nearest`` or ``head``.
    """

    score: str = "combined"


@dataclass
class RunConfig:
    """A whole run: ``medood train CONFIG [key=value ...]``.

    Attributes:
        name: what the detector is called in reports.
        out: the detector's folder; checkpoints, logs and cache lie in it.
    """

    name: str = "detector"
    out: str = "runs/detector"
    data: DataConfig = field(default_factory=DataConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    negatives: NegativesConfig = field(default_factory=NegativesConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)


#: Keys whose values are taken as they stand, so that a path needs no quotes of Hydra's grammar.
_TEXT_KEYS = ("name", "out", "data.root", "data.calibration_root", "data.cache")


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Compose a configuration file with overrides, over the schema.

    Args:
        path: a YAML file.
        overrides: ``key=value`` strings in Hydra's grammar.

    Raises:
        MedoodError: the file is missing or is not YAML, a key is unknown, a value has the wrong type or range.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
    from yaml import YAMLError

    if not path.is_file():
        raise MedoodError(f"The configuration {path} does not exist. Expected a YAML file such as configs/cxr.yaml.")
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            raise MedoodError(f"The override {text!r} is not of the form key=value, such as train.epochs=10.")
        _check_key(text.split("=", 1)[0].lstrip("+~"), text)
    try:
        with _config_folder(path) as folder, initialize_config_dir(folder, version_base="1.3"):
            composed = compose(path.stem, overrides=[_force(text) for text in overrides])
        plain = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(plain, dict)
        for key in _keys(plain):
            _check_key(key, str(path))
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain))
    except (YAMLError, UnicodeDecodeError) as error:
        raise MedoodError(f"{path} is not valid YAML: {_one_line(error)}") from error
    except ConfigKeyError as error:
        raise MedoodError(f"{path}: {_one_line(error)}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise MedoodError(f"{path} with {list(overrides)}: {_one_line(error)}") from error
    assert isinstance(config, RunConfig)
    _check_values(config)
    return config


@contextmanager
def _config_folder(path: Path) -> Iterator[str]:
    """The folder Hydra composes from: the file's own where it has a defaults list, else a scratch folder with a copy.

    Beside a file, Hydra would take any folder named like a key (``out``) for a group of configurations.
    """
    text = path.read_text(encoding="utf-8")
    if any(line.startswith("defaults:") for line in text.splitlines()):
        yield str(path.resolve().parent)
        return
    with tempfile.TemporaryDirectory(prefix="medood-") as scratch:
        (Path(scratch) / f"{path.stem}.yaml").write_text(text, encoding="utf-8")
        yield scratch


def config_keys() -> Iterator[tuple[str, Any, str]]:
    """Every key of the schema with its default and the line that explains it."""
    yield from _schema(RunConfig, "")


def _schema(cls: type, prefix: str) -> Iterator[tuple[str, Any, str]]:
    described = _descriptions(cls)
    for item in dataclasses.fields(cls):
        default = item.default if item.default is not dataclasses.MISSING else None
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        if dataclasses.is_dataclass(default):
            yield from _schema(type(default), f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", default, described.get(item.name, "")


def _descriptions(cls: type) -> dict[str, str]:
    """The ``Attributes`` section of a schema's docstring; it is the one place where keys are explained."""
    lines: dict[str, str] = {}
    for line in (cls.__doc__ or "").partition("Attributes:")[2].splitlines():
        name, colon, text = line.strip().partition(": ")
        if colon:
            lines[name] = text
    return lines


def _keys(tree: dict[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in ("model.arguments", "negatives.mixture"):
            yield from _keys(value, f"{name}.")
        else:
            yield name


def _check_key(key: str, where: str) -> None:
    known = [name for name, _, _ in config_keys()]
    groups = {name.split(".")[0] for name in known if "." in name}
    if key in known or key in groups or key.startswith(("model.arguments.", "negatives.mixture.")):
        return
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    raise MedoodError(f"{where}: the key {key!r} is not known. Did you mean {nearest[0]!r}? See medood train --help.")


def _force(override: str) -> str:
    """Let an override set a schema key that the file leaves out; the key itself was checked before."""
    if override.startswith("~"):
        return override
    key, _, value = override.lstrip("+").partition("=")
    if key in _TEXT_KEYS and value[:1] not in ("'", '"'):
        tail = len(value) - len(value.rstrip("\\"))  # Hydra reads backslashes as they are, but for those before a quote
        value = "'" + value.replace("'", "\\'") + "\\" * tail + "'"
    return f"++{key}={value}"


def _check_values(config: RunConfig) -> None:
    rules = [
        (config.preprocess.fit in ("squash", "letterbox"), "preprocess.fit", config.preprocess.fit, "squash, letterbox"),
        (config.preprocess.size >= 16, "preprocess.size", config.preprocess.size, "at least 16"),
        (config.views.global_count >= 2, "views.global_count", config.views.global_count, "at least 2"),
        (config.train.epochs >= 1, "train.epochs", config.train.epochs, "at least 1"),
        (config.train.batch_size >= 2, "train.batch_size", config.train.batch_size, "at least 2"),
        (config.data.limit >= 0, "data.limit", config.data.limit, "at least 0"),
        (config.views.aspect >= 1.0, "views.aspect", config.views.aspect, "at least 1"),
        (config.views.local_count >= 0, "views.local_count", config.views.local_count, "at least 0"),
        (config.negatives.count >= 0, "negatives.count", config.negatives.count, "at least 0"),
        (config.train.device in ("auto", "cpu", "cuda"), "train.device", config.train.device, "auto, cpu, cuda"),
        (
            config.train.precision in ("auto", "32-true", "bf16-mixed"),
            "train.precision",
            config.train.precision,
            "auto, 32-true, bf16-mixed",
        ),
        (
            0.0 <= config.train.center_momentum < 1.0,
            "train.center_momentum",
            config.train.center_momentum,
            "at least 0 and below 1",
        ),
        (
            not any(name.startswith("perm") and config.preprocess.size % 4 for name in config.negatives.mixture),
            "preprocess.size",
            config.preprocess.size,
            "a multiple of 4, for the permutations of negatives.mixture",
        ),
        (
            0.0 < config.data.calibration_fraction < 1.0,
            "data.calibration_fraction",
            config.data.calibration_fraction,
            "above 0 and below 1",
        ),
        (
            all(weight >= 0 for weight in config.negatives.mixture.values()),
            "negatives.mixture",
            config.negatives.mixture,
            "weights of at least 0",
        ),
    ]
    for name in ("learning_rate", "student_temperature", "gradient_clip"):
        value = getattr(config.train, name)
        rules.append((0.0 < value < math.inf, f"train.{name}", value, "a number above 0"))
    for name in ("global_scale", "local_scale"):
        value = getattr(config.views, name)
        rules.append((_is_range(value), f"views.{name}", value, "two numbers a <= b in (0, 1]"))
    rules.append((_is_range(config.negatives.scale), "negatives.scale", config.negatives.scale, "two numbers in (0, 1]"))
    for name in ("weight_decay", "teacher_temperature", "teacher_momentum"):
        value = getattr(config.train, name)
        rules.append((len(value) == 2 and min(value) >= 0, f"train.{name}", value, "two numbers of at least 0: first, last"))
    for holds, key, value, expected in rules:
        if not holds:
            raise MedoodError(f"{key} is {value!r}; expected {expected}.")


def _is_range(value: list[float]) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1] <= 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def shipped(name: str) -> Path:
    """The path of a file of ``configs/`` or ``datasets/``: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    for base in (package, package.parent):
        if (base / name).is_file():
            return base / name
    raise MedoodError(f"{name} is missing from this installation of medood; install it again.")
