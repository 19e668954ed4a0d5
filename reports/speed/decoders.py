"""Decoders beside each other: milliseconds to decode a 12-bit radiograph of 2048 x 2048 from a file, by syntax; prints CSV.

Usage: MEDOOD_DATA=FOLDER python -m reports.speed.decoders > reports/speed/decoders.csv    (nothing else should run)
Decoders that are not installed are left out; dicomsdl, fastdicom, python-gdcm, pylibjpeg-libjpeg and pylibjpeg-rle are
no dependencies of medood. Medians of 5 over four radiographs, in which the decoders alternate. `equal` says whether every
stored value came back.
"""

from __future__ import annotations

import csv
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels import pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medood.scans.dicom.pixel_data import decode_frames
from reports.speed.reduced import enlarged
from tests.scans.films import write

SYNTAXES = (ExplicitVRLittleEndian, RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless)
SIDE, BITS, FILES, REPEATS = 2048, 12, 4, 5
Stored = npt.NDArray[np.int64]
#: pydicom's decoding plugins by the package that brings them.
PLUGINS = ("pydicom", "pylibjpeg", "gdcm", "pillow")


def main() -> None:
    paths = sorted((Path(os.environ["MEDOOD_DATA"]) / "in_distribution" / "test").glob("*.jpg"))[:FILES]
    films = [enlarged(path, SIDE, BITS) for path in paths]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["syntax", "decoder", "ms_a_file", "equal"])
    with tempfile.TemporaryDirectory() as folder:
        for syntax in SYNTAXES:
            files = [Path(folder) / f"{syntax.keyword}{number}.dcm" for number in range(FILES)]
            for file, film in zip(files, films, strict=True):
                file.write_bytes(write(film, BITS, syntax))
            working = {name: decode for name, decode in decoders(syntax).items() if works(decode, files[0])}
            timings: dict[str, list[float]] = {name: [] for name in working}
            for _ in range(REPEATS):
                for name, decode in working.items():
                    started = time.perf_counter()
                    for file in files:
                        decode(file)
                    timings[name].append(1000.0 * (time.perf_counter() - started) / FILES)
            for name, values in sorted(timings.items(), key=lambda item: statistics.median(item[1])):
                equal = all(np.array_equal(working[name](file), film) for file, film in zip(files, films, strict=True))
                writer.writerow([syntax.name, name, f"{statistics.median(values):.1f}", equal])
            sys.stdout.flush()


def decoders(syntax: UID) -> dict[str, Callable[[Path], Any]]:
    """Functions from a file to its stored values."""
    found: dict[str, Callable[[Path], Any]] = {"medood": lambda path: _medood(path, syntax)}
    if not syntax.is_encapsulated:
        found["pydicom"] = lambda path: pydicom.dcmread(path).pixel_array
    else:
        for plugin in PLUGINS:
            found[f"pydicom with {plugin}"] = partial(pixel_array, decoding_plugin=plugin, raw=True)
    for name, decode in (("dicomsdl", _dicomsdl), ("fastdicom", _fastdicom)):
        try:
            importlib.import_module(name)
            found[name] = decode
        except ImportError:
            pass
    return found


def works(decode: Callable[[Path], Any], file: Path) -> bool:
    """Whether a decoder knows the syntax here; decoders raise many exception types."""
    try:
        return np.asarray(decode(file)).shape == (SIDE, SIDE)
    except Exception:
        return False


def _medood(path: Path, syntax: UID) -> Any:
    (frame,) = decode_frames(pydicom.dcmread(path), syntax, range(1))
    return frame.array


def _dicomsdl(path: Path) -> Any:
    return importlib.import_module("dicomsdl").open(str(path)).pixelData(storedvalue=True)


def _fastdicom(path: Path) -> Any:
    return importlib.import_module("fastdicom").dcmread(str(path)).pixel_array


if __name__ == "__main__":
    main()
