"""Archives of every kind, and what hostile ones must not do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import resource
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from backports import zstd
from PIL import Image

from medood.config.schema import ReadConfig
from medood.errors import MedoodError
from medood.scans.reader import read_scans
from medood.scans.scan import Refusal, Scan, Status
from medood.scans.sources.source import Source, count_sources, find_sources
from tests.scans.films import film, write

FILM = write(film(), WindowCenter=2048, WindowWidth=4096)
PACKERS = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstd.compress,
}


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (20, 30), value).save(stream, "PNG")
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return stream.getvalue()


def tarred(members: dict[str, bytes], **more: object) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, kind in more.items():
            info = tarfile.TarInfo(name)
            info.type = kind  # type: ignore[assignment]
            info.linkname = "/etc/passwd"
            archive.addfile(info)
    return stream.getvalue()


def results(path: Path, **options: object) -> list[Scan | Refusal]:
    return list(read_scans(path, ReadConfig(**options)))  # type: ignore[arg-type]


def statuses(path: Path, **options: object) -> list[str]:
    return [str(r.status) if isinstance(r, Refusal) else "scan" for r in results(path, **options)]


@pytest.mark.parametrize("ending", PACKERS)
def test_tars_are_read_in_their_order_however_packed(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.anything{ending}"  # the bytes decide, not the name
    path.write_bytes(PACKERS[ending](tarred({"b.dcm": FILM, "folder/a.png": png(7), "note.txt": b"hello"})))
    first, second, third = results(path)
    assert isinstance(first, Scan)
    assert isinstance(second, Scan)
    assert isinstance(third, Refusal)
    assert [r.identity.member for r in (first, second, third)] == ["b.dcm", "folder/a.png", "note.txt"]
    assert third.status == Status.NOT_AN_IMAGE


@pytest.mark.parametrize("ending", [e for e in PACKERS if e])
def test_one_packed_file_is_read_and_named_by_the_digest_of_its_own_bytes(tmp_path: Path, ending: str) -> None:
    packed = PACKERS[ending](FILM)
    (tmp_path / f"a.dcm{ending}").write_bytes(packed)
    (scan,) = results(tmp_path)
    assert isinstance(scan, Scan)
    import hashlib

    assert scan.identity.sha256 == hashlib.sha256(packed).hexdigest()


def test_archives_in_archives_are_opened_one_level_deep(tmp_path: Path) -> None:
    inner = zipped(a__dcm=FILM)
    deeper = zipped(inner__zip=zipped(b__png=png(1)), c__png=png(2))
    (tmp_path / "outer.zip").write_bytes(zipped(x__zip=inner, y__tar=tarred({"d.png": png(3)}), z__zip=deeper))
    found = {r.identity.name: r for r in results(tmp_path / "outer.zip")}
    names = {name.split("/")[-1]: "scan" if isinstance(r, Scan) else r.status for name, r in found.items()}
    assert names == {
        "outer.zip!x.zip!a.dcm": "scan",
        "outer.zip!y.tar!d.png": "scan",
        "outer.zip!z.zip!c.png": "scan",
        "outer.zip!z.zip!inner.zip": Status.NOT_AN_IMAGE,
    }
    (tmp_path / "t.tgz").write_bytes(
        gzip.compress(tarred({"i.zip": zipped(e__png=png(4)), "f.nii.gz": gzip.compress(b"x" * 900)}))
    )
    assert statuses(tmp_path / "t.tgz") == ["scan", "not_an_image"]


def test_links_devices_and_names_that_lead_out_of_a_tar_are_rows(tmp_path: Path) -> None:
    members = {"../out.png": png(1), "/abs.png": png(2), "ok.png": png(3)}
    (tmp_path / "a.tar").write_bytes(tarred(members, link=tarfile.SYMTYPE, hard=tarfile.LNKTYPE, null=tarfile.CHRTYPE))
    assert statuses(tmp_path / "a.tar") == [
        "unsafe_path",
        "unsafe_path",
        "scan",
        "unsafe_path",
        "unsafe_path",
        "not_an_image",
    ]


def test_odd_member_names_are_kept_and_stop_nothing(tmp_path: Path) -> None:
    names = ["new\nline.png", "tab\t.png", "ünï.png", "漢字.png", "x" * 300 + ".png"]
    (tmp_path / "a.tar").write_bytes(tarred({name: png(i) for i, name in enumerate(names)}))
    assert [r.identity.member for r in results(tmp_path / "a.tar")] == names
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("n\x01ame.png", png(1))
    raw = (tmp_path / "a.zip").read_bytes().replace(b"n\x01ame", b"n\xff\xfeme")  # not UTF-8
    (tmp_path / "a.zip").write_bytes(raw)
    assert statuses(tmp_path / "a.zip") == ["scan"]


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2", ".zst"])
def test_bombs_end_early_and_cost_little_memory(tmp_path: Path, ending: str) -> None:
    zeros = b"\0" * (90 * 1024**2)
    (tmp_path / f"bomb.bin{ending}").write_bytes(PACKERS[ending](zeros))
    bomb = tarred({"zeros.dcm": zeros})
    (tmp_path / f"bomb.tar{ending}").write_bytes(PACKERS[ending](bomb))
    del zeros, bomb
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert statuses(tmp_path) == ["too_large", "too_large"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 120 * 1024


def test_a_nest_of_bombs_like_42_zip(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.dll", b"\0" * (100 * 1024**2))
    level = stream.getvalue()
    for _ in range(3):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(16):
                archive.writestr(f"lib {i}.zip", level)
        level = stream.getvalue()
    (tmp_path / "42.zip").write_bytes(level)
    found = statuses(tmp_path / "42.zip")
    assert len(found) == 16 * 16
    assert set(found) == {"not_an_image"}


def test_many_members_that_share_their_bytes_are_a_bomb_too(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for i in range(21):
            archive.writestr(f"{i}.dcm", b"\0" * (52 * 1024**2))
    (tmp_path / "a.zip").write_bytes(stream.getvalue())
    (refusal,) = results(tmp_path / "a.zip")
    assert isinstance(refusal, Refusal)
    assert refusal.status == Status.TOO_LARGE
    assert "200 times" in refusal.reason


def test_every_limit_is_an_option(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(a__png=png(1), b__png=png(2)))
    (tmp_path / "b.tar").write_bytes(tarred({"a.png": png(3), "b.png": png(4)}))
    (tmp_path / "c.png").write_bytes(png(5))
    assert statuses(tmp_path) == ["scan"] * 5
    assert statuses(tmp_path, max_members=1) == ["too_large", "scan", "too_large", "scan"]
    assert statuses(tmp_path, max_bytes=10) == ["too_large"] * 5
    assert statuses(tmp_path, max_pixels=599) == ["too_large"] * 5
    assert statuses(tmp_path, max_unpacked=100)[0] == "too_large"
    with pytest.raises(MedoodError, match=r"read.max_ratio is 0; expected at least 1"):
        results(tmp_path, max_ratio=0)


@pytest.mark.parametrize("ending", PACKERS)
def test_a_damaged_tar_keeps_what_comes_before_and_ends_in_a_row(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).bytes(200_000)
    whole = PACKERS[ending](tarred({"a.png": png(1), "b.bin": noise, "c.png": png(2)}))
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) * 2 // 3])
    found = results(tmp_path / "a.tar")
    assert isinstance(found[-1], Refusal)
    assert found[-1].status == Status.UNREADABLE
    rng = np.random.default_rng(len(ending))
    for _ in range(30):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 5):
            damaged[place] ^= int(rng.integers(1, 256))
        (tmp_path / "a.tar").write_bytes(bytes(damaged))
        assert results(tmp_path / "a.tar")


def test_a_long_extended_header_asks_for_no_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 4 * 1024**3
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + b"\0" * 10240)
    (refusal,) = results(tmp_path / "a.tar")
    assert isinstance(refusal, Refusal)
    assert "too long" in refusal.reason


def test_listing_does_not_keep_what_it_listed(tmp_path: Path) -> None:
    """A tar of 200 MB in small files is streamed: no more than a few members are in memory at a time."""
    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / "big.tar", "w") as archive:
        for i in range(200):
            content = rng.bytes(1024**2)
            info = tarfile.TarInfo(f"{i}.bin")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in find_sources(tmp_path / "big.tar")) == 200
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 * 1024


def test_counting_ahead(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(a__png=png(1), b__png=png(2)))
    (tmp_path / "c.png").write_bytes(png(5))
    assert count_sources(tmp_path) == 3 == sum(1 for _ in find_sources(tmp_path))
    (tmp_path / "b.tar.gz").write_bytes(b"x")
    assert count_sources(tmp_path) is None


def test_order_does_not_depend_on_the_file_system(tmp_path: Path) -> None:
    for name in ("z", "b/y", "a/x", "b/a", "m.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    names = [s.path.relative_to(tmp_path).as_posix() for s in find_sources(tmp_path) if isinstance(s, Source)]
    assert names == ["m.png", "z", "a/x", "b/a", "b/y"]


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("share", [0.31, 0.5, 0.77, 0.95])
def test_wherever_a_tar_is_cut_its_end_is_a_row(tmp_path: Path, ending: str, share: float) -> None:
    """tarfile takes a cut or damaged header for the end of the archive, in silence."""
    members = {f"{i:04d}.png": png(i % 256) + bytes([i % 251]) for i in range(300)}
    whole = PACKERS[ending](tarred(members))
    (tmp_path / "a.tar").write_bytes(whole[: int(len(whole) * share)])
    *_, last = results(tmp_path / "a.tar")
    assert isinstance(last, Refusal)
    assert last.status == Status.UNREADABLE


@pytest.mark.parametrize("cut", [1536, 1536 + 100, 1536 + 512])
def test_a_damaged_or_missing_header_of_a_tar_is_a_row(tmp_path: Path, cut: int) -> None:
    whole = tarred({"a.png": png(1), "b.png": png(2), "c.png": png(3)})
    damaged = bytearray(whole)
    damaged[1024 + 150] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(bytes(damaged))
    (tmp_path / "b.tar").write_bytes(whole[:cut])
    assert statuses(tmp_path / "a.tar")[-1] == "unreadable"
    assert statuses(tmp_path / "b.tar")[-1] == "unreadable"


@pytest.mark.parametrize(
    ("method", "status"),
    [
        (zipfile.ZIP_DEFLATED, "unreadable"),
        (zipfile.ZIP_BZIP2, "unsupported_syntax"),
        (zipfile.ZIP_LZMA, "unsupported_syntax"),
    ],
)
def test_a_zip_that_lies_about_its_sizes_takes_no_memory(tmp_path: Path, method: int, status: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.dcm", b"\0" * (200 * 1024**2))
    content = (tmp_path / "a.zip").read_bytes()
    stated = (200 * 1024**2).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content.replace(stated, (1000).to_bytes(4, "little")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert statuses(tmp_path / "a.zip") == [status]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 * 1024


def test_the_members_of_a_zip_are_counted_before_its_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(**{f"n{i}": b"" for i in range(70)}))
    (refusal,) = results(tmp_path / "a.zip", max_members=60)
    assert isinstance(refusal, Refusal)
    assert "holds more than 60 files" in refusal.reason


def test_sparse_files_and_global_headers_of_a_tar(tmp_path: Path) -> None:
    info = tarfile.TarInfo("s")
    info.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\xff" * 10240)
    assert statuses(tmp_path / "a.tar") == ["unsupported_syntax", "unreadable"]


def test_a_time_in_a_member_name_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tarred({"2020-01-01T12:30:00.png": png(1), "C:x.png": png(2)}))
    assert statuses(tmp_path / "a.tar") == ["scan", "unsafe_path"]


def test_a_folder_that_cannot_be_looked_into_costs_its_own_files_only(tmp_path: Path) -> None:
    (tmp_path / ("x" * 200)).mkdir()
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "loop").symlink_to("loop")
    assert statuses(tmp_path) == ["scan", "unsafe_path"]
