"""gzip, xz, bzip2 and Zstandard streams, unpacked inside limits of size, ratio and memory."""

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
from medood.scans.scan import RefusedError, Status

_GZIP, _XZ, _BZIP2, _ZSTANDARD = b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"BZh", b"\x28\xb5\x2f\xfd"
#: Behind the first byte: a frame that Zstandard decoders skip.
_SKIPPABLE = b"\x2a\x4d\x18"
#: Below this many unpacked bytes the ratio to the packed ones says nothing.
RATIO_COUNTS_FROM = 64 * 1024**2
#: Bytes unpacked at a time.
PIECE = 1024**2
#: Bytes looked at to tell a format, and those that are enough to unpack its beginning (a block of bzip2 has up to 900 kB).
PEEK, PACKED_PEEK = 1024, 1024**2


def is_compressed(start: bytes) -> bool:
    """True where the first bytes are those of gzip, xz, bzip2 or Zstandard."""
    return start.startswith((_GZIP, _XZ, _BZIP2, _ZSTANDARD))


def is_tar(start: bytes) -> bool:
    """True where the first 512 bytes are a tar header whose checksum holds."""
    try:
        tarfile.TarInfo.frombuf(start[:512], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def holds_tar(start: bytes, options: ReadConfig) -> bool:
    """Whether the first ``PACKED_PEEK`` bytes of a compressed file unpack to the beginning of a tar."""
    beginning = b""
    with contextlib.suppress(Exception):  # a damaged file is told of when it is read
        beginning = io.BufferedReader(Unpacked(io.BytesIO(start), start, options), PEEK).peek()
    return is_tar(beginning)


class _GzipDecoder:
    """``zlib.decompressobj`` with the interface of the other decompressors; checks the CRC."""

    def __init__(self) -> None:
        self._decoder, self._rest = zlib.decompressobj(31), b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        unpacked = self._decoder.decompress(self._rest + data, max_length)
        self._rest = self._decoder.unconsumed_tail
        return unpacked

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
    """What unpacks a stream that begins so; none for anything else."""
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
    """A stream that unpacks another, one packed stream behind the other, and stops where it grows beyond the limits.

    Args:
        packed: gzip, xz, bzip2 or Zstandard; anything else passes through.
        start: its first bytes.
        options: the limits.

    Attributes:
        starts: how many bytes had been unpacked where each packed stream but the first began.
        behind: packed bytes behind the last stream that are none themselves; zeros, which writers pad with, do not count.
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
        """Read into a buffer and count."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        content = self._unpacked(len(view)) if self._is_packed else self._packed.read(len(view))
        view[: len(content)] = content
        self._read += len(content)
        if self._read > self._options.max_unpacked:
            raise self._over(f"it unpacks to more than {self._options.max_unpacked:,} bytes (--max-unpacked)")
        packed = self._packed.tell()
        if self._read > RATIO_COUNTS_FROM and self._read > self._options.max_ratio * packed:
            raise self._over(f"it unpacks to more than {self._options.max_ratio} times its size (--max-ratio)")
        return len(content)

    def _over(self, reason: str) -> RefusedError:
        self.is_over = True
        return RefusedError(Status.TOO_LARGE, reason)

    def _unpacked(self, most: int) -> bytes:
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
            raise self._over(
                f"unpacking it needs more memory than the limit of {limit:,} bytes (--max-decoder-memory)"
            ) from error

    def _next(self, rest: bytes) -> None:
        """Begin the stream behind one that has ended, or count what follows in its place."""
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
        # the decoder keeps what it does not need yet; what it unpacks comes with the next call
        self._decoder = _Begun(self._decoder, rest)


class _Begun:
    """A decompressor that has its first bytes already."""

    def __init__(self, decoder: Any, rest: bytes) -> None:
        self._decoder, self._rest = decoder, rest

    def decompress(self, data: bytes, max_length: int) -> bytes:
        rest, self._rest = self._rest, b""
        unpacked: bytes = self._decoder.decompress(rest + data, max_length)
        return unpacked

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
    """What a compressed file holds.

    Attributes:
        content: the bytes.
        starts: where in them each packed stream but the first began.
        behind: packed bytes behind the last stream, which were not read.
    """

    content: bytes
    starts: tuple[int, ...] = ()
    behind: int = 0


def unpacked(content: bytes, options: ReadConfig) -> Plain:
    """The bytes of one compressed file.

    Raises:
        RefusedError: it is damaged or goes over a limit.
    """
    stream = Unpacked(io.BytesIO(content), content[:PEEK], options)
    try:
        plain = in_pieces(stream, options)
    except RefusedError:
        raise
    except EOFError as error:
        raise RefusedError(Status.UNREADABLE, f"the file is cut after {len(content):,} bytes of packed data") from error
    except Exception as error:  # damaged files fail in each decompressor in its own way
        raise RefusedError(Status.UNREADABLE, "the file cannot be unpacked; it is damaged") from error
    return Plain(plain, tuple(stream.starts), stream.behind)


def in_pieces(stream: Any, options: ReadConfig) -> bytes:
    """All of a stream, read in pieces, so that no statement about its size asks for memory.

    Raises:
        RefusedError: it is longer than the limit.
    """
    content = io.BytesIO()
    while piece := stream.read(PIECE):
        content.write(piece)
        if content.tell() > options.max_bytes:
            raise RefusedError(Status.TOO_LARGE, f"it is larger than {options.max_bytes:,} bytes (--max-bytes)")
    return content.getvalue()
