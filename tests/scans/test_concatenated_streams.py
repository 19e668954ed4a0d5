"""Bytes behind an end mark: all of it is read, or a row says what was not. And archives inside archives, inside limits."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from backports import zstd
from PIL import Image
from pydicom.uid import UID

from medood.config.schema import ReadConfig
from medood.scans.reader import read_scans
from medood.scans.scan import Refusal, Scan, Status
from tests.scans.films import film, write

PACKERS = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zst": zstd.compress}
GARBAGE = b"no archive, no radiograph"


def png(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 6), grey).save(stream, "PNG")
    return stream.getvalue()


def tarred(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def found(path: Path, content: bytes, **options: int) -> tuple[list[str], list[str]]:
    """Members that were read, and the sentences of rows without a scan."""
    path.write_bytes(content)
    results = list(read_scans(path, ReadConfig(**options)))  # type: ignore[arg-type]
    scans = [result.identity.member for result in results if isinstance(result, Scan)]
    return scans, [result.reason for result in results if isinstance(result, Refusal)]


ONE, TWO = tarred(a=png(1), b=png(2)), tarred(c=png(3))


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_joined_tars_are_one(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    for content in (ONE + TWO, pack(ONE + TWO), pack(ONE) + pack(TWO), pack(ONE) + bytes(4) + pack(TWO)):
        assert found(tmp_path / "a", content) == (["a", "b", "c"], [])


def test_streams_of_several_formats_are_read_one_behind_the_other(tmp_path: Path) -> None:
    content = gzip.compress(ONE) + lzma.compress(TWO) + zstd.compress(tarred(d=png(4)))
    assert found(tmp_path / "a", content) == (["a", "b", "c", "d"], [])


@pytest.mark.parametrize("pack", [bytes, *PACKERS.values()], ids=["plain", *PACKERS])
def test_garbage_behind_a_tar_is_a_row(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    for content in (pack(ONE) + GARBAGE, pack(ONE) + GARBAGE * 1000, pack(ONE + GARBAGE * 40)):
        scans, reasons = found(tmp_path / "a", content)
        assert scans == ["a", "b"]
        assert len(reasons) == 1
        assert "not read" in reasons[0]


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_what_follows_one_packed_file_is_a_row(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    scans, reasons = found(tmp_path / "a", pack(write(film())) + GARBAGE)
    assert len(scans) == len(reasons) == 1
    assert f"{len(GARBAGE)} uncompressed bytes follow" in reasons[0]
    scans, reasons = found(tmp_path / "a", pack(write(film())) + pack(write(film() // 2)))
    assert len(scans) == len(reasons) == 1
    assert "further files" in reasons[0]
    halves = write(film())
    assert found(tmp_path / "a", pack(halves[:5000]) + pack(halves[5000:])) == ([""], []), "one file in two streams"


def test_bytes_around_a_zip_are_a_row(tmp_path: Path) -> None:
    one, two = zipped(a=png(1)), zipped(b=png(2))
    for content, member in ((one + two, "b"), (one + GARBAGE, "a"), (one + GARBAGE + two, "b")):
        scans, reasons = found(tmp_path / "a.zip", content)
        assert scans == [member]
        assert len(reasons) == 1
        assert "to no member" in reasons[0]
    assert found(tmp_path / "a.zip", one) == (["a"], [])


@pytest.mark.parametrize("version", ["old", "0.0", "0.1", "1.0"])
def test_a_sparse_member_costs_itself_alone(tmp_path: Path, version: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a", "sparse", "z"):
            info, content = tarfile.TarInfo(name), png(ord(name[0]))
            if name == "sparse" and version == "0.0":
                info.pax_headers = {"GNU.sparse.size": "1000", "GNU.sparse.numblocks": "1"}
            elif name == "sparse" and version == "0.1":
                info.pax_headers = {"GNU.sparse.map": "0,512", "GNU.sparse.size": "1000"}
            elif name == "sparse" and version == "1.0":
                keys = {"major": "1", "minor": "0", "realsize": "1000", "name": "sparse"}
                info.pax_headers = {f"GNU.sparse.{key}": value for key, value in keys.items()}
                content = b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    content = stream.getvalue()
    if version == "old":
        at = content.index(b"sparse\0")
        header = bytearray(content[at : at + 512])
        header[156:157] = b"S"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        content = content[:at] + bytes(header) + content[at + 512 :]
    scans, reasons = found(tmp_path / "a.tar", content)
    assert scans == ["a", "z"]
    assert len(reasons) == 1
    assert "sparse" in reasons[0]


@pytest.mark.parametrize("outer", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("inner", ["zip", "tar", "tar.xz", "png.gz"])
def test_an_archive_inside_an_archive(tmp_path: Path, outer: str, inner: str) -> None:
    nested = {"zip": zipped(x=png(1)), "tar": tarred(x=png(1)), "tar.xz": lzma.compress(tarred(x=png(1)))}
    content = nested.get(inner, gzip.compress(png(1)))
    members = {"first": png(5), "inner": content, "last": png(6)}
    whole = zipped(**members) if outer == "zip" else tarred(**members)
    scans, reasons = found(tmp_path / "a", gzip.compress(whole) if outer == "tar.gz" else whole)
    assert scans == ["first", "inner" if inner == "png.gz" else "inner!x", "last"]
    assert not reasons


def test_what_stands_around_an_inner_archive_is_a_row_too(tmp_path: Path) -> None:
    for inner in (zipped(x=png(1)) + GARBAGE, gzip.compress(tarred(x=png(1))) + GARBAGE, tarred(x=png(1)) + GARBAGE * 40):
        for whole in (zipped(inner=inner, last=png(2)), tarred(inner=inner, last=png(2))):
            scans, reasons = found(tmp_path / "a", whole)
            assert scans == ["inner!x", "last"]
            assert len(reasons) == 1


def test_an_inner_archive_may_be_larger_than_a_member(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
    for inner in (zipped(big=noise, x=png(1)), tarred(big=noise, x=png(1))):
        for whole in (zipped(inner=inner), tarred(inner=inner)):
            scans, reasons = found(tmp_path / "a", whole, max_bytes=200_000)
            assert scans == ["inner!x"]
            assert len(reasons) == 1
            assert "--max-bytes" in reasons[0]


def test_decoders_ask_for_no_more_memory_than_they_may(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 * 1024**2}]
    packed = lzma.compress(write(film()), filters=filters)
    assert found(tmp_path / "a", packed) == ([""], [])
    scans, (reason,) = found(tmp_path / "a", packed, max_decoder_memory=8 * 1024**2)
    assert not scans
    assert "--max-decoder-memory" in reason
    for whole in (tarred(inner=packed), zipped(inner=packed)):
        assert "--max-decoder-memory" in found(tmp_path / "a", whole, max_decoder_memory=8 * 1024**2)[1][0]


def test_a_name_without_end_costs_its_member(tmp_path: Path) -> None:
    long = "x" * 5000
    for whole in (zipped(**{long: png(1), "last": png(2)}), tarred(**{long: png(1), "last": png(2)})):
        (tmp_path / "a").write_bytes(whole)
        results = sorted(read_scans(tmp_path / "a"), key=lambda result: len(result.identity.member))
        assert isinstance(results[0], Scan)
        assert isinstance(results[1], Refusal)
        assert results[1].status == Status.TOO_LARGE
        assert len(results[1].identity.member) < 300


@pytest.mark.parametrize("name", ["folder\\", "a\\b\\"])
def test_folders_of_net_zips_are_no_files(tmp_path: Path, name: str) -> None:
    assert found(tmp_path / "a.zip", zipped(**{name: b"", "a\\b\\c.png": png(1)})) == (["a\\b\\c.png"], [])


def test_a_few_zeros_behind_a_tar_are_padding(tmp_path: Path) -> None:
    assert found(tmp_path / "a.tar", ONE + bytes(100)) == (["a", "b"], [])


def test_a_manifest_that_lists_nothing_is_a_row(tmp_path: Path) -> None:
    assert found(tmp_path / "a.csv", b"file,patient_id\n") == ([], ["the manifest lists no file"])


def without_prefix(content: bytes) -> bytes:
    return content[144 + int.from_bytes(content[140:144], "little") :]


@pytest.mark.parametrize("behind", ["data set", "object without preamble", "png", "zip", "gzip", "jpeg", "text"])
@pytest.mark.parametrize("syntax", [f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".4.80")])
def test_what_follows_a_dicom_object_changes_nothing_of_it_and_is_a_row(tmp_path: Path, behind: str, syntax: str) -> None:
    marks = {"WindowCenter": 500, "WindowWidth": 300, "PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
    whole, other = write(film(), 12, UID(syntax), **marks), write(film() // 2, 12, UID(syntax))
    rest = {
        "data set": without_prefix(other),
        "object without preamble": other[132:],
        "png": png(1),
        "zip": zipped(x=png(1)),
        "gzip": gzip.compress(png(1)),
        "jpeg": b"\xff\xd8\xff\xe0" + b"a" * 500,
        "text": GARBAGE,
    }[behind]
    (tmp_path / "a").write_bytes(whole)
    (alone,) = read_scans(tmp_path / "a")
    (tmp_path / "a").write_bytes(whole + rest)
    first, second = read_scans(tmp_path / "a")
    assert isinstance(alone, Scan)
    assert isinstance(first, Scan)
    assert np.array_equal(first.pixels, alone.pixels)
    assert first.grayscale == alone.grayscale
    assert isinstance(second, Refusal)
    assert f"{len(rest):,} bytes follow" in second.reason


def test_joined_files_of_any_kind_are_a_row(tmp_path: Path) -> None:
    for rest in (zipped(a=png(9)), gzip.compress(png(9)), tarred(a=png(9)), without_prefix(write(film()))):
        scans, reasons = found(tmp_path / "a", gzip.compress(png(3)) + gzip.compress(rest))
        assert len(scans) == len(reasons) == 1


def test_a_file_whose_name_ends_like_a_folder_is_read(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("x/"), png(3))
        archive.writestr(zipfile.ZipInfo("folder/"), b"")
    assert found(tmp_path / "a.zip", stream.getvalue()) == (["x/"], [])


def test_a_column_without_a_name_is_none_of_those_that_are_used(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"f{number}.png").write_bytes(png(number))
    for text in (",file\n0,f0.png\n1,f1.png\n", "file,patient_id,\nf0.png,A,ok\nf1.png,A,\n"):
        (tmp_path / "m.csv").write_text(text)
        results = list(read_scans(tmp_path / "m.csv"))
        assert all(isinstance(result, Scan) for result in results)
        patients = {result.patient for result in results if isinstance(result, Scan)}
        assert len(patients) == 1
        assert (patients == {""}) == text.startswith(",")
    assert "two columns" in found(tmp_path / "m.csv", b"file,File\nf0.png,f1.png\n")[1][0]
