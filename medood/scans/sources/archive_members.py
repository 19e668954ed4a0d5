"""Common parts of zip and tar archives: members, their names, and limits on both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from medood.reasons import Reason
from medood.scans.scan import Identity, Refusal, RefusedError, Status

#: Longest name of a member, in characters; a member with a longer name is refused, and its row shows the beginning.
LONGEST_NAME = 4096
_SHOWN = 200


@dataclass(frozen=True)
class Member:
    """One file of an archive.

    Attributes:
        name: the name as spelled in the archive.
        index: the position in the archive; two members may have the same name.
        size: the size in bytes, as stated in the archive.
        stream: the bytes, to be read before the next member is requested; None if they are opened by index (zip).
    """

    name: str
    index: int
    size: int
    stream: BinaryIO | None = None


def check_member_name(name: str) -> None:
    """Refuse names that point outside the archive, although members are never unpacked under their names.

    Raises:
        RefusedError: the name is absolute, holds ``..`` or a drive, is empty or too long.
    """
    if len(name) > LONGEST_NAME:
        raise RefusedError(Status.TOO_LARGE, Reason("member_name_too_long", length=len(name), limit=LONGEST_NAME))
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        raise RefusedError(Status.UNSAFE_PATH, Reason("member_name_outside"))


def joined(member: str, name: str) -> str:
    """Join a member and a name inside it with ``!``, shortening a name that is too long."""
    name = name if len(name) <= LONGEST_NAME else f"{name[:_SHOWN]}..."
    return f"{member}!{name}" if member else name


def refused(where: Identity, name: str, error: RefusedError) -> Refusal:
    """Return the refusal of a member that was not read."""
    return Refusal(Identity(where.source, joined(where.member, name)), error.status, error.reason)
