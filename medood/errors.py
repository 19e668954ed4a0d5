"""The errors a user sees: a sentence, never a traceback."""


class MedoodError(Exception):
    """Something the user can put right. The message says what was wrong, where, what was expected, what to do next."""


class BusyError(MedoodError):
    """Another process writes there."""


class StoppedError(MedoodError):
    """The run was asked to end, and can go on."""
