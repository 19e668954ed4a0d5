"""Damages every real file in many ways and reads it: ``python -m tests.benchmarks.fuzz_ingest --data DIR --out DIR``.

Each file of ``dicom/`` and ``nifti/`` is cut at 10 places, gets 20 random bytes flipped 6 times over, and has each
attribute that makes the image removed and set to nonsense. Workers are processes: a crash, or a file that takes more than
10 seconds, costs its worker and is counted. Seeded; what is in ``fuzz.csv`` already is not done again.

A damaged file must be refused, or give only images that the whole file gives. Where bytes were flipped a changed image
is no fault: nothing in the file says so.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import multiprocessing
import random
import resource
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

TIMEOUT = 10.0
MEMORY = 2 * 1024**3
COLUMNS = ("file", "mutation", "number", "result", "statuses", "scans", "seconds")
CUTS, FLIPS = 10, 6

#: What the attributes that make the image are set to; each is removed as well.
NONSENSE: dict[str, list[Any]] = {
    "Rows": ["+1", "*2", 65535],
    "Columns": ["+1", "-1", 0],
    "BitsAllocated": [8, 16, 13],
    "PhotometricInterpretation": ["NONSENSE", "RGB"],
    "TransferSyntaxUID": ["1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70", "1.2.3.4"],
    "PixelData": [b"", b"\0\1" * 50],
}
#: Offset, struct format and values of NIfTI-1 header fields.
NIFTI = [(40, "h", [0, 200]), (42, "h", [32767, -1]), (70, "h", [0, 9999]), (108, "f", [1e9, float("nan")]), (0, "i", [0])]


def mutations(file: str) -> Iterator[tuple[str, int]]:
    """The names of everything that is done to one file."""
    yield from (("cut", i) for i in range(CUTS))
    yield from (("flip", i) for i in range(FLIPS))
    if file.startswith("dicom/"):
        for name, values in NONSENSE.items():
            yield from ((name, i) for i in range(len(values) + 1))
    else:
        yield from (("header", i) for i in range(sum(len(values) for _, _, values in NIFTI)))


def mutated(content: bytes, file: str, mutation: str, number: int, seed: int) -> bytes | None:
    """The damaged bytes; none where the damage does not apply."""
    rng = random.Random(f"{seed}:{file}:{mutation}:{number}")
    if mutation == "cut":
        return content[: rng.randrange(len(content) * number // CUTS, max(1, len(content) * (number + 1) // CUTS))]
    if mutation == "flip":
        damaged = bytearray(content)
        reach = len(content) if number % 2 else min(len(content), 4096)
        for _ in range(20):
            damaged[rng.randrange(reach)] ^= rng.randrange(1, 256)
        return bytes(damaged)
    return _nifti(content, number) if mutation == "header" else _attribute(content, mutation, number)


def _nifti(content: bytes, number: int) -> bytes:
    import struct

    plain = bytearray(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    offset, kind, value = [(o, k, v) for o, k, values in NIFTI for v in values][number]
    plain[offset : offset + struct.calcsize(kind)] = struct.pack(f"<{kind}", value)
    return bytes(plain)


def _attribute(content: bytes, name: str, number: int) -> bytes | None:
    import pydicom

    try:
        data = pydicom.dcmread(io.BytesIO(content), force=True)
        owner = data.file_meta if name == "TransferSyntaxUID" else data
        if name not in owner:
            return None
        if number == 0:
            delattr(owner, name)
        else:
            value = NONSENSE[name][number - 1]
            if value in ("+1", "-1"):
                value = int(owner[name].value) + int(value)
            elif value == "*2":
                value = int(owner[name].value) * 2
            if owner[name].value == value:
                return None
            owner[name].value = value
            if name == "PixelData":
                owner[name].is_undefined_length = False
        stream = io.BytesIO()
        implicit, little = data.original_encoding
        pydicom.dcmwrite(stream, data, implicit_vr=implicit, little_endian=little, force_encoding=True)
        return stream.getvalue()
    except Exception:
        return None  # pydicom cannot write it


def digests(content: bytes) -> tuple[list[str], list[str]]:
    """Digests of the images and the statuses of the refusals that reading gives."""
    from medood.scans.reader import read_source
    from medood.scans.scan import Scan
    from medood.scans.sources.source import Source

    images, statuses = [], []
    for result in read_source(Source(Path("x"), content=content)):
        if isinstance(result, Scan):
            images.append(hashlib.sha256(repr(result.pixels.shape).encode() + result.pixels.tobytes()).hexdigest())
        else:
            statuses.append(str(result.status))
            assert len(result.reason) > 10
    return images, statuses


def work(pipe: Connection, root: Path, seed: int) -> None:
    """Read what is asked for until the pipe closes."""
    warnings.simplefilter("ignore")

    @lru_cache(maxsize=2)
    def whole(file: str) -> frozenset[str]:
        return frozenset(digests((root / file).read_bytes())[0])

    while True:
        try:
            file, mutation, number = pipe.recv()
        except EOFError:
            return
        content = mutated((root / file).read_bytes(), file, mutation, number, seed)
        if content is None:
            pipe.send(("not applicable", "", 0, 0.0, 0))
            continue
        known = whole(file)
        pipe.send("ready")
        started = time.perf_counter()
        images, statuses = digests(content)
        seconds = time.perf_counter() - started
        same = all(image in known for image in images)
        result = "refused" if not images else "same images" if same else "changed image"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send((result, " ".join(sorted(set(statuses))), len(images), seconds, peak))


class Worker:
    """A process that reads damaged files, and what it is doing."""

    def __init__(self, root: Path, seed: int) -> None:
        self.pipe, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=work, args=(other, root, seed), daemon=True)
        self.process.start()
        other.close()
        self.task: tuple[str, str, int] | None = None
        self.since = 0.0

    def give(self, task: tuple[str, str, int]) -> None:
        self.task, self.since = task, time.monotonic() + 60  # reading the whole file first is not measured
        self.pipe.send(task)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


def run(root: Path, out: Path, seed: int, workers: int, limit: int | None) -> None:
    """Do what is not yet in ``fuzz.csv``."""
    files = sorted(str(p.relative_to(root)) for part in ("dicom", "nifti") for p in (root / part).rglob("*") if p.is_file())
    tasks = [(f, *m) for f in files if not f.endswith("manifest.csv") for m in mutations(f)]
    target = out / "fuzz.csv"
    done = set()
    if target.exists():
        with target.open() as stream:
            done = {(row["file"], row["mutation"], int(row["number"])) for row in csv.DictReader(stream)}
    todo = iter([task for task in tasks if task not in done][:limit])
    out.mkdir(parents=True, exist_ok=True)
    with target.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if not done:
            writer.writerow(COLUMNS)
        pool = [Worker(root, seed) for _ in range(workers)]
        for worker in list(pool):
            task = next(todo, None)
            if task is None:
                worker.stop()
                pool.remove(worker)
            else:
                worker.give(task)
        while pool:
            wait([worker.pipe for worker in pool], timeout=0.5)
            for place, worker in enumerate(list(pool)):
                row = _answer(worker)
                if row is None:
                    continue
                writer.writerow(row)
                stream.flush()
                task = next(todo, None)
                if not worker.process.is_alive() or row[3] in ("hang", "memory"):
                    worker.stop()
                    worker = pool[place] = Worker(root, seed)
                if task is None:
                    worker.stop()
                    pool.remove(worker)
                    break
                worker.give(task)


def _answer(worker: Worker) -> list[Any] | None:
    """The row of a finished task; none while it runs."""
    assert worker.task is not None
    try:
        if worker.pipe.poll():
            message = worker.pipe.recv()
            if message == "ready":
                worker.since = time.monotonic()
                return None
            result, statuses, scans, seconds, peak = message
            return [*worker.task, "memory" if peak > MEMORY else result, statuses, scans, f"{seconds:.3f}"]
    except (EOFError, ConnectionError):
        worker.process.join(5)
        return [*worker.task, "crash", f"exit code {worker.process.exitcode}", 0, ""]
    if not worker.process.is_alive():
        return [*worker.task, "crash", f"exit code {worker.process.exitcode}", 0, ""]
    if time.monotonic() - worker.since > TIMEOUT:
        return [*worker.task, "hang", "", 0, TIMEOUT]
    return None


def summarise(out: Path) -> str:
    """Count ``fuzz.csv`` by kind of damage into ``fuzz_summary.csv``."""
    with (out / "fuzz.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["result"] != "not applicable"]
    results = ["refused", "same images", "changed image", "crash", "hang", "memory"]
    counts = Counter((row["mutation"], row["result"]) for row in rows)
    kinds = list(dict.fromkeys(row["mutation"] for row in rows))
    with (out / "fuzz_summary.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["damage", "files", *results, "median seconds", "slowest seconds"])
        for kind in [*kinds, "all"]:
            some = [row for row in rows if kind in (row["mutation"], "all")]
            seconds = [float(row["seconds"]) for row in some if row["seconds"]]
            each = [sum(counts[k, result] for k in kinds if kind in (k, "all")) for result in results]
            writer.writerow([kind, len(some), *each, f"{statistics.median(seconds):.4f}", f"{max(seconds):.2f}"])
    return (out / "fuzz_summary.csv").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds dicom/ and nifti/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, help="do at most this many more")
    given = parser.parse_args()
    run(given.data, given.out, given.seed, given.workers, given.limit)
    print(summarise(given.out))


if __name__ == "__main__":
    main()
