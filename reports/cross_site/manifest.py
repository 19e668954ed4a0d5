"""The manifest of the cross-site benchmark: that of the real images, with pairs of one source and severity.

Pairs: ``nih`` and ``paediatric``, normal against pneumonia; ``nih_pa_adults``, the pneumonia radiographs of standing
(PA) adults against the same normals without the patients who are under 18 on every radiograph whose age is known (the
view of the normals is not known). Severity: the senior reader's Brixia score of ``covid_cohen`` radiographs.

Usage: MEDOOD_DATA=FOLDER python -m reports.cross_site.manifest MANIFEST.csv
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

ADULT = 18


def stem(path: str) -> str:
    return Path(path).stem


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream))


def main() -> None:
    data, target = Path(os.environ["MEDOOD_DATA"]), Path(sys.argv[1])
    nih = {stem(row["name"]): row for row in table(data / "metadata" / "nih_abnormal_age_sex_view.csv")}
    ages: dict[str, list[int]] = {}
    for name, row in nih.items():
        ages.setdefault(name.split("_")[0], []).append(int(row["age"]))
    children = {patient for patient, known in ages.items() if max(known) < ADULT}
    brixia = {stem(row["filename"]): row["S-Global"] for row in table(data / "metadata" / "brixia_scores_cohen.csv")}
    rows = []
    for row in table(data / "manifest.csv"):
        name, pairs = stem(row["source_path"]), []
        if row["dataset"] == "nih_normal":
            pairs = ["nih:normal"] + ["nih_pa_adults:normal"] * (name.split("_")[0] not in children)
        elif row["dataset"] == "nih_pneumonia":
            standing_adult = nih[name]["position"] == "PA" and int(nih[name]["age"]) >= ADULT
            pairs = ["nih:disease"] + ["nih_pa_adults:disease"] * standing_adult
        elif row["dataset"].startswith("paediatric_"):
            pairs = ["paediatric:normal" if row["dataset"] == "paediatric_normal" else "paediatric:disease"]
        file = os.path.relpath(data / row["file"], target.resolve().parent)
        severity = brixia.get(name, "") if row["dataset"] == "covid_cohen" else ""
        kept = {column: row[column] for column in ("split", "group", "dataset", "patient_id")}
        rows.append({"file": file, **kept, "pair": " ".join(pairs), "severity": severity})
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows, {sum(bool(row['severity']) for row in rows)} with severity")
    for pair in ("nih:disease", "nih:normal", "nih_pa_adults:disease", "nih_pa_adults:normal", "paediatric:normal"):
        print(pair, sum(pair in row["pair"].split() for row in rows))


if __name__ == "__main__":
    main()
