"""Variants of the kinds of file that the field complains about: ``python -m tests.benchmarks.kinds_table --out DIR``.

Writes ``kinds.csv``: for each kind how many variants were tried, how many gave the right image, how many a wrong one, and
with which sentences the others were refused. The right image is known, because each variant is made from one radiograph.
"""

from __future__ import annotations

import argparse
import csv
import io
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import tifffile
from pydicom.dataelem import DataElement
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from medood.config.schema import ReadConfig
from medood.scans.reader import read_content
from medood.scans.scan import Identity, RefusedError
from tests.scans.films import film, saved, write
from tests.scans.test_field_examples import ODD, OPTIONAL, UNCOMPRESSED, WINDOW, compressed, deep, without_meta

FILM = film()
#: A variant: its bytes, the right image, and the largest difference that rounding may make.
Variant = tuple[bytes, Any, float]


def bits() -> Iterator[Variant]:
    for syntax in (JPEGLSLossless, JPEG2000Lossless, RLELossless):
        for stored_bits in range(9, 17):
            for signed in (False, True):
                for spare in ("zero", "sign", "overlay"):
                    top = 2**stored_bits - 1
                    stored = np.rint(FILM / 4095 * top).astype(np.int64) - (2 ** (stored_bits - 1) if signed else 0)
                    words = stored & (0xFFFF if spare == "sign" else top)
                    if spare == "overlay" and stored_bits < 16:
                        words = words | ((np.indices(FILM.shape).sum(axis=0) % 7 == 0).astype(np.int64) << stored_bits)
                    window = {"WindowCenter": 0 if signed else 2 ** (stored_bits - 1), "WindowWidth": 2**stored_bits}
                    content = compressed(words.astype(np.uint16), syntax, 16, stored_bits, signed=signed, **window)
                    yield content, np.rint(FILM / 4095 * top) / top, 2 / top


def rasters() -> Iterator[Variant]:
    percentiles = np.percentile(FILM, (0.5, 99.5))
    right = np.clip((FILM - percentiles[0]) / (percentiles[1] - percentiles[0]), 0, 1)
    for kind in ("grey", "grey with alpha", "rgb", "rgba"):
        yield bytes(imagecodecs.png_encode(deep(kind))), right, 1e-4
        for dtype in ("u2", "i2", "u4", "i4", "f2", "f4", "f8"):
            for options in ({}, {"bigtiff": True}, {"byteorder": ">"}, {"tile": (32, 32)}, {"compression": "zlib"}):
                values = deep(kind).astype(np.float64) / 65535
                if dtype[0] in "ui":
                    low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
                    values = np.rint(values * (high - low) * 0.99 + low)
                photometric = "rgb" if kind.startswith("rgb") else "minisblack"
                alpha = {"extrasamples": ["unassalpha"]} if kind in ("rgba", "grey with alpha") else {}
                planar = {"planarconfig": "contig"} if values.ndim == 3 else {}
                stream = io.BytesIO()
                tifffile.imwrite(stream, values.astype(dtype), photometric=photometric, **planar, **alpha, **options)
                yield stream.getvalue(), right, 1e-3


def optional() -> Iterator[Variant]:
    for keyword in OPTIONAL:
        for name, (vr, value) in ODD.items():
            if keyword == "VOILUTFunction" or (keyword, name) == ("SpecificCharacterSet", "bytes"):
                continue  # an unknown function has percentiles; pydicom does not write the other
            data = pydicom.dcmread(io.BytesIO(write(FILM, 12, **WINDOW)))
            right = FILM / 4095
            if keyword in ("WindowCenter", "WindowWidth"):
                low, high = np.percentile(FILM, (0.5, 99.5))
                right = np.clip((FILM - low) / (high - low), 0, 1)
            for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
                with pydicom.config.disable_value_validation():
                    data[keyword] = DataElement(keyword, vr, value, validation_mode=pydicom.config.IGNORE)
                    data.file_meta.TransferSyntaxUID = syntax
                    stream = io.BytesIO()
                    pydicom.dcmwrite(
                        stream, data, implicit_vr=syntax.is_implicit_VR, little_endian=True, force_encoding=True
                    )
                yield stream.getvalue(), right, 1e-6


