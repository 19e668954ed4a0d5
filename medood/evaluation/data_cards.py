"""Data cards: what a public data set is, what its licence allows, what is wrong with it, and how it becomes a manifest."""

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
        files: names it may have; the first that is there is read.
        key: the column that names the picture.
        match: what of a picture's path that column holds: ``name``, ``stem``, or a regular expression with one group.
        key_pattern: a regular expression whose first group is the part of that column to compare; empty takes all of it.
        optional: whether the set can be read without it.
    """

    files: list[str]
    key: str
    match: str = "name"
    key_pattern: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Rule:
    """Pictures for which every condition holds get a group and a data set's name; the first rule that holds decides.

    Attributes:
        group: ``normal`` (in-distribution or id_shift, as the user says), ``near`` or ``far``.
        dataset: name in the manifest; its first word is the source that it shares with others.
        when: column (or ``path``) to a regular expression that must be found in its value.
    """

    group: str
    dataset: str
    when: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How files become rows of a manifest.

    Attributes:
        files: glob patterns below the data set's folder.
        tables: label tables; rows of one picture are merged, different values joined with ``|``.
        patient: column (or ``path``) and a regular expression whose first group is the patient; empty where unknown.
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
        what: what it holds.
        owner: who made it.
        source: where its owner publishes it.
        doi: of the data, or of the paper; empty where none is known.
        paper: what to cite.
        licence: its terms.
        allows: what they allow, in a sentence.
        layout: folders and files as they are published.
        biases: known biases and label faults.
        unchecked: statements of this card that could not be checked against a stored source; check them with the owner.
        recipe: how it becomes a manifest.
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
    """The card of a name.

    Raises:
        MedoodError: there is none.
    """
    known = {card.key: card for card in cards()}
    if key not in known:
        nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        raise MedoodError(f"There is no data card {key!r}. Did you mean {nearest!r}? Known: {', '.join(known)}.")
    return known[key]


def load_card(path: Path) -> Card:
    """Read one card.

    Raises:
        MedoodError: a key is missing, unknown or of the wrong kind.
    """
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
        recipe = body.pop("recipe")
        made = Recipe(
            files=recipe.pop("files"),
            rules=[Rule(**rule) for rule in recipe.pop("rules")],
            tables=[Table(**table) for table in recipe.pop("tables", [])],
            patient=recipe.pop("patient", {}),
        )
        if recipe:
            raise TypeError(f"recipe has the unknown keys {', '.join(recipe)}")
        card = Card(key=path.stem, recipe=made, **body)
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
            raise MedoodError(f"The data card {path}: {pattern!r} is no regular expression: {error}.") from error
    for rule in card.recipe.rules:
        if rule.group not in ("normal", "near", "far"):
            raise MedoodError(f"The data card {path}: the group {rule.group!r} is none of normal, near, far.")
