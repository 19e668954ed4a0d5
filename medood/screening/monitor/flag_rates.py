"""How often a run flagged, by device and by month, with intervals."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

from medood.detection.conformal import Decision
from medood.screening.ledger.database import Ledger
from medood.screening.ledger.run_metadata import ArchiveFindings

#: Largest number of devices that are named; the others are counted together.
MOST = 12
#: Fewest files of a month in the sample for which a rate is stated.
FEWEST = 20


@dataclass(frozen=True)
class FlagRate:
    """Flagged files of one device or month.

    Attributes:
        name: manufacturer and model, or ``YYYY-MM``; empty where the files state none, ``*`` for all other devices together.
        scans: number of files with a score.
        flagged: number of these with a flagged frame.
    """

    name: str
    scans: int
    flagged: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the rate, were the files independent draws."""
        from scipy.stats import binomtest

        interval = binomtest(self.flagged, self.scans).proportion_ci(method="wilson")
        return float(interval.low), float(interval.high)


def by_device(ledger: Ledger) -> list[FlagRate]:
    """The flag rate of each device, most files first."""
    scans, flagged = Counter[str](), Counter[str]()
    attributes = (f"json_extract(metadata, '$.attributes.{name}')" for name in ("Manufacturer", "ManufacturerModelName"))
    columns = ledger.scored_columns("file", "item", "decision", *attributes)
    for _, frames in itertools.groupby(columns, key=lambda row: row[:2]):
        rows = list(frames)
        name = " ".join(part for part in rows[0][3:] if part)
        scans[name] += 1
        flagged[name] += any(row[2] == Decision.OUT_OF_DISTRIBUTION for row in rows)
    names = sorted(scans, key=lambda name: (-scans[name], name))
    rates = [FlagRate(name, scans[name], flagged[name]) for name in names[:MOST]]
    if rest := names[MOST:]:
        rates.append(FlagRate("*", sum(scans[name] for name in rest), sum(flagged[name] for name in rest)))
    return rates


def by_month(archive: ArchiveFindings | None) -> list[FlagRate]:
    """The flag rate of each month with enough patients and files in the sample of the archive, where the first scan of each
    file counts; none in runs of earlier versions."""
    months = archive.months if archive else []
    return [
        FlagRate(month["month"], month["sampled"], month["flagged"]) for month in months if month.get("sampled", 0) >= FEWEST
    ]
