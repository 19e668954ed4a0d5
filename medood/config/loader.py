"""Load a run's configuration: Hydra merges a YAML file and ``key=value`` overrides into the schema; unknown keys fail."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medood.config.schema import RunConfig
from medood.errors import MedoodError

#: Keys whose values are taken literally, so that a path needs no quoting for Hydra's grammar.
_TEXT_KEYS = (
    "name",
    "out",
    "data.domain",
    "data.root",
    "data.calibration_root",
    "data.cache",
    "read.select",
    "read.frames",
    "model.weights",
)
#: Keys whose values are lists of such strings; a string that contains a comma needs quotes.
_TEXT_LIST_KEYS = ("negatives.auxiliary", "detector.members")
#: Those of :data:`medood.negatives.mixture.SHIFTS` that are made for grey radiographs, and refused in colour.
GREY_SHIFTS = ("opacity", "haze", "effusion", "infiltrate", "reticular", "nodules", "lucency", "foreign_structure")
#: Keys whose value is a mapping with arbitrary keys.
_OPEN_GROUPS = ("model.arguments", "negatives.mixture", "negatives.auxiliary_mixture", "lesions.mixture", "lesions.faults")


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Merge a configuration file and overrides into the schema.

    Args:
        path: a YAML file.
        overrides: ``key=value`` strings in Hydra's grammar. A whole mapping (``negatives.mixture={rot: 1}``) replaces the
            file's; ``negatives.mixture.rot=1`` changes a single weight.

    Raises:
        MedoodError: the file is missing or is not YAML, a key is unknown, a value has the wrong type or range.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
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
        for override in OverridesParser.create().parse_overrides([_force(text) for text in overrides]):
            _settle(plain, override)
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
    """Yield the folder that Hydra reads: the file's own if it has a defaults list, else a temporary folder with a copy.

    Hydra would take any folder next to the file that is named like a key (``out``) for a config group.
    """
    text = path.read_text(encoding="utf-8")
    if any(line.startswith("defaults:") for line in text.splitlines()):
        yield str(path.resolve().parent)
        return
    with tempfile.TemporaryDirectory(prefix="medood-") as scratch:
        (Path(scratch) / f"{path.stem}.yaml").write_text(text, encoding="utf-8")
        yield scratch


def config_keys() -> Iterator[tuple[str, Any, str]]:
    """Yield every key of the schema with its default and its description."""
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
    """Parse the ``Attributes`` section of a schema's docstring, the only place where keys are described."""
    lines: dict[str, str] = {}
    for line in (cls.__doc__ or "").partition("Attributes:")[2].splitlines():
        name, colon, text = line.strip().partition(": ")
        if colon:
            lines[name] = text
    return lines


