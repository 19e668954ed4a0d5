"""Which transfer syntaxes decode on this machine: found out by decoding a small film in each."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medood.scans.dicom.pixel_data import DECODERS
from medood.scans.dicom.reader import read_dicom
from medood.scans.scan import Identity, RefusedError

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)


@dataclass(frozen=True)
class Support:
    """What becomes of one transfer syntax here.

    Attributes:
        syntax: its UID.
        plugin: what decodes it; empty where nothing does.
        remedy: what to do where nothing does.
    """

    syntax: UID
    plugin: str
    remedy: str = ""


def supported_syntaxes() -> Iterator[Support]:
    """Decode the probe of every transfer syntax; those that are not compressed need no decoder."""
    for syntax in _NATIVE:
        yield Support(syntax, "pydicom")
    for uid, probe in json.loads(files("medood.scans").joinpath("probes.json").read_text()).items():
        syntax = UID(uid)
        try:
            (scan,) = read_dicom(base64.b64decode(probe), Identity("probe"))
        except RefusedError:
            yield Support(syntax, "", f"pip install {DECODERS[syntax][1]}")
        else:
            yield Support(syntax, scan.grayscale.plugin)