def flat() -> Iterator[Variant]:
    low, high = np.percentile(FILM, (0.5, 99.5))
    percentiles = np.clip((FILM - low) / (high - low), 0, 1)
    for slope, intercept in ((0, 0), (0, 2048), (0, -1000), (1, "1e300"), ("1e-300", "1e5")):
        yield write(FILM, 12, **WINDOW, RescaleSlope=slope, RescaleIntercept=intercept), FILM / 4095, 1e-6
    for center, width in ((-5000, 10), (50000, 10), (2048, "1e12"), (-(10**9), 1), (10**9, 4096)):
        yield write(FILM, 12, WindowCenter=center, WindowWidth=width), percentiles, 1e-6


def no_preamble() -> Iterator[Variant]:
    for syntax in UNCOMPRESSED:
        content = write(FILM, 12, syntax, **WINDOW)
        for kept in (content[132:], b"DICM" + content[132:]):
            yield kept, FILM / 4095, 1e-6
        data = pydicom.dcmread(io.BytesIO(content))
        for tag in sorted(tag for tag in data.keys() if tag.group == 0x0008):  # noqa: SIM118
            stream = io.BytesIO()
            little = syntax != UNCOMPRESSED[2]
            pydicom.dcmwrite(stream, without_meta(data), implicit_vr=syntax.is_implicit_VR, little_endian=little)
            yield stream.getvalue(), FILM / 4095, 1e-6
            del data[tag]


def cut() -> Iterator[Variant]:
    for syntax in (*UNCOMPRESSED[:2], JPEGLSLossless, JPEG2000Lossless, RLELossless):
        whole = write(FILM, 12, syntax, **WINDOW)
        for share in np.linspace(0.05, 0.999, 40):
            yield whole[: int(len(whole) * share)], FILM / 4095, 1e-6
        for missing in range(1, 9):
            yield whole[:-missing], FILM / 4095, 1e-6


def padded() -> Iterator[Variant]:
    for padding in (2, 16, 160, 512, 960, 2048, 4096):
        data = pydicom.dcmread(io.BytesIO(write(FILM, 12, **WINDOW)))
        data.PixelData += bytes(padding)
        yield saved(data), FILM / 4095, 1e-6


KINDS = {
    "codestream precision, sign and spare bits": bits,
    "16-bit rasters, TIFF formats": rasters,
    "optional attributes without a usable value": optional,
    "headers that map all pixels to one value": flat,
    "DICOM without a preamble": no_preamble,
    "cut files": cut,
    "zeros behind the pixels": padded,
}


def measured(variants: Iterator[Variant]) -> list[object]:
    """Variants tried, read right, misread, and refused by sentence."""
    counts, reasons = Counter[str](), Counter[str]()
    for content, right, tolerance in variants:
        try:
            (scan,) = read_content(content, Identity("x"), ReadConfig())
            is_right = scan.pixels.shape[1:] == right.shape and np.abs(scan.pixels[0] - right).max() <= tolerance
            counts["right" if is_right else "misread"] += 1
        except RefusedError as error:
            reasons["".join("N" if c.isdigit() else c for c in error.reason)[:90]] += 1
    refused = "; ".join(f"{count} {reason}" for reason, count in merged(reasons).most_common(4))
    return [counts.total() + reasons.total(), counts["right"], counts["misread"], reasons.total(), refused]


def merged(reasons: Counter[str]) -> Counter[str]:
    """The same sentences with numbers of any length."""
    found = Counter[str]()
    for reason, count in reasons.items():
        while "NN" in reason or "N,N" in reason:
            reason = reason.replace("NN", "N").replace("N,N", "N")
        found[reason] += count
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    with (out / "kinds.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["kind", "variants", "right", "misread", "refused", "sentences"])
        for name, variants in KINDS.items():
            writer.writerow([name, *measured(variants())])
    print((out / "kinds.csv").read_text())


if __name__ == "__main__":
    main()
