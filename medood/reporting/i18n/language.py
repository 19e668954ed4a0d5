"""What reports say, in the reader's language. Every sentence lies in ``strings.json``, by name."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from medood.errors import MedoodError

#: Languages a report can be written in, and what each calls itself.
LANGUAGES = {"en": "English", "de": "Deutsch"}


class Language:
    """The sentences of one language.

    Args:
        code: one of ``LANGUAGES``.

    Raises:
        MedoodError: there is no such language.
    """

    def __init__(self, code: str) -> None:
        if code not in LANGUAGES:
            raise MedoodError(f"--language is {code!r}; expected one of {', '.join(LANGUAGES)}.")
        self.code = code
        every = json.loads((files("medood.reporting.i18n") / "strings.json").read_text(encoding="utf-8"))
        self.words: dict[str, str] = {name: texts[code] for name, texts in every.items()}

    def say(self, name: str, /, **values: Any) -> str:
        """A sentence with its values put in; figures keep the decimal point, as in every file that medood writes."""
        return self.words[name].format(**values)


ENGLISH = Language("en")