def _keys(tree: dict[Any, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in _OPEN_GROUPS:
            yield from _keys(value, f"{name}.")
        else:
            yield name


def _check_key(key: str, where: str) -> None:
    valid_keys = [name for name, _, _ in config_keys()]
    groups = {name.split(".")[0] for name in valid_keys if "." in name}
    if key in valid_keys or key in groups or key.startswith(tuple(f"{name}." for name in _OPEN_GROUPS)):
        return
    nearest = difflib.get_close_matches(key, valid_keys, n=1, cutoff=0.0)
    raise MedoodError(f"{where}: the key {key!r} is not known. Did you mean {nearest[0]!r}? See medood train --help.")


def _force(override: str) -> str:
    """Rewrite an override so that it can also set a key that the file omits; the key itself is checked elsewhere."""
    if override.startswith("~"):
        return override
    key, _, value = override.lstrip("+").partition("=")
    if key in _TEXT_KEYS:
        value = _quote(value)
    elif key in _TEXT_LIST_KEYS and value.startswith("[") and value.endswith("]"):
        items = re.findall(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,]+)\s*(?:,|$)""", value[1:-1])
        value = f"[{','.join(_quote(item.strip()) for item in items)}]"
    return f"++{key}={value}"


def _quote(value: str) -> str:
    """Quote a string for Hydra's grammar, unless it is already quoted."""
    if value[:1] in ("'", '"'):
        return value
    tail = len(value) - len(value.rstrip("\\"))  # Hydra reads backslashes literally, except before a quote
    return "'" + value.replace("'", "\\'") + "\\" * tail + "'"


def _settle(plain: dict[Any, Any], override: Any) -> None:
    """Replace the file's mapping by one that an override gives as a whole; Hydra would merge the two."""
    group, *path = override.key_or_group.split(".")
    if ".".join([group, *path[:1]]) not in _OPEN_GROUPS or override.is_delete():
        return
    if len(path) == 1 and isinstance(override.value(), dict):
        plain[group][path[0]] = override.value()
    elif len(path) == 2:
        plain[group][path[0]][path[1]] = override.value()


def _check_values(config: RunConfig) -> None:
    rules = [
        (config.preprocess.fit in ("squash", "letterbox"), "preprocess.fit", config.preprocess.fit, "squash, letterbox"),
        (config.preprocess.channels in (1, 3), "preprocess.channels", config.preprocess.channels, "1 or 3"),
        *_colour_rules(config),
        (config.preprocess.size >= 16, "preprocess.size", config.preprocess.size, "at least 16"),
        (
            bool(config.preprocess.crops) and all(0.0 < share <= 1.0 for share in config.preprocess.crops),
            "preprocess.crops",
            config.preprocess.crops,
            "one or more fractions above 0 and at most 1, such as [0.8, 0.9, 1.0]",
        ),
        (
            config.model.size == 0 or 16 <= config.model.size <= config.preprocess.size,
            "model.size",
            config.model.size,
            "0, or at least 16 and at most preprocess.size",
        ),
        (
            not config.model.frozen or bool(config.model.weights),
            "model.frozen",
            config.model.frozen,
            "false, or the network in model.weights",
        ),
        (
            config.lesions.epochs == 0 or any(config.lesions.mixture.values()),
            "lesions.mixture",
            config.lesions.mixture,
            "weights above 0, or lesions.epochs=0",
        ),
        (
            config.detector.appearance or not (config.lesions.epochs or config.lesions.weights),
            "detector.appearance",
            config.detector.appearance,
            "true, because the lesion network sees registered radiographs",
        ),
        (config.lesions.epochs >= 0, "lesions.epochs", config.lesions.epochs, "at least 0"),
        (
            config.lesions.size >= 32 and config.lesions.size % 32 == 0,
            "lesions.size",
            config.lesions.size,
            "a multiple of 32",
        ),
        (config.lesions.batch_size >= 2, "lesions.batch_size", config.lesions.batch_size, "at least 2"),
        (0.0 <= config.lesions.healthy < 1.0, "lesions.healthy", config.lesions.healthy, "at least 0 and below 1"),
        (0.0 <= config.lesions.faulty < 1.0, "lesions.faulty", config.lesions.faulty, "at least 0 and below 1"),
        (0.0 <= config.lesions.momentum < 1.0, "lesions.momentum", config.lesions.momentum, "at least 0 and below 1"),
        (config.views.global_count >= 2, "views.global_count", config.views.global_count, "at least 2"),
        (config.train.epochs >= 0, "train.epochs", config.train.epochs, "at least 1, or 0 to derive it from the data"),
        (
            config.train.batch_size == 0 or config.train.batch_size >= 2,
            "train.batch_size",
            config.train.batch_size,
            "at least 2, or 0 to derive it from the data",
        ),
        (config.train.accumulate >= 1, "train.accumulate", config.train.accumulate, "at least 1"),
        (config.detector.bank_size >= 0, "detector.bank_size", config.detector.bank_size, "at least 0"),
        (config.data.limit >= 0, "data.limit", config.data.limit, "at least 0"),
        (config.views.aspect >= 1.0, "views.aspect", config.views.aspect, "at least 1"),
        (0.0 <= config.views.mirror <= 1.0, "views.mirror", config.views.mirror, "a probability"),
        (
            config.views.mirror == 0.0
            or not any(
                mixture.get("mirror", 0)
                for mixture in (config.negatives.mixture, config.lesions.faults, config.lesions.mixture)
            ),
            "views.mirror",
            config.views.mirror,
            "0 with mirror among negatives.mixture or lesions.faults: a mirrored scan cannot both belong and not",
        ),
        (config.views.detail >= 0.0, "views.detail", config.views.detail, "at least 0"),
        (config.views.local_count >= 0, "views.local_count", config.views.local_count, "at least 0"),
        (config.negatives.count >= 0, "negatives.count", config.negatives.count, "at least 0"),
        (
            config.negatives.local_count == 0 or (config.negatives.local_count > 0 and config.views.local_size % 4 == 0),
            "negatives.local_count",
            config.negatives.local_count,
            "0, or at least 1 with views.local_size a multiple of 4",
        ),
        (
            config.negatives.sources in ("in_distribution", "auxiliary", "both"),
            "negatives.sources",
            config.negatives.sources,
            "in_distribution, auxiliary, both",
        ),
        (
            config.negatives.sources == "in_distribution" or bool(config.negatives.auxiliary),
            "negatives.auxiliary",
            config.negatives.auxiliary,
            f"folders, because negatives.sources is {config.negatives.sources}",
        ),
        (
            config.negatives.mixture.get("image_as_is", 0) == 0 or config.negatives.sources == "auxiliary",
            "negatives.mixture",
            config.negatives.mixture,
            "no image_as_is: an unchanged in-distribution image is not a negative; put it into negatives.auxiliary_mixture",
        ),
        (
            not config.model.rotation_head or _has_known_turns(config),
            "model.rotation_head",
            config.model.rotation_head,
            "false without negatives.mixture.rot of in-distribution images, whose turns it learns, or with model.frozen",
        ),
        (config.train.centering in ("mean", "sinkhorn"), "train.centering", config.train.centering, "mean, sinkhorn"),
        (config.train.koleo >= 0, "train.koleo", config.train.koleo, "at least 0"),
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
            not any(name.startswith("perm") and config.network_size % 4 for name in config.negatives.mixture),
            "model.size or preprocess.size",
            config.network_size,
            "a multiple of 4, for the permutations of negatives.mixture",
        ),
        (
            all(
                weight >= 0 for weight in [*config.negatives.mixture.values(), *config.negatives.auxiliary_mixture.values()]
            ),
            "negatives.mixture",
            config.negatives.mixture,
            "weights of at least 0",
        ),
    ]
    for name in ("calibration_fraction", "development_fraction"):
        value = getattr(config.data, name)
        rules.append((0.0 < value < 1.0, f"data.{name}", value, "above 0 and below 1"))
    for name in ("learning_rate", "student_temperature", "gradient_clip"):
        value = getattr(config.train, name)
        rules.append((0.0 < value < math.inf, f"train.{name}", value, "a number above 0"))
    for name in ("global_scale", "local_scale"):
        value = getattr(config.views, name)
        rules.append((_is_range(value), f"views.{name}", value, "two numbers a <= b in (0, 1]"))
    rules.append((_is_range(config.negatives.scale), "negatives.scale", config.negatives.scale, "two numbers in (0, 1]"))
    for name in ("weight_decay", "teacher_temperature", "teacher_momentum"):
        value = getattr(config.train, name)
        left_open = not value and name != "weight_decay"
        holds = left_open or (len(value) == 2 and min(value) >= 0)
        rules.append((holds, f"train.{name}", value, "two numbers of at least 0: first, last"))
    for holds, key, value, expected in rules:
        if not holds:
            raise MedoodError(f"{key} is {value!r}; expected {expected}.")


