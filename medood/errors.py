"""Exceptions shown to the user as one sentence, without a traceback, and the exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """How a command ended; the text of each is its line in the documentation."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        """A code with its meaning."""
        member = int.__new__(cls, value)
        member._value_, member.meaning = value, meaning
        return member

    DONE = 0, "The command finished, whatever it flagged. Files that cannot be read are rows, not errors."
    FAULT = 1, "A fault of medood itself. Please report it with its traceback."
    USAGE = 2, "Something that the user can put right; standard error says what in one sentence."
    COLLAPSED = 3, "Training collapsed: the network gives the same output for every image, or the loss is not a number."
    INCOMPLETE = (
        4,
        "Done in part: no scan got a score, a named source could not be read to its end (not checked with "
        "--watch or --shard), or a PACS did not take every object.",
    )
    INTERRUPTED = 130, "Interrupted by Ctrl-C (SIGINT). Training and screening resume with --resume."
    TERMINATED = 143, "Asked to stop (SIGTERM). Training and screening resume with --resume."


class MedoodError(Exception):
    """An error that the user can fix. The message says what is wrong and where, what was expected and what to do next."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE


class BusyError(MedoodError):
    """Another process is writing to the same folder."""


class StoppedError(MedoodError):
    """The run was interrupted and can be resumed."""
