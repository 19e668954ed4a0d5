"""Names of commands and options: panels, summaries, examples, and the old names that still work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import typer.main

from medood.cli.main import _PANELS, app
from medood.cli.renamed import current_names
from medood.errors import ExitCode, MedoodError
from tests.cli.test_commands import medood
from tests.conftest import ROOT

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def options_of(words: list[str]) -> set[str]:
    """The options of the command that a command line names, after it was found."""
    command = COMMANDS[words[0]]
    if hasattr(command, "commands"):
        command = command.commands[words[1]]
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def test_every_command_has_a_panel_a_short_summary_and_an_example() -> None:
    text = medood("--help").stdout
    for panel, commands in _PANELS.items():
        assert f"{panel}:\n" in text
        for name, _, summary, example in commands:
            assert len(summary) < 50
            assert re.search(rf"^  {name} +{re.escape(summary)}$", text, re.M), name
            assert example in medood(name, "--help").stdout
    assert "..." not in text.partition("Learn:")[2], "no summary is cut"


def command_lines() -> list[str]:
    examples = [example for commands in _PANELS.values() for _, _, _, example in commands]
    for page in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "reports").rglob("*.sh"),
    ]:
        text = page.read_text().replace("\\\n", " ")
        blocks = [text] if page.suffix == ".sh" else re.findall(r"```\n(.*?)```", text, re.S)
        examples += [line for block in blocks for line in re.findall(r"^\s*(medood [a-z].*)$", block, re.M)]
        examples += re.findall(r"`(medood [a-z][^`\n]*)`", text)
    return sorted({line.split("  #")[0].strip() for line in examples})


@pytest.mark.parametrize("line", command_lines())
def test_documented_commands_and_options_are_there(line: str) -> None:
    words = re.sub(r"[\[\]|]", " ", line).replace("...", " ").split()[1:]
    assert current_names(words)[1] == [], "an old name"
    if words[0] in COMMANDS:
        options = options_of(words)
        for word in words:
            if word.startswith("--") and word != "--":
                assert word.partition("=")[0].rstrip(",;") in options, word
    else:
        assert words[0] in ("COMMAND",), words[0]


def test_old_names_work_with_a_hint(tmp_path: Path) -> None:
    done = medood("negatives", ROOT / "configs" / "demo.yaml", "--png", tmp_path / "sheet.png", "--rows", 2)
    assert done.stderr == "medood: the option --png is now called --out; the old name will be removed in 0.3\n"
    assert (tmp_path / "sheet.png").is_file()
    assert "medood bench is now called medood speed" in medood("bench", "--help").stderr
    assert current_names(["report", "run", "--known=f", "--no-pictures"])[0] == [
        *("report", "run", "--training-scans=f", "--no-images")
    ]
    assert current_names(["inspect", "a", "--png", "b"]) == (["inspect", "a", "--png", "b"], [])
    assert current_names([]) == ([], [])


def test_exit_codes_lie_on_the_errors() -> None:
    from medood.distillation.collapse import CollapseError
    from medood.distillation.trainer import TerminatedError

    assert (MedoodError.exit_code, CollapseError.exit_code, TerminatedError.exit_code) == (2, 3, 143)
    assert len({code.meaning for code in ExitCode}) == len(ExitCode) == 7
    assert shlex.split("medood")  # names are plain words