def _colour_rules(config: RunConfig) -> list[tuple[bool, str, object, str]]:
    """What three channels rule out, and what one does."""
    if config.preprocess.channels == 1:
        changes = max(config.views.saturation, config.views.hue)
        return [(changes == 0.0, "views.saturation or views.hue", changes, "0, or preprocess.channels=3")]
    mixtures = (config.negatives.mixture, config.negatives.auxiliary_mixture)
    grey = sorted({name for mixture in mixtures for name, weight in mixture.items() if weight and name in GREY_SHIFTS})
    return [
        (not config.preprocess.equalize, "preprocess.equalize", True, "false with preprocess.channels=3"),
        (config.views.equalize == 0.0, "views.equalize", config.views.equalize, "0 with preprocess.channels=3"),
        (not config.detector.appearance, "detector.appearance", True, "false with preprocess.channels=3: it compares grey"),
        (not grey, "negatives.mixture", grey, "none of these with preprocess.channels=3: they are made for radiographs"),
        (0.0 <= config.views.saturation <= 1.0, "views.saturation", config.views.saturation, "between 0 and 1"),
        (0.0 <= config.views.hue <= 0.5, "views.hue", config.views.hue, "between 0 and 0.5"),
    ]


def _is_range(value: list[float]) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1] <= 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def _has_known_turns(config: RunConfig) -> bool:
    negatives = config.negatives
    has_turns = negatives.mixture.get("rot", 0) > 0 and negatives.sources != "auxiliary"
    return has_turns and negatives.count > 0 and not config.model.frozen
