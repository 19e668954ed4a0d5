"""Read a source into network inputs and ledger fields, in this process, a worker process or on a cluster."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from torch import Tensor

from medood.config.schema import PreprocessConfig, ReadConfig
from medood.detection.calibration import stratum
from medood.errors import MedoodError
from medood.evidence.burned_in_text import find_text
from medood.reasons import Reason, from_stored
from medood.scans.reader import least_side_for, read_source
from medood.scans.scan import Identity, Refusal, RefusedError, Scan, Status, UnavailableError
from medood.scans.sources.source import Source, read_bytes
from medood.scans.sources.zip_archive import ZippedMember
from medood.scans.transforms import network_input, preprocessing, to_levels
from medood.screening.source_listing import ListingPosition, Shard


@dataclass(frozen=True)
class ReadSpec:
    """How sources are read in a run.

    Attributes:
        options: which frames and objects become scans, and the limits.
        preprocess: preprocessing from scan to network input.
        by: DICOM attributes that divide scans into strata.
        shard: the part of the archive to read.
    """

    options: ReadConfig
    preprocess: PreprocessConfig
    by: tuple[str, ...] = ()
    shard: Shard = field(default_factory=Shard)

    @property
    def least_side(self) -> int:
        """Pixels that each side of an image must keep; see :func:`medood.scans.reader.least_side_for`."""
        return least_side_for(self.preprocess.size, self.options)

    @cached_property
    def chain(self) -> Compose:
        """The transforms of ``preprocess``."""
        return preprocessing(self.preprocess)


@dataclass(frozen=True)
class Result:
    """Result of reading: one image, or a refusal.

    Attributes:
        identity: where it came from.
        status: ``scored`` for an image to be scored, else the refusal's status.
        reason: the refusal's reason; ``None`` for an image.
        image: uint8 ``[1, S, S]``, the network's input; ``None`` for a refusal.
        metadata: scan metadata for the ledger.
        month: month of acquisition; see :class:`medood.scans.scan.Scan`.
        patient: see :class:`medood.scans.scan.Scan`.
        stratum: calibration stratum.
        disk_seconds: time spent reading the bytes.
        decode_seconds: time spent decoding and preprocessing.
        host: the machine that read it.
    """

    identity: Identity
    status: Status
    reason: Reason | None = None
    image: Tensor | None = None
    metadata: dict[str, Any] | None = None
    month: str = ""
    patient: str = ""
    stratum: str = ""
    disk_seconds: float = 0.0
    decode_seconds: float = 0.0
    host: str = field(default_factory=platform.node)

    @property
    def network_input(self) -> Tensor:
        """The image as float32 ``[1, S, S]`` in [0, 1]."""
        assert self.image is not None
        return self.image.float() / 255.0


#: Item that an engine yields: a source's position and all its results, or ``None`` while it waits for the next source.
Readout = tuple[ListingPosition, list[Result]] | None


def read_results(source: Source | Refusal, reading: ReadSpec) -> list[Result]:
    """All results of a source, in order; empty if it belongs to another shard. Never raises for bad input."""
    if isinstance(source, Refusal):
        in_shard = reading.shard.holds_unread(source.identity.name)
        return [Result(source.identity, source.status, source.reason)] if in_shard else []
    started = time.perf_counter()
    try:
        source = replace(source, content=read_bytes(source, reading.options))
    except RefusedError as refused:
        return read_results(Refusal(source.identity, refused.status, refused.reason), reading)
    except MedoodError as error:  # not the fault of this source
        raise UnavailableError(str(error)) from error
    except Exception:  # a damaged archive can raise anything
        reason = Reason("file_damaged")
        return read_results(Refusal(source.identity, Status.UNREADABLE, reason), reading)
    disk = time.perf_counter() - started
    results = []
    started = time.perf_counter()
    for result in read_source(source, reading.options, in_shard=reading.shard.holds, least_side=reading.least_side):
        prepared = _prepare(result, reading)
        results.append(replace(prepared, disk_seconds=disk, decode_seconds=time.perf_counter() - started))
        started, disk = time.perf_counter(), 0.0
    if results and not results[0].identity.sha256 and not reading.shard.holds_unread(source.identity.name):
        return []
    return results


def _prepare(result: Scan | Refusal, reading: ReadSpec) -> Result:
    if isinstance(result, Refusal):
        return Result(result.identity, result.status, result.reason)
    try:
        image = to_levels(network_input(result, reading.chain))
    except (RuntimeError, ValueError):
        return Result(result.identity, Status.UNREADABLE, Reason("image_not_resized"))
    metadata: dict[str, Any] = {
        "grayscale": asdict(result.grayscale),
        "attributes": result.attributes,
        "spacing": result.spacing,
        "spacing_source": result.spacing_source,
        "aspect": round(result.aspect, 6),
        "shape": list(result.shape),
    }
    if reading.options.text:
        metadata["text"] = _text_in(result)
    kind = stratum(result.attributes, reading.by)
    return Result(result.identity, Status.SCORED, None, image, metadata, result.month, result.patient, kind)


def _text_in(scan: Scan) -> list[list[float]] | None:
    """Places of text burnt into a scan; None where nobody could look."""
    try:
        return [[round(edge, 4) for edge in astuple(box)] for box in find_text(scan.pixels[0])]
    except Exception:  # a library that is missing on this machine, or an image that it cannot take
        return None


def source_to_bytes(source: Source | Refusal) -> tuple[bytes, bytes | None]:
    """Serialize a source to JSON; return its contents, if loaded, separately so that large ones are not copied."""
    if isinstance(source, Refusal):
        return json.dumps({"refusal": asdict(source) | {"reason": source.reason.stored()}}).encode(), None
    fields = asdict(replace(source, content=None)) | {"path": str(source.path), "content": source.content is not None}
    return json.dumps({"source": fields}).encode(), source.content


def source_from_bytes(message: bytes, content: Callable[[], bytes | None]) -> Source | Refusal:
    """Deserialize the output of :func:`source_to_bytes`.

    Args:
        message: the JSON.
        content: returns the contents; called only if the source carries any.
    """
    body = json.loads(message)
    if "refusal" in body:
        fields = body["refusal"]
        return Refusal(Identity(**fields["identity"]), Status(fields["status"]), from_stored(fields["reason"]))
    fields = body["source"]
    zipped = ZippedMember(**fields["zipped"]) if fields["zipped"] else None
    content_bytes = content() if fields["content"] else None
    return Source(**fields | {"path": Path(fields["path"]), "zipped": zipped, "content": content_bytes})


def results_to_parts(results: list[Result] | UnavailableError) -> Iterator[bytes]:
    """Serialize results: one part of JSON (or the reason the source is unavailable), then each image's raw grey levels."""
    if isinstance(results, UnavailableError):
        yield json.dumps({"unavailable": str(results)}).encode()
        return
    plain = [
        asdict(replace(result, image=None)) | {"reason": result.reason and result.reason.stored()} for result in results
    ]
    shapes = [None if result.image is None else list(result.image.shape) for result in results]
    yield json.dumps({"results": plain, "shapes": shapes}).encode()
    del plain
    for result in results:
        if result.image is not None:
            yield result.image.numpy().tobytes()


def results_from_parts(part: Callable[[], bytes]) -> list[Result]:
    """Deserialize the output of :func:`results_to_parts`.

    Args:
        part: returns the next part at each call.

    Raises:
        UnavailableError: the parts hold an ``UnavailableError``.
        ValueError: an image does not have the stated size.
    """
    body = json.loads(part())
    if "unavailable" in body:
        raise UnavailableError(body["unavailable"])
    return [
        Result(
            **fields
            | {
                "identity": Identity(**fields["identity"]),
                "status": Status(fields["status"]),
                "reason": fields["reason"] and from_stored(fields["reason"]),
                "image": None if shape is None else torch.frombuffer(bytearray(part()), dtype=torch.uint8).reshape(shape),
            }
        )
        for fields, shape in zip(body["results"], body["shapes"], strict=True)
    ]
