"""The two possible results of reading a file: a :class:`Scan`, or a :class:`Refusal` that says why there is none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medood.errors import MedoodError
from medood.reasons import Reason

Pixels = npt.NDArray[np.float32]


class Status(StrEnum):
    """The outcome for a file. Only ``scored`` comes with a score."""

    SCORED = "scored"
    UNREADABLE = "unreadable"
    UNSUPPORTED_SYNTAX = "unsupported_syntax"
    NO_PIXELS = "no_pixels"
    TOO_LARGE = "too_large"
    NOT_AN_IMAGE = "not_an_image"
    ENCRYPTED = "encrypted"
    DUPLICATE = "duplicate"
    UNSAFE_PATH = "unsafe_path"
    NOT_SELECTED = "not_selected"
    WORKER_DIED = "worker_died"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True)
class Identity:
    """Where an image came from.

    Attributes:
        source: path as given on the command line, or as found inside a given folder.
        member: name inside an archive, empty for a plain file.
        frame: frame number, counted from 0.
        sha256: hex digest of the file's (or member's) bytes, empty if they could not be read.
    """

    source: str
    member: str = ""
    frame: int = 0
    sha256: str = ""

    @property
    def key(self) -> str:
        """SHA-256 of the file and the frame number, as ``<hex digest>:<frame>``."""
        return f"{self.sha256}:{self.frame}"

    @property
    def name(self) -> str:
        """The readable location: ``source`` or ``source!member``."""
        return f"{self.source}!{self.member}" if self.member else self.source


@dataclass(frozen=True)
class Grayscale:
    """Record of how a scan's grey values were made, step by step, in words for the ledger.

    Attributes:
        modality_lut: ``none``, ``rescale slope=1 intercept=-1024``, ``modality lut`` or ``palette``.
        voi: ``window 1/2 center=40 width=400 LINEAR``, ``voi lut 1/1``, ``percentile 0.5-99.5`` or ``full range``.
        inverted: ``no``, or the attribute that asked for it (``MONOCHROME1``, ``PresentationLUTShape INVERSE``).
        plugin: the decoder that unpacked the pixels.
        ignored: what the file requests and the grey values omit, such as overlays; empty if nothing.
        reduction: by how much each side was divided in decoding; 1 is the whole image.
    """

    modality_lut: str = "none"
    voi: str = "full range"
    inverted: str = "no"
    plugin: str = ""
    ignored: str = ""
    reduction: int = 1


@dataclass(frozen=True)
class Reduction:
    """How an image was reduced in decoding.

    Attributes:
        divisor: by how much each side was divided; sides are rounded up.
        shape: height and width of the whole image.
        is_centred: a pixel lies in the middle of those that it stands for (JPEG), not on the first of them (JPEG 2000, whose
            low band is sampled at even positions, T.800 F.3).
    """

    divisor: int
    shape: tuple[int, int]
    is_centred: bool


@dataclass(frozen=True)
class Scan:
    """One 2-D image.

    Attributes:
        identity: where it came from.
        pixels: float32 ``[1, H, W]`` in [0, 1], rows first, bone white.
        grayscale: how the grey values were made.
        spacing: distances between rows and between columns, in mm; None if unknown.
        spacing_source: the attribute it was taken from (``PixelSpacing``, ``ImagerPixelSpacing``, ``NIfTI affine``, ...), or
            ``none``.
        aspect: height of a pixel over its width; 1 if not stated.
        attributes: the DICOM attributes kept; never a patient's name or identifier.
        patient: a hash of PatientID that distinguishes patients; empty if unknown. An identifier can be guessed and checked
            against it, so it is kept out of ledgers, detectors and reports.
        month: month of acquisition, ``YYYY-MM``; empty if unknown. It is kept out of ledger rows too.
        colours: uint8 ``[H, W, 3]``, red, green and blue, if the image has them with 8 bits each; ``pixels`` are their
            luminance. None for a grey image.
        reduction: how ``pixels`` were reduced in decoding; None if they are the whole image.
    """

    identity: Identity
    pixels: Pixels
    grayscale: Grayscale = field(default_factory=Grayscale)
    spacing: tuple[float, float] | None = None
    spacing_source: str = "none"
    aspect: float = 1.0
    attributes: dict[str, str] = field(default_factory=dict)
    patient: str = ""
    month: str = ""
    colours: npt.NDArray[np.uint8] | None = None
    reduction: Reduction | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the whole image."""
        return self.reduction.shape if self.reduction else (self.pixels.shape[1], self.pixels.shape[2])


@dataclass(frozen=True)
class Refusal:
    """A file, member or frame without an image.

    Attributes:
        identity: where it came from.
        status: the kind of refusal.
        reason: what was wrong and what was expected, in one sentence.
    """

    identity: Identity
    status: Status
    reason: Reason


class RefusedError(Exception):
    """Raised by a reader that cannot make a scan; turned into a :class:`Refusal` by ``read_scans``."""

    def __init__(self, status: Status, reason: Reason) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class UnavailableError(MedoodError):
    """The whole source is unavailable for now: any row would be wrong, so the run ends and can be resumed later."""


class ContradictionError(ValueError):
    """A file contradicts itself. Its reason is our own and safe to show; the message of a parser or decoder may quote a
    patient's name, so a general one replaces it."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def describe_error(error: Exception, otherwise: Reason) -> Reason:
    """Return a reason that is safe to show and log: the error's own if it is one of ours, else ``otherwise``."""
    return error.reason if isinstance(error, ContradictionError) else otherwise


def sha256_of(content: bytes) -> str:
    """Hex SHA-256 digest of ``content``."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 digest of a file of any size; empty if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def patient_hash(patient: str) -> str:
    """16 hex digits that distinguish patients without naming them; empty for an empty identifier."""
    return hashlib.sha256(patient.encode("utf-8", "replace")).hexdigest()[:16] if patient else ""
