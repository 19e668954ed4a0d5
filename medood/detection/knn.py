"""Exact nearest-neighbour search of a bank, in blocks, so that memory stays bounded for any number of rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

#: Rows of the bank and of the queries that are compared at once: 4 MiB of cosines, which stay in the processor's cache.
BLOCK, QUERIES = 1024, 1024


def largest_cosine(rows: Tensor, bank: Tensor, center: Tensor | None = None) -> Tensor:
    """Cosine ``[N]`` of each row with its nearest row of the bank.

    Args:
        rows: ``[N, D]``, L2-normalised.
        bank: ``[M, D]``, L2-normalised.
        center: ``[D]``, subtracted from rows and bank, which are then normalised again; None leaves both unchanged.
    """
    parts = []
    for queries_block in _queries(rows, center):
        count = queries_block.shape[0]
        best, where = torch.full((count,), -torch.inf), torch.zeros(count, dtype=torch.int64)
        with torch.no_grad():
            for number, block in enumerate(_blocks(bank, center)):
                cosines, place = (queries_block @ block.T).max(dim=1)
                where = torch.where(cosines > best, place + number * BLOCK, where)
                best = torch.maximum(best, cosines)
        # The gradient flows through the nearest rows only, so no block is kept for it.
        parts.append((queries_block * center_rows(bank[where], center)).sum(dim=1) if queries_block.requires_grad else best)
    return torch.cat(parts)


def soft_cosine(rows: Tensor, bank: Tensor, temperature: float, center: Tensor | None = None) -> Tensor:
    """``T (logsumexp(cos / T) - log M)`` over the whole bank, ``[N]``; approaches :func:`largest_cosine` as T falls."""
    parts = []
    for queries_block in _queries(rows, center):
        scaled = queries_block / temperature
        total = torch.zeros(queries_block.shape[0])
        for block in torch.split(bank, BLOCK):
            if scaled.requires_grad:
                total = total + checkpoint(_exponentials, scaled, block, temperature, center, use_reentrant=False)
            else:
                total = total + _exponentials(scaled, block, temperature, center)
        parts.append(total)
    return 1.0 + temperature * (torch.cat(parts).log() - torch.log(torch.tensor(float(len(bank)))))


def _exponentials(scaled: Tensor, block: Tensor, temperature: float, center: Tensor | None) -> Tensor:
    """``sum exp((cos - 1) / T)`` over a block, ``[N]``: no term overflows, and at T = 0.04 none vanishes."""
    return torch.addmm(torch.tensor(-1.0 / temperature), scaled, center_rows(block, center).T).exp_().sum(dim=1)


def nearest_rows(rows: Tensor, bank: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cosines, in descending order, and indices of the nearest rows of the bank, both ``[N, count]``."""
    count = min(count, len(bank))
    cosines, places = [], []
    for queries_block in _queries(rows, None):
        best = torch.full((len(queries_block), count), -torch.inf)
        where = torch.zeros((len(queries_block), count), dtype=torch.int64)
        for start, block in zip(range(0, len(bank), BLOCK), _blocks(bank, None), strict=True):
            similarity = queries_block @ block.T
            better = torch.nonzero(similarity.amax(dim=1) > best[:, -1]).flatten()  # few, after the first blocks
            block_indices = torch.arange(start, start + len(block)).expand(len(better), -1)
            best[better], order = torch.cat([best[better], similarity[better]], dim=1).topk(count, dim=1)
            where[better] = torch.cat([where[better], block_indices], dim=1).gather(1, order)
        cosines.append(best)
        places.append(where)
    return torch.cat(cosines), torch.cat(places)


def center_rows(rows: Tensor, center: Tensor | None) -> Tensor:
    """Rows minus the centre, L2-normalised; a row at the centre becomes 0."""
    return rows if center is None else normalize(rows - center, dim=1)


def _queries(rows: Tensor, center: Tensor | None) -> Iterator[Tensor]:
    if torch.compiler.is_exporting():  # a graph's batches are for its user to choose
        yield center_rows(rows, center)
        return
    for queries_block in torch.split(rows, QUERIES):
        yield center_rows(queries_block, center)


def _blocks(bank: Tensor, center: Tensor | None) -> Iterator[Tensor]:
    for block in torch.split(bank, BLOCK):
        yield center_rows(block, center)
