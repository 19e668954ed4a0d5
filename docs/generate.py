"""Write the reference pages that follow from the code, and copy the studies, when MkDocs builds the site."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import mkdocs_gen_files

import medood
from medood.config.loader import config_keys
from medood.screening.ledger.database import VERDICT_COLUMNS, Row

ROOT = Path(__file__).parent.parent


def write(path: str, text: str) -> None:
    with mkdocs_gen_files.open(path, "w") as stream:
        stream.write(text)


def api() -> str:
    names = [name for name in medood.__all__ if name != "__version__"]
    lines = ["# Python API", "", "Everything here is imported from `medood`, and nothing is loaded before it is used.", ""]
    for name in names:
        module, attribute = medood._PUBLIC[name]
        lines += [f"::: {module}.{attribute}", ""]
    return "\n".join(lines)


def command_line() -> str:
    command = [sys.executable, "-m", "typer", "medood.cli.main", "utils", "docs", "--name", "medood"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    text = re.sub(r"^# `?medood`?$", "# Command line", text, count=1, flags=re.M)
    return text.replace("\u00a0", " ").replace("\b", "")


def configuration() -> str:
    lines = ["# Configuration", "", "Keys of a YAML file for `medood train`, and of `key=value` overrides.", ""]
    lines += ["| key | default | meaning |", "|---|---|---|"]
    for key, default, text in config_keys():
        value = "" if default in (None, "") else f"`{default}`"
        lines.append(f"| `{key}` | {value} | {' '.join(text.replace('|', '/').split())} |")
    return "\n".join(lines) + "\n"


def verdicts() -> str:
    meaning = dict(re.findall(r"^\s+(\w+): (.+)$", Row.__doc__ or "", re.M))
    rows = [
        f"| `{name}` | {meaning[name].replace(':class:', '').replace(':mod:', '')} |" for name in Row.__dataclass_fields__
    ]
    table = "\n".join(["| column | meaning |", "|---|---|", *rows])
    sentences = json.loads((ROOT / "medood" / "reasons.json").read_text(encoding="utf-8"))
    plain = {code: re.sub(r"{(\w+)[^}]*}", r"{\1}", texts["en"]) for code, texts in sentences.items()}
    lines = [f"| `{code}` | {text} |" for code, text in plain.items()]
    reasons = "\n".join(["| code | sentence |", "|---|---|", *lines])
    return (
        "# Verdicts and ledger\n\n"
        f"`verdicts.csv` has the columns {', '.join(f'`{name}`' for name in VERDICT_COLUMNS)}, in this order; later "
        "versions add columns at the end. [What they hold](../howto/screening.md).\n\n"
        f"`ledger.sqlite` has one row per image, or per file without an image, in the table `scans`:\n\n{table}\n\n"
        "`reason_code` and `reason_values` (JSON) say the same as `reason`, for queries and for reports in other languages; "
        f"rows of old versions have none.\n\n## Reason codes\n\n{reasons}\n"
    )


for page, text in {
    "reference/api.md": api(),
    "reference/command_line.md": command_line(),
    "reference/configuration.md": configuration(),
    "reference/verdicts.md": verdicts(),
}.items():
    write(page, text)
for folder, target in ((ROOT / "reports", "reports"), (ROOT / "medood" / "detectors", "detectors")):
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".md", ".csv", ".png", ".pdf", ".json", ".txt"):
            with mkdocs_gen_files.open(f"{target}/{path.relative_to(folder)}", "wb") as stream:
                stream.write(path.read_bytes())
