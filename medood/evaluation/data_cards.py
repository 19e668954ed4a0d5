"""Data cards of public data sets: contents, licence, known faults, and the recipe for a manifest."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from medood.config.resources import shipped_file
from medood.errors import MedoodError


@dataclass(frozen=True)
class Table:
    """A label table of a data set: CSV, TSV (by its suffix) or a JSON list of objects.

    Attributes:
        files: possible file names; the first one that exists is read.
        key: the column that names the image.
        match: part of an image's path that this column holds: ``name``, ``stem``, or a regular expression with one group.
        key_pattern: a regular expression whose first group is the part of that column to compare; empty compares all of it.
        optional: whether the data set can be used without this table.
    """

    files: list[str]
    key: str
    match: str = "name"
    key_pattern: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Rule:
    """Assigns a group and a data set's name to images for which all conditions hold; the first matching rule applies.

    Attributes:
        group: ``normal`` (in-distribution or id_shift, as the user chooses), ``near`` or ``far``.
        dataset: name in the manifest; its first word is the source that it shares with others.
        when: regular expression by column (or ``path``) that must match somewhere in its value.
    """

    group: str
    dataset: str
    when: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How files become rows of a manifest.

    Attributes:
        files: glob patterns below the data set's folder.
        tables: label tables; rows of one image are merged, different values joined with ``|``.
        patient: column (or ``path``) and a regular expression whose first group is the patient; empty if unknown.
        rules: see :class:`Rule`.
    """

    files: list[str]
    rules: list[Rule]
    tables: list[Table] = field(default_factory=list)
    patient: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """One data set.

    Attributes:
        key: name on the command line.
        name: full name.
        what: its contents.
        owner: its owner.
        source: where the owner publishes it.
        doi: of the data, or of the paper; empty if none is known.
        paper: paper to cite.
        licence: terms of use.
        allows: what the licence allows, in a sentence.
        layout: folders and files as they are published.
        biases: known biases and label faults.
        unchecked: statements of this card that could not be checked against a stored source; check them with the owner.
        recipe: how to make a manifest from it.
    """

    key: str
    name: str
    what: str
    owner: str
    source: str
    doi: str
    paper: str
    licence: str
    allows: str
    layout: str
    biases: list[str]
    unchecked: list[str]
    recipe: Recipe


def cards() -> list[Card]:
    """Every card that medood ships, by key."""
    folder = shipped_file("datasets/phantom.yaml").parent
    return [load_card(path) for path in sorted(folder.glob("*.yaml")) if path.stem != "phantom"]


def find_card(key: str) -> Card:
    """The card with the given key.

    Raises:
        MedoodError: no card has this key.
    """
    by_key = {card.key: card for card in cards()}
    if key not in by_key:
        nearest = difflib.get_close_matches(key, by_key, n=1, cutoff=0.0)[0]
        raise MedoodError(f"There is no data card {key!r}. Did you mean {nearest!r}? Known: {', '.join(by_key)}.")
    return by_key[key]


def load_card(path: Path) -> Card:
    """Read one card.

    Raises:
        MedoodError: a key is missing, unknown or of the wrong kind.
    """
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipe = body.pop("recipe")
        parsed = Recipe(
            files=recipe.pop("files"),
            rules=[Rule(**rule) for rule in recipe.pop("rules")],
            tables=[Table(**table) for table in recipe.pop("tables", [])],
            patient=recipe.pop("patient", {}),
        )
        if recipe:
            raise TypeError(f"recipe has the unknown keys {', '.join(recipe)}")
        card = Card(key=path.stem, recipe=parsed, **body)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise MedoodError(f"The data card {path} cannot be used: {' '.join(str(error).split())[:300]}.") from error
    _check(card, path)
    return card


def _check(card: Card, path: Path) -> None:
    for item in fields(Card):
        value: Any = getattr(card, item.name)
        if item.name not in ("doi", "unchecked") and not value:
            raise MedoodError(f"The data card {path} states no {item.name}.")
    patterns = [text for rule in card.recipe.rules for text in rule.when.values()]
    patterns += [*card.recipe.patient.values(), *(t.match for t in card.recipe.tables if t.match not in ("name", "stem"))]
    patterns += [table.key_pattern for table in card.recipe.tables]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise MedoodError(f"The data card {path}: {pattern!r} is not a regular expression: {error}.") from error
    for rule in card.recipe.rules:
        if rule.group not in ("normal", "near", "far"):
            raise MedoodError(f"The data card {path}: the group is {rule.group!r}; expected normal, near or far.")
