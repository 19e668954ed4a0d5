"""Find the transfer syntaxes that decode on this machine, by decoding a small radiograph in each."""

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
    """Support for one transfer syntax on this machine.

    Attributes:
        syntax: its UID.
        plugin: its decoder; empty if there is none.
        remedy: what to do if there is no decoder.
    """

    syntax: UID
    plugin: str
    remedy: str = ""


def supported_syntaxes() -> Iterator[Support]:
    """Decode the probe of every compressed transfer syntax; the others need no decoder."""
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
