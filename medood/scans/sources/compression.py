"""Unpack gzip, xz, bzip2 and Zstandard streams within limits of size, ratio and memory."""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import tarfile
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

from backports import zstd

from medood.config.schema import ReadConfig
from medood.reasons import Reason
from medood.scans.scan import RefusedError, Status

_GZIP, _XZ, _BZIP2, _ZSTANDARD = b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"BZh", b"\x28\xb5\x2f\xfd"
#: Bytes after the first one in a frame that Zstandard decoders skip.
_SKIPPABLE = b"\x2a\x4d\x18"
#: Below this many unpacked bytes, the ratio to the packed bytes is not checked.
RATIO_COUNTS_FROM = 64 * 1024**2
#: Bytes unpacked at a time.
PIECE = 1024**2
#: Bytes needed to detect a format, and to unpack the beginning of a stream (a bzip2 block has up to 900 kB).
PEEK, PACKED_PEEK = 1024, 1024**2


def is_compressed(start: bytes) -> bool:
    """Return whether the first bytes are those of gzip, xz, bzip2 or Zstandard."""
    return start.startswith((_GZIP, _XZ, _BZIP2, _ZSTANDARD))


def is_tar(start: bytes) -> bool:
    """Return whether the first 512 bytes are a tar header with a valid checksum."""
    try:
        tarfile.TarInfo.frombuf(start[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def holds_tar(start: bytes, options: ReadConfig) -> bool:
    """Return whether the first ``PACKED_PEEK`` bytes of a compressed file unpack to the beginning of a tar."""
    beginning = b""
    with contextlib.suppress(Exception):  # a damaged file is reported when it is read
        beginning = io.BufferedReader(Unpacked(io.BytesIO(start), start, options), PEEK).peek()
    return is_tar(beginning)


class _GzipDecoder:
    """``zlib.decompressobj`` with the interface of the other decompressors; checks the CRC."""

    def __init__(self) -> None:
        self._decoder, self._rest = zlib.decompressobj(31), b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        output = self._decoder.decompress(self._rest + data, max_length)
        self._rest = self._decoder.unconsumed_tail
        return output

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def needs_input(self) -> bool:
        return not self._rest

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data


def _decoder(start: bytes, options: ReadConfig) -> Any:
    """Return the decompressor for a stream that begins with ``start``; None if it is not compressed."""
    if start.startswith(_GZIP):
        return _GzipDecoder()
    if start.startswith(_XZ):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=options.max_decoder_memory)
    if start.startswith(_BZIP2):
        return bz2.BZ2Decompressor()
    if start.startswith(_ZSTANDARD) or start[1:4] == _SKIPPABLE:
        window_log = min(31, max(10, options.max_decoder_memory.bit_length() - 1))
        return zstd.ZstdDecompressor(options={int(zstd.DecompressionParameter.window_log_max): window_log})
    return None


class Unpacked(io.RawIOBase):
    """A stream that unpacks the packed streams of another, one after the other, and raises once it exceeds a limit.

    Args:
        packed: a gzip, xz, bzip2 or Zstandard stream; any other is passed through.
        start: its first bytes.
        options: the limits.

    Attributes:
        starts: offset in the unpacked bytes at which each packed stream after the first began.
        behind: number of bytes after the last packed stream; zeros, which writers use as padding, do not count.
        is_over: a limit was reached, and nothing more can be read.

    Raises:
        RefusedError: while reading, over a limit.
        EOFError: while reading, the last stream is cut.
    """

    def __init__(self, packed: BinaryIO, start: bytes, options: ReadConfig) -> None:
        self._packed, self._options = packed, options
        self._decoder: Any = _decoder(start, options)
        self._is_packed, self._read = self._decoder is not None, 0
        self.starts: list[int] = []
        self.behind = 0
        self.is_over = False

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: object) -> int:
        """Read into a buffer and check the limits."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        content = self._unpack(len(view)) if self._is_packed else self._packed.read(len(view))
        view[: len(content)] = content
        self._read += len(content)
        if self._read > self._options.max_unpacked:
            raise self._over(Reason("unpacks_over_limit", limit=self._options.max_unpacked))
        packed = self._packed.tell()
        if self._read > RATIO_COUNTS_FROM and self._read > self._options.max_ratio * packed:
            raise self._over(Reason("unpacks_over_ratio", limit=self._options.max_ratio))
        return len(content)

    def _over(self, reason: Reason) -> RefusedError:
        self.is_over = True
        return RefusedError(Status.TOO_LARGE, reason)

    def _unpack(self, most: int) -> bytes:
        while self._decoder is not None:
            if self._decoder.eof:
                self._next(self._decoder.unused_data)
                continue
            data = self._packed.read(PIECE) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not data:
                raise EOFError("the file is cut: it ends inside its packed data")
            content = self._decompress(self._decoder, data, most)
            if content:
                return content
        return b""

    def _decompress(self, decoder: Any, data: bytes, most: int) -> bytes:
        try:
            content: bytes = decoder.decompress(data, most)
            return content
        except (lzma.LZMAError, zstd.ZstdError) as error:
            if "emory" not in str(error):
                raise
            limit = self._options.max_decoder_memory
            raise self._over(Reason("unpacking_needs_memory", limit=limit)) from error

    def _next(self, rest: bytes) -> None:
        """Begin the next packed stream after one has ended, or count the bytes that follow instead."""
        rest = rest.lstrip(b"\0")
        while len(rest) < len(_XZ) and (more := self._packed.read(PIECE)):
            rest = (rest + more).lstrip(b"\0")
        self._decoder = _decoder(rest, self._options)
        if self._decoder is None:
            self.behind = len(rest)
            while more := self._packed.read(PIECE):
                self.behind += len(more)
            return
        self.starts.append(self._read)
        # the decoder holds the bytes already read; the next call unpacks them
        self._decoder = _Begun(self._decoder, rest)


class _Begun:
    """A decompressor that already holds its first bytes."""

    def __init__(self, decoder: Any, rest: bytes) -> None:
        self._decoder, self._rest = decoder, rest

    def decompress(self, data: bytes, max_length: int) -> bytes:
        rest, self._rest = self._rest, b""
        output: bytes = self._decoder.decompress(rest + data, max_length)
        return output

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def needs_input(self) -> bool:
        return not self._rest and self._decoder.needs_input

    @property
    def unused_data(self) -> bytes:
        return bytes(self._decoder.unused_data)


@dataclass(frozen=True)
class Plain:
    """The unpacked content of a compressed file.

    Attributes:
        content: the unpacked bytes.
        starts: offset in them at which each packed stream after the first began.
        behind: number of bytes after the last packed stream, which were not read.
    """

    content: bytes
    starts: tuple[int, ...] = ()
    behind: int = 0


def unpack(content: bytes, options: ReadConfig) -> Plain:
    """Unpack one compressed file.

    Raises:
        RefusedError: it is damaged or exceeds a limit.
    """
    stream = Unpacked(io.BytesIO(content), content[:PEEK], options)
    try:
        plain = in_pieces(stream, options)
    except RefusedError:
        raise
    except EOFError as error:
        raise RefusedError(Status.UNREADABLE, Reason("packed_data_cut", actual=len(content))) from error
    except Exception as error:  # each decompressor fails in its own way on damaged files
        raise RefusedError(Status.UNREADABLE, Reason("file_not_unpacked")) from error
    return Plain(plain, tuple(stream.starts), stream.behind)


def in_pieces(stream: Any, options: ReadConfig) -> bytes:
    """Read a whole stream in pieces, so that a wrongly stated size never allocates memory.

    Raises:
        RefusedError: it is longer than the limit.
    """
    content = io.BytesIO()
    while piece := stream.read(PIECE):
        content.write(piece)
        if content.tell() > options.max_bytes:
            raise RefusedError(Status.TOO_LARGE, Reason("file_too_large", limit=options.max_bytes))
    return content.getvalue()
