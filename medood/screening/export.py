"""Export a run's verdicts as CSV, JSON lines or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medood.errors import MedoodError
from medood.output_folder import atomic_write
from medood.screening.ledger.database import VERDICT_COLUMNS, Ledger, Row

#: Version of the columns, stored in the Parquet metadata and in each JSON line; new columns raise the minor number.
VERDICTS_VERSION = "1.1"
_BATCH = 10_000


def export(run: Path, target: Path) -> Path:
    """Write a run's verdicts as ``.csv``, ``.jsonl`` or ``.parquet``; the file is replaced atomically.

    The columns are ``VERDICT_COLUMNS``. Where a row has no score, ``score`` and ``p_value`` are null (empty in CSV).

    Args:
        run: the folder that ``screen`` wrote.
        target: the output file; its extension selects the format.

    Raises:
        MedoodError: there is no run, the extension is unknown, pyarrow is missing, or the file cannot be written.
    """
    writers = {".jsonl": _jsonl, ".parquet": _parquet}
    endings = (".csv", *writers)
    if target.suffix not in endings:
        raise MedoodError(f"{target} ends in {target.suffix or 'nothing'!r}; expected one of {', '.join(endings)}.")
    ledger = Ledger(run)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".csv":
            ledger.write_csv(target)
        else:
            with atomic_write(target) as partial:
                writers[target.suffix](ledger, partial)
    except OSError as error:
        raise MedoodError(f"{target} cannot be written: {error.strerror or error}. Give a writable location.") from error
    finally:
        ledger.close()
    return target


def _jsonl(ledger: Ledger, target: Path) -> None:
    with target.open("w", encoding="utf-8") as stream:
        for row in ledger.rows():
            stream.write(json.dumps({"version": VERDICTS_VERSION, **_plain(row)}, allow_nan=False) + "\n")


def _parquet(ledger: Ledger, target: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MedoodError("Parquet needs pyarrow, which is not installed. Install medood[parquet] or use .jsonl.") from error
    kinds = {"frame": pyarrow.int32(), "score": pyarrow.float64(), "p_value": pyarrow.float64()}
    schema = pyarrow.schema(
        [(name, kinds.get(name, pyarrow.string())) for name in VERDICT_COLUMNS],
        metadata={"medood_verdicts": VERDICTS_VERSION, "medood_run": json.dumps(asdict(ledger.metadata().detector))},
    )
    with pyarrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in _batches(ledger):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


def _plain(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in VERDICT_COLUMNS}


def _batches(ledger: Ledger) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in ledger.rows():
        batch.append(_plain(row))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    yield batch
