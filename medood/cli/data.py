"""``medood data``: cards of public data sets, manifests made of them, and manifests checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medood.errors import MedoodError

data_app = typer.Typer(no_args_is_help=True, help="Cards of public data sets, and manifests for medood benchmark.")


@data_app.command("list")
def list_command(name: Annotated[str, typer.Argument(help="Print this card whole.")] = "") -> None:
    """List the data cards, or print one."""
    from medood.config.resources import shipped_file
    from medood.evaluation.data_cards import cards, find_card

    if name:
        print(shipped_file(f"datasets/{find_card(name).key}.yaml").read_text(encoding="utf-8"), end="")
        return
    all_cards = cards()
    width = max(len(card.key) for card in all_cards)
    for card in all_cards:
        print(f"{card.key:<{width}}  {card.name}: {card.allows}")


@data_app.command("manifest")
def manifest_command(
    name: Annotated[str, typer.Argument(help="A data card; see medood data list.")],
    folder: Annotated[Path, typer.Argument(help="Where the data set was unpacked to.")],
    out: Annotated[Path, typer.Option("--out", help="The manifest to write.")],
    normal: Annotated[
        str, typer.Option("--normal", help="What its normal scans are: in_distribution (split by patient) or id_shift.")
    ] = "id_shift",
    append: Annotated[bool, typer.Option("--append", help="Add to a manifest that is there.")] = False,
    read_images: Annotated[
        bool, typer.Option("--look/--no-look", help="Read every file, for unreadable ones and near-duplicates.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the split.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of the manifest.")] = False,
) -> None:
    """Make the manifest of a downloaded data set: groups, patient-wise splits, near-duplicates."""
    from medood.evaluation.data_cards import find_card
    from medood.evaluation.manifest_builder import make_manifest, write_manifest
    from medood.progress import Progress

    progress = Progress(quiet=quiet)
    card = find_card(name)
    built = make_manifest(card, folder, normal=normal, read_images=read_images, seed=seed, progress=progress)
    total = write_manifest(built, folder, out, append)
    progress.say(f"{card.name}: {card.licence}. {card.allows}")
    for note in [*built.notes, *built.unreadable[:20]]:
        progress.say(note)
    progress.say(
        f"{len(built.entries)} rows added, {total} in all; left out: {built.no_rule} that no rule takes, {built.no_label} "
        f"without a label, {len(built.unreadable)} unreadable, {len(built.same_content)} copies; {len(built.near_pairs)} "
        "pairs "
        "of nearly the same image, each in one split"
    )
    print(out)


@data_app.command("check")
def check_command(
    manifest: Annotated[Path, typer.Argument(help="A manifest for medood benchmark.")],
    quiet: Annotated[bool, typer.Option("--quiet", help="Print problems only.")] = False,
) -> None:
    """Check a manifest and its files; exit code 2 where there is a problem."""
    from medood.evaluation.manifest_builder import check_manifest
    from medood.progress import Progress

    check = check_manifest(manifest, Progress(quiet=quiet))
    if not quiet:
        for (group, dataset, split), count in check.counts.items():
            print(f"{count:>8}  {group}/{dataset}, {split}")
    for problem in check.problems:
        print(problem)
    if check.problems:
        raise MedoodError(f"{manifest}: {len(check.problems)} problems.")
