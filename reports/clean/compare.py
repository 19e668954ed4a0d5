"""Plants 200 issues in 1,800 radiographs and counts what medood clean, CleanVision and fastdup find.

  MEDOOD_DATA=FOLDER python -m reports.clean.compare plant WORK          WORK/data and WORK/truth.json
  python -m reports.clean.compare medood WORK                            WORK/medood.json
  python reports/clean/compare.py cleanvision WORK                       WORK/cleanvision.json; needs CleanVision (PyPI)
  python reports/clean/compare.py fastdup WORK                           WORK/fastdup.json; needs fastdup (PyPI, not for
                                                                         commercial use, not part of medood)
  python -m reports.clean.compare table WORK > reports/clean/table.csv

The radiographs are healthy ones of four sources: 1,000 like those that the detector learned from, 400 of NIH, 274 of a
teaching set and 126 of another device; none was learned or calibrated with. 40 files are copies, 40 are smaller and
compressed again, 40 are turned, mirrored or inverted, 60 are no chest radiographs, and 20 are cut short or empty. medood may
list 1 % of in-distribution scans as outliers. Of CleanVision any issue but "grayscale" counts for a fault or another kind of
image; of fastdup its list of outliers. Pairs that fastdup finds at least 0.96 similar, by which it forms groups, count as
near-duplicates.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections import defaultdict
from importlib import import_module
from pathlib import Path

from PIL import Image, ImageOps

RATE = 0.01
SOURCES = {
    "in_distribution/test": 1000,
    "id_shift/nih_normal": 400,
    "id_shift/openist_normal": 274,
    "id_shift/pk_normal": 126,
}
FAR = ("bone_xray", "brain_mri", "breast_ultrasound", "chest_ct", "cifar10", "textures")
FAULTS = {
    "rotated": lambda image: image.rotate(90, expand=True),
    "upside_down": ImageOps.flip,
    "mirrored": ImageOps.mirror,
    "inverted": ImageOps.invert,
}
#: What each tool's issues say of a planted one.
_STRANGE = {"fault", "outlier", "dark", "light", "odd_aspect_ratio", "odd_size", "low_information", "blurry"}
FINDS = {
    "copy": {"exact_duplicate", "exact_duplicates"},
    "smaller copy": {"near_duplicate", "near_duplicates"},
    "fault": _STRANGE,
    "no chest radiograph": _STRANGE,
    "unreadable": {"unreadable"},
}
#: Similarities from which on fastdup's pairs count as near-duplicates (its own default for groups), and as the same.
ALIKE, SAME = 0.96, 0.9999
DUPLICATES = FINDS["copy"] | FINDS["smaller copy"]


def plant(data: Path, work: Path) -> None:
    folder, truth, rng = work / "data", dict[str, str](), random.Random(0)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    inside = [path for part, count in SOURCES.items() for path in sorted((data / part).glob("*.*"))[:count]]
    spare = sorted((data / "id_shift" / "pk_normal").glob("*.*"))[126:166]
    rng.shuffle(inside)
    kept = inside
    for number, path in enumerate(kept):
        shutil.copy(path, folder / f"r{number:04d}{path.suffix}")
    for number, path in enumerate(kept[:40]):
        shutil.copy(path, folder / f"s{number:04d}{path.suffix}")
        truth[f"s{number:04d}{path.suffix}"] = "copy"
    for number, path in enumerate(kept[40:80]):
        image = Image.open(path).convert("L")
        image.resize((int(image.width * 0.8), int(image.height * 0.8))).save(folder / f"t{number:04d}.jpg", quality=70)
        truth[f"t{number:04d}.jpg"] = "smaller copy"
    for number, path in enumerate(spare):
        fault = list(FAULTS)[number % len(FAULTS)]
        FAULTS[fault](Image.open(path).convert("L")).save(folder / f"u{number:04d}.jpg", quality=95)
        truth[f"u{number:04d}.jpg"] = "fault"
    for number in range(60):
        paths = sorted((data / "far" / FAR[number % len(FAR)]).glob("*.*"))
        path = paths[number // len(FAR)]
        shutil.copy(path, folder / f"v{number:04d}{path.suffix}")
        truth[f"v{number:04d}{path.suffix}"] = "no chest radiograph"
    for number, path in enumerate(kept[100:120]):
        content = path.read_bytes()
        (folder / f"w{number:04d}.jpg").write_bytes(content[: len(content) // 3] if number % 2 else b"")
        truth[f"w{number:04d}.jpg"] = "unreadable"
    (work / "truth.json").write_text(json.dumps(truth))


def medood_issues(work: Path) -> dict[str, list[str]]:
    from medood import RunOptions, clean

    shutil.rmtree(work / "out", ignore_errors=True)
    cleaning = clean([work / "data"], work / "out", fpr=RATE, options=RunOptions(workers=2))
    issues = defaultdict(list)
    for issue in cleaning.issues:
        issues[Path(issue.file).name].append(issue.issue)
        if issue.other:  # a pair: either may be the copy
            issues[Path(issue.other).name].append(issue.issue)
    return issues


def cleanvision_issues(work: Path) -> dict[str, list[str]]:
    readable = work / "readable"  # CleanVision stops at a damaged file
    shutil.rmtree(readable, ignore_errors=True)
    shutil.copytree(work / "data", readable, ignore=shutil.ignore_patterns("w*"))
    lab = import_module("cleanvision").Imagelab(data_path=str(readable))
    lab.find_issues()
    issues = defaultdict(list)
    for column in lab.issues.columns:
        if column.startswith("is_") and column.endswith("_issue"):
            for path in lab.issues.index[lab.issues[column]]:
                issues[Path(path).name].append(column.removeprefix("is_").removesuffix("_issue"))
    return issues


def fastdup_issues(work: Path) -> dict[str, list[str]]:
    os.environ["SENTRY_OPT_OUT"] = "1"
    search = import_module("fastdup").create(work_dir=str(work / "fastdup"), input_dir=str(work / "data"))
    search.run(overwrite=True)
    issues = defaultdict(list)
    pairs = search.similarity()
    for one, other, alike in zip(pairs["filename_from"], pairs["filename_to"], pairs["distance"], strict=True):
        if alike >= ALIKE:
            for path in (one, other):
                issues[Path(path).name].append("exact_duplicate" if alike >= SAME else "near_duplicate")
    for path in search.outliers()["filename_outlier"]:
        issues[Path(path).name].append("outlier")
    for path in search.invalid_instances()["filename"]:
        issues[Path(path).name].append("unreadable")
    return issues


def table(work: Path) -> None:
    truth = json.loads((work / "truth.json").read_text())
    planted = defaultdict(list)
    for name, kind in truth.items():
        planted[kind].append(name)
    print("tool,kind,planted,found,of_others_listed,seconds")
    for tool in TOOLS:
        stored = json.loads((work / f"{tool}.json").read_text())
        issues, seconds = stored["issues"], stored["seconds"]
        for kind, names in planted.items():
            found = sum(bool(FINDS[kind] & set(issues.get(name, []))) for name in names)
            print(f"{tool},{kind},{len(names)},{found},,{seconds:.0f}")
        plain = {path.name for path in (work / "data").iterdir()} - set(truth)
        originals = {name for name in plain if int(name[1:5]) < 80}
        twice = sum(bool(DUPLICATES & set(issues.get(name, []))) for name in plain - originals)
        others = sum(bool(set(issues.get(name, [])) - DUPLICATES - {"grayscale"}) for name in plain)
        print(f"{tool},a duplicate that is none,{len(plain - originals)},,{twice},{seconds:.0f}")
        print(f"{tool},any other issue of a radiograph,{len(plain)},,{others},{seconds:.0f}")


TOOLS = {"medood": medood_issues, "cleanvision": cleanvision_issues, "fastdup": fastdup_issues}


def main() -> None:
    what, work = sys.argv[1], Path(sys.argv[2])
    if what == "plant":
        plant(Path(os.environ["MEDOOD_DATA"]), work)
    elif what == "table":
        table(work)
    else:
        started = time.perf_counter()
        issues = TOOLS[what](work)
        seconds = time.perf_counter() - started
        (work / f"{what}.json").write_text(json.dumps({"issues": issues, "seconds": seconds}))


if __name__ == "__main__":
    main()
