"""``medood negatives``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor

from medood.config.loader import load_config


def negatives_command(
    config: Annotated[Path, typer.Argument(help="A YAML file such as configs/cxr.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ..., as for medood train.")] = None,
    png: Annotated[Path, typer.Option("--out", help="The contact sheet.")] = Path("runs/negatives.png"),
    rows: Annotated[int, typer.Option("--rows", min=2, help="Images shown.")] = 4,
) -> None:
    """Show images beside the negatives that a configuration makes of them; synthetic chests where data.root is not set."""
    from medood.workflows.preflight import check_sheet

    check_sheet(png, "--out")
    run = load_config(config, overrides or [])

    from medood.errors import MedoodError
    from medood.negatives.contact_sheet import contact_sheet, save_sheet

    if not run.negatives.mixture:
        raise MedoodError("negatives.mixture is empty; there is nothing to show.")
    images = _pictures(run.data.root, run.network_size, run.preprocess.channels, rows)
    print(save_sheet(contact_sheet(images, run.negatives.mixture, 0), png))


def _pictures(root: str, size: int, channels: int, rows: int) -> Tensor:
    import torch

    from medood.config.schema import PreprocessConfig
    from medood.phantom.chest import frontal_chest
    from medood.scans.reader import read_scans
    from medood.scans.scan import Scan
    from medood.scans.transforms import network_input, preprocessing

    chain = preprocessing(PreprocessConfig(max(size, 96), channels=channels))
    tensors: list[Tensor] = []
    if root:
        for result in read_scans(root):
            if isinstance(result, Scan):
                tensors.append(network_input(result, chain))
            if len(tensors) == rows:
                break
    else:
        side = max(size, 96)
        chests = [torch.from_numpy(frontal_chest(seed, side).image).float() for seed in range(rows)]
        tensors = [chest.expand(channels, -1, -1) for chest in chests]
    return torch.stack(tensors)
