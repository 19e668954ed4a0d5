"""Names of commands and options that changed in 0.2; the old ones work until 0.3, with a hint."""

from __future__ import annotations

from collections.abc import Sequence

_COMMANDS = {"bench": "speed", "faithfulness": "check-maps"}
_OPTIONS = {
    "report": {"--pictures": "--images", "--no-pictures": "--no-images", "--known": "--training-scans"},
    "benchmark": {"--peer": "--external"},
    "negatives": {"--png": "--out"},
}


def current_names(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command-line arguments with old names replaced, and a hint for each name that was replaced.

    Args:
        arguments: what follows the program's name; the command comes first.
    """
    if not arguments:
        return [], []
    hints = []
    command, *rest = arguments
    if command in _COMMANDS:
        hints.append(f"medood {command} is now called medood {_COMMANDS[command]}")
        command = _COMMANDS[command]
    renamed = [command]
    for argument in rest:
        option, equals, value = argument.partition("=")
        current = _OPTIONS.get(command, {}).get(option)
        if current:
            hints.append(f"the option {option} is now called {current}")
        renamed.append(f"{current or option}{equals}{value}")
    return renamed, [f"{hint}; the old name will be removed in 0.3" for hint in hints]
