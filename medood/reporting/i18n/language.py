"""Report texts in the reader's language, stored by name in ``strings.json``."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from medood.errors import MedoodError
from medood.reasons import Reason, sentence

#: Languages of a report by code, each with its own name for itself.
LANGUAGES = {"en": "English", "de": "Deutsch"}


class Language:
    """The report texts of one language.

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

    def reason(self, reason: str) -> str:
        """A row's reason in this language; rows of before 0.2.0 hold a sentence in English, which is returned as it is."""
        return sentence(reason.stored(), self.code) if isinstance(reason, Reason) else reason

    def say(self, name: str, /, **values: Any) -> str:
        """A text with its values filled in; numbers keep the decimal point, as in every file that medood writes."""
        return self.words[name].format(**values)


ENGLISH = Language("en")
