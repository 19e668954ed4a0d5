"""What zip and tar archives have in common: members, their names, and limits on both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from medood.scans.scan import Identity, Refusal, RefusedError, Status

#: Longest name of a member, in characters; a longer one costs the member, and rows show its beginning.
LONGEST_NAME = 4096
_SHOWN = 200


@dataclass(frozen=True)
class Member:
    """One file of an archive.

    Attributes:
        name: as the archive spells it.
        index: its place in the archive; two members may have one name.
        size: in bytes, as the archive states it.
        stream: its bytes, to be read before the next member is asked for; none where they are opened by the index (zip).
    """

    name: str
    index: int
    size: int
    stream: BinaryIO | None = None


def check_member_name(name: str) -> None:
    """Refuse names that lead out of the archive, although no member is unpacked under its name.

    Raises:
        RefusedError: the name is absolute, holds ``..`` or a drive, is empty or too long.
    """
    if len(name) > LONGEST_NAME:
        raise RefusedError(
            Status.TOO_LARGE, f"the member's name has {len(name):,} characters, the limit is {LONGEST_NAME:,}"
        )
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name):
        raise RefusedError(Status.UNSAFE_PATH, "the member's name leads out of the archive; it was not opened")


def joined(member: str, name: str) -> str:
    """The name of a member inside a member, written with ``!`` between them; of one too long its beginning."""
    name = name if len(name) <= LONGEST_NAME else f"{name[:_SHOWN]}..."
    return f"{member}!{name}" if member else name


def refused(where: Identity, name: str, error: RefusedError) -> Refusal:
    """The row of a member that was not read."""
    return Refusal(Identity(where.source, joined(where.member, name)), error.status, error.reason)
