"""Archives made to use up memory or time, screened as a user would: ``python -m reports.ingest.attacks --out FOLDER``.

Writes ``attacks.csv``: for each archive the peak memory (VmHWM) of the main process and of the largest worker, the seconds,
and what the rows say. The archives are made anew and removed.
"""

from __future__ import annotations

import argparse
import csv
import io
import lzma
import os
import sqlite3
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pydicom
from backports import zstd

from medood.phantom.chest import frontal_chest
from medood.phantom.dicom import dicom_bytes

MIB = 1024**2


def film() -> bytes:
    return dicom_bytes(frontal_chest(0, 96).image, "film")


def zip_of(count: int) -> Callable[[Path], Path]:
    """A directory of that many entries, all of one stored byte; the end record's 16-bit count says less."""

    def make(folder: Path) -> Path:
        target = folder / "a.zip"
        local = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, 0, 0, 0, zlib.crc32(b"x"), 1, 1, 5, 0) + b"a.dcm" + b"x"
        with target.open("wb") as stream:
            stream.write(local)
            for i in range(count):
                name = f"series/image{i:012d}.dcm".encode()
                head = (b"PK\x01\x02", 20, 20, 0, 0, 0, 0, zlib.crc32(b"x"), 1, 1, len(name), 0, 0, 0, 0, 0, 0)
                stream.write(struct.pack("<4sHHHHHHIIIHHHHHII", *head) + name)
            size = stream.tell() - len(local)
            stream.write(struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, size, len(local), 0))
        return target

    return make


def tar_of(members: Callable[[], Iterator[tuple[tarfile.TarInfo, bytes]]]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with tarfile.open(folder / "a.tar.gz", "w:gz", compresslevel=1, format=tarfile.GNU_FORMAT) as archive:
            for info, content in members():
                archive.addfile(info, io.BytesIO(content))
        return folder / "a.tar.gz"

    return make


def links() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for i in range(1000):
        info = tarfile.TarInfo(f"link{i}")
        info.type, info.linkname = tarfile.SYMTYPE, f"{i}" + "x" * (MIB - 20)
        yield info, b""


def names() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for i in range(600):
        info = tarfile.TarInfo(f"{i}" + "x" * (MIB - 20))
        info.size = 1
        yield info, b"x"


def million() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for i in range(1_000_000):
        info = tarfile.TarInfo(f"n{i}")
        info.size = 1
        yield info, b"x"


def nested(kind: str) -> Callable[[Path], Path]:
    """A gigabyte that does not pack, in an archive inside an archive."""

    def make(folder: Path) -> Path:
        inner, outer = folder / f"inner.{kind}", folder / "a.zip"
        block = os.urandom(MIB)
        if kind == "zip":
            with zipfile.ZipFile(inner, "w") as archive, archive.open("large.dcm", "w", force_zip64=True) as stream:
                for _ in range(1024):
                    stream.write(block)
        else:
            info = tarfile.TarInfo("large.dcm")
            info.size = 1024 * MIB
            with inner.open("wb") as stream:
                stream.write(info.tobuf())
                for _ in range(1024):
                    stream.write(block)
                stream.write(bytes(1024))
        with zipfile.ZipFile(outer, "w") as archive:
            archive.write(inner, inner.name)
        inner.unlink()
        return outer

    return make


def large_member(folder: Path) -> Path:
    """A tar whose one member is as large as the limit allows."""
    info = tarfile.TarInfo("large.dcm")
    info.size = 256 * MIB
    with (folder / "a.tar").open("wb") as stream:
        stream.write(info.tobuf())
        for _ in range(256):
            stream.write(os.urandom(MIB))
        stream.write(bytes(1024))
    return folder / "a.tar"


def packed_xz(folder: Path) -> Path:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1536 * MIB}]
    (folder / "a.dcm.xz").write_bytes(lzma.compress(film(), filters=filters))
    return folder / "a.dcm.xz"


def packed_zstandard(folder: Path) -> Path:
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 31,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    packer = zstd.ZstdCompressor(options=options)
    content = film() + bytes(80 * MIB)
    (folder / "a.dcm.zst").write_bytes(packer.compress(content) + packer.flush())
    return folder / "a.dcm.zst"


def frames(count: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        data = pydicom.dcmread(io.BytesIO(film()))
        data.Rows = data.Columns = 1
        data.NumberOfFrames = count
        data.PixelData = np.arange(count, dtype=f"u{data.BitsAllocated // 8}").tobytes()
        data.save_as(folder / "a.dcm")
        return folder / "a.dcm"

    return make


ATTACKS: dict[str, Callable[[Path], Path]] = {
    "zip directory of 3,000,000 entries": zip_of(3_000_000),
    "zip directory of 990,000 entries": zip_of(990_000),
    "1,000 tar links with targets of a mebibyte": tar_of(links),
    "600 tar names of a mebibyte": tar_of(names),
    "tar of 1,000,000 members": tar_of(million),
    "zip in a zip, with a member of a gibibyte": nested("zip"),
    "tar in a zip, with a member of a gibibyte": nested("tar"),
    "tar with a member of 256 MiB": large_member,
    "xz with a dictionary of 1.5 GiB": packed_xz,
    "Zstandard with a window of 2 GiB": packed_zstandard,
    "80,000 frames of one pixel": frames(80_000),
    "20,000 frames of one pixel": frames(20_000),
    "10,000 frames of one pixel": frames(10_000),
}


def peak(pid: int) -> int:
    """Peak memory of a process in KiB; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for child in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = child.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found |= {int(child.parent.name)} | descendants(int(child.parent.name))
    return found


def screened(source: Path, run: Path, limit: float) -> list[object]:
    """Main MiB, worker MiB, seconds, and the rows in words."""
    command = ["-c", "from medood.cli.main import main; main()", "screen", str(source), "--out", str(run), "--workers", "2"]
    started, main, worker = time.monotonic(), 0, 0
    process = subprocess.Popen([sys.executable, *command, "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and time.monotonic() - started < limit:
        main = max(main, peak(process.pid))
        worker = max([worker, *(peak(pid) for pid in descendants(process.pid))])
        time.sleep(0.1)
    seconds = time.monotonic() - started
    if process.poll() is None:
        process.kill()
        return [main // 1024, worker // 1024, f"{seconds:.0f}", f"did not end within {limit:g} s"]
    with sqlite3.connect(run / "ledger.sqlite") as database:
        rows = Counter(database.execute("SELECT status, substr(reason, 1, 90) FROM scans"))
    said = "; ".join(f"{count} {status}: {reason}" for (status, reason), count in rows.most_common(2))
    return [main // 1024, worker // 1024, f"{seconds:.0f}", said.replace(f"{source.parent}/", "")]


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=900, help="seconds for each")
    parser.add_argument("--only", default="", help="those whose name holds this text")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "attacks.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["archive", "main MiB", "worker MiB", "seconds", "rows"])
        for name, make in ATTACKS.items():
            if options.only in name:
                with tempfile.TemporaryDirectory() as folder:
                    row = [name, *screened(make(Path(folder)), Path(folder) / "run", options.limit)]
                writer.writerow(row)
                stream.flush()
                print(*row, sep=" | ")


if __name__ == "__main__":
    run()
