"""Read the members of tar archives in one pass over a stream, within limits."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from medood.config.schema import ReadConfig
from medood.reasons import Reason
from medood.scans.scan import Identity, Refusal, RefusedError, Status
from medood.scans.sources.archive_members import Member, check_member_name, refused

#: Largest header that describes a member (a long name, extended attributes).
_MAX_HEADER = 1024**2

# aliases for methods whose parameter shadows the module tarfile
_END, _ENDS_TOO_SOON = tarfile.EOFHeaderError, tarfile.EmptyHeaderError  # type: ignore[attr-defined]
_NOT_A_HEADER = (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError)  # type: ignore[attr-defined]
_BLOCK = tarfile.BLOCKSIZE


class _DamagedError(tarfile.ReadError):
    """A damaged archive."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def tar_members(stream: BinaryIO, where: Identity, options: ReadConfig) -> Iterator[Member | Refusal]:
    """Yield the members of a tar in stored order, in one pass over the stream.

    Concatenated archives are read as one.

    Raises:
        RefusedError: the archive is damaged, exceeds a limit, or is followed by bytes that are not a tar; members yielded
            before remain valid.
    """
    index = 0
    try:
        mode: Any = "r|"
        with tarfile.open(
            fileobj=stream, mode=mode, tarinfo=_Header, errors="surrogateescape", ignore_zeros=True
        ) as archive:
            while (info := archive.next()) is not None:
                archive.pax_headers = {}  # otherwise global headers of a stream accumulate
                archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header of a stream
                if info.isdir():
                    continue
                if index >= options.max_members:
                    raise RefusedError(Status.TOO_LARGE, Reason("archive_over_members", limit=options.max_members))
                try:
                    _check_member(info)
                except RefusedError as error:
                    yield refused(where, info.name, error)
                else:
                    content = archive.extractfile(info)
                    assert content is not None
                    yield Member(info.name, index, info.size, content)  # type: ignore[arg-type]
                index += 1
    except RefusedError:
        raise
    except _DamagedError as error:
        raise RefusedError(Status.UNREADABLE, Reason("archive_problem", problem=error.reason, count=index)) from error
    except EOFError as error:
        raise RefusedError(Status.UNREADABLE, Reason("archive_cut", count=index)) from error
    except Exception as error:  # tarfile and the four decompressors each fail in their own way on damaged archives
        raise RefusedError(Status.UNREADABLE, Reason("archive_damaged", count=index)) from error
    if not index:
        raise RefusedError(Status.NOT_AN_IMAGE, Reason("archive_empty"))


def _check_member(info: tarfile.TarInfo) -> None:
    check_member_name(info.name)
    if info.issym() or info.islnk():
        raise RefusedError(Status.UNSAFE_PATH, Reason("member_is_link"))
    if info.issparse():
        raise RefusedError(Status.UNSUPPORTED_SYNTAX, Reason("member_sparse"))
    if not info.isfile():
        raise RefusedError(Status.NOT_AN_IMAGE, Reason("member_not_a_regular_file"))


class _Header(tarfile.TarInfo):
    """A tar header that raises if it is damaged or missing, and never allocates much memory.

    tarfile takes a damaged header for the end of the archive, or skips it if set to continue after an end mark; either
    way, what follows would be lost silently.
    """

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> _Header:
        """Read the next header. Only blocks of zeros end an archive; another one may follow them."""
        has_ended = getattr(tarfile, "has_ended", False)
        try:
            header = super().fromtarfile(tarfile)
        except _END:
            tarfile.has_ended = True
            raise
        except _ENDS_TOO_SOON:
            if has_ended:
                raise
            raise _DamagedError(Reason("tar_end_missing")) from None
        except _NOT_A_HEADER as error:
            if has_ended:
                raise _DamagedError(Reason("tar_followed")) from error
            raise _DamagedError(Reason("tar_header_damaged")) from error
        tarfile.has_ended = False
        return header

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Parse a header and check its size against the limit."""
        if len(buf) < _BLOCK and not any(buf):
            raise _ENDS_TOO_SOON("zeros fill no block")
        header = super().frombuf(buf, encoding, errors)
        is_data = header.isfile() or header.isdev() or header.isdir()
        if not is_data and header.size > _MAX_HEADER:
            raise _DamagedError(Reason("tar_header_too_long"))
        return header

    def _proc_sparse(self, tarfile: Any) -> _Header:
        """Skip an old GNU sparse member without keeping its map, whose length an archive could make arbitrary."""
        _, is_extended, size = self._sparse_structs  # type: ignore[attr-defined]
        del self._sparse_structs  # type: ignore[attr-defined]
        while is_extended:
            block = tarfile.fileobj.read(_BLOCK)
            if len(block) < _BLOCK:
                raise _DamagedError(Reason("tar_header_cut"))
            is_extended = bool(block[504])
        self.sparse = b""
        self.offset_data = tarfile.fileobj.tell()
        tarfile.offset = self.offset_data + self._block(self.size)  # type: ignore[attr-defined]
        self.size = size
        return self

    def _proc_gnusparse_00(self, next: Any, *_: Any) -> None:
        """Mark a sparse member of a later format, without keeping its map."""
        next.sparse = b""

    def _proc_gnusparse_01(self, next: Any, *_: Any) -> None:
        next.sparse = b""

    def _proc_gnusparse_10(self, next: Any, *_: Any) -> None:
        next.sparse = b""
