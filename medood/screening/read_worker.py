"""From a source to what the network and the ledger need of it: done in this process, in a worker process or on a cluster."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from torch import Tensor

from medood.config.schema import PreprocessConfig, ReadConfig
from medood.detection.calibration import stratum
from medood.errors import MedoodError
from medood.scans.reader import read_source
from medood.scans.scan import Identity, Refusal, RefusedError, Scan, Status, UnavailableError
from medood.scans.sources.source import Source, read_bytes
from medood.scans.sources.zip_archive import ZippedMember
from medood.scans.transforms import network_input, preprocessing, to_levels


@dataclass(frozen=True)
class Shard:
    """One of several parts that an archive is screened in: the files whose contents' digest falls to it.

    Attributes:
        index: from 0.
        count: number of parts.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``2/8`` is the second of eight.

        Raises:
            MedoodError: it is no such text.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isascii() and count.isascii() and index.isdigit() and count.isdigit()):
            raise MedoodError(f"--shard is {text!r}; expected I/N, such as 2/8 for the second of eight parts.")
        if not 1 <= int(index) <= int(count):
            raise MedoodError(f"--shard is {text!r}; expected a part from 1 to {count}.")
        return cls(int(index) - 1, int(count))

    def holds(self, sha256: str) -> bool:
        """Whether contents with this digest are of this part."""
        return int(sha256[:16], 16) % self.count == self.index

    def holds_unread(self, name: str) -> bool:
        """The same for what has no digest, by its name, so that just one part has its row."""
        return self.holds(hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest())


@dataclass(frozen=True)
class Reading:
    """How sources are read in a run.

    Attributes:
        options: which frames and objects become scans, and the limits.
        preprocess: from a scan to the network's input.
        by: DICOM attributes that part scans into strata.
        shard: the part of the archive that is read.
    """

    options: ReadConfig
    preprocess: PreprocessConfig
    by: tuple[str, ...] = ()
    shard: Shard = Shard()

    @cached_property
    def chain(self) -> Compose:
        """The transforms of ``preprocess``."""
        return preprocessing(self.preprocess)


@dataclass(frozen=True)
class Place:
    """Where a source stands in the listing of a run.

    Attributes:
        file: number of the file, from 0.
        item: number of the source in that file, from 0; an archive holds several.
    """

    file: int
    item: int


#: A source with its place in the listing.
Placed = tuple[Place, Source | Refusal]
#: What a listing yields: sources, and in a watched folder that there is no other at present.
Listed = Placed | None


@dataclass(frozen=True)
class Result:
    """What was read: one picture, or a refusal.

    Attributes:
        identity: where it came from.
        status: ``scored`` for a picture that will be, else the refusal's.
        reason: the refusal's sentence.
        picture: uint8 ``[1, S, S]``, the network's input; none for a refusal.
        facts: what the ledger keeps of the scan.
        month: of acquisition; see :class:`medood.scans.scan.Scan`.
        patient: likewise.
        stratum: of the calibration.
        disk_seconds: spent on getting the bytes.
        decode_seconds: spent on decoding and preparing.
        host: the machine that read it.
    """

    identity: Identity
    status: Status
    reason: str = ""
    picture: Tensor | None = None
    facts: dict[str, Any] | None = None
    month: str = ""
    patient: str = ""
    stratum: str = ""
    disk_seconds: float = 0.0
    decode_seconds: float = 0.0
    host: str = field(default_factory=platform.node)

    @property
    def network_input(self) -> Tensor:
        """float32 ``[1, S, S]`` in [0, 1]."""
        assert self.picture is not None
        return self.picture.float() / 255.0


#: What an engine yields: a source's place and all that was read of it, or none where it waits for another source.
Readout = tuple[Place, list[Result]] | None


def read_results(source: Source | Refusal, reading: Reading) -> list[Result]:
    """All that is read of a source, in order; nothing where another shard has it. Never raises for bad input."""
    if isinstance(source, Refusal):
        mine = reading.shard.holds_unread(source.identity.name)
        return [Result(source.identity, source.status, source.reason)] if mine else []
    started = time.perf_counter()
    try:
        source = replace(source, content=read_bytes(source, reading.options))
    except RefusedError as refused:
        return read_results(Refusal(source.identity, refused.status, refused.reason), reading)
    except MedoodError as error:  # it is no matter of this source
        raise UnavailableError(str(error)) from error
    except Exception:  # a damaged archive fails in many ways
        why = "the file cannot be read; it is damaged"
        return read_results(Refusal(source.identity, Status.UNREADABLE, why), reading)
    disk = time.perf_counter() - started
    found = []
    started = time.perf_counter()
    for result in read_source(source, reading.options, wanted=reading.shard.holds):
        prepared = _prepared(result, reading)
        found.append(replace(prepared, disk_seconds=disk, decode_seconds=time.perf_counter() - started))
        started, disk = time.perf_counter(), 0.0
    if found and not found[0].identity.sha256 and not reading.shard.holds_unread(source.identity.name):
        return []
    return found


def _prepared(result: Scan | Refusal, reading: Reading) -> Result:
    if isinstance(result, Refusal):
        return Result(result.identity, result.status, result.reason)
    try:
        picture = to_levels(network_input(result, reading.chain))
    except (RuntimeError, ValueError):
        return Result(result.identity, Status.UNREADABLE, "the picture cannot be resized")
    facts = {
        "grayscale": asdict(result.grayscale),
        "attributes": result.attributes,
        "spacing": result.spacing,
        "spacing_source": result.spacing_source,
        "aspect": round(result.aspect, 6),
        "shape": list(result.pixels.shape[1:]),
    }
    kind = stratum(result.attributes, reading.by)
    return Result(result.identity, Status.SCORED, "", picture, facts, result.month, result.patient, kind)


def source_to_bytes(source: Source | Refusal) -> tuple[bytes, bytes | None]:
    """A source as JSON, and its contents where they are here: apart, so that large ones are not copied."""
    if isinstance(source, Refusal):
        return json.dumps({"refusal": asdict(source)}).encode(), None
    fields = asdict(replace(source, content=None)) | {"path": str(source.path), "content": source.content is not None}
    return json.dumps({"source": fields}).encode(), source.content


def source_from_bytes(message: bytes, content: Callable[[], bytes | None]) -> Source | Refusal:
    """What :func:`source_to_bytes` wrote.

    Args:
        message: the JSON.
        content: called for the contents where there are some.
    """
    told = json.loads(message)
    if "refusal" in told:
        fields = told["refusal"]
        return Refusal(Identity(**fields["identity"]), Status(fields["status"]), fields["reason"])
    fields = told["source"]
    zipped = ZippedMember(**fields["zipped"]) if fields["zipped"] else None
    here = content() if fields["content"] else None
    return Source(**fields | {"path": Path(fields["path"]), "zipped": zipped, "content": here})


def results_to_parts(results: list[Result] | UnavailableError) -> Iterator[bytes]:
    """Results, or why none can be had, as JSON, and then the grey levels of each picture by itself."""
    if isinstance(results, UnavailableError):
        yield json.dumps({"unavailable": str(results)}).encode()
        return
    plain = [asdict(replace(result, picture=None)) for result in results]
    shapes = [None if result.picture is None else list(result.picture.shape) for result in results]
    yield json.dumps({"results": plain, "shapes": shapes}).encode()
    del plain
    for result in results:
        if result.picture is not None:
            yield result.picture.numpy().tobytes()


def results_from_parts(part: Callable[[], bytes]) -> list[Result]:
    """What :func:`results_to_parts` gave.

    Args:
        part: gives the next part at each call.

    Raises:
        UnavailableError: it was this.
        ValueError: a picture is of another size than stated.
    """
    told = json.loads(part())
    if "unavailable" in told:
        raise UnavailableError(told["unavailable"])
    return [
        Result(
            **fields
            | {
                "identity": Identity(**fields["identity"]),
                "status": Status(fields["status"]),
                "picture": None if shape is None else torch.frombuffer(bytearray(part()), dtype=torch.uint8).reshape(shape),
            }
        )
        for fields, shape in zip(told["results"], told["shapes"], strict=True)
    ]
