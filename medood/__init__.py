"""Find the scans of an archive that do not belong.

>>> import medood
>>> medood.train(config)                                     # a detector folder
>>> medood.screen(["archive.zip"], "runs/detector", "runs/screening")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medood.config.loader import load_config
    from medood.config.schema import ReadConfig as ReadOptions
    from medood.detection.detector import Detector
    from medood.errors import MedoodError
    from medood.evaluation.benchmark import benchmark
    from medood.reporting.pdf import report
    from medood.scans.monai_loader import LoadScand
    from medood.scans.reader import read_scans
    from medood.scans.scan import Refusal, Scan
    from medood.screening.run import screen
    from medood.screening.run_options import RunOptions
    from medood.workflows.calibrate import calibrate
    from medood.workflows.clean import clean
    from medood.workflows.train import train

    __version__: str

__all__ = [
    "Detector",
    "LoadScand",
    "MedoodError",
    "ReadOptions",
    "Refusal",
    "RunOptions",
    "Scan",
    "__version__",
    "benchmark",
    "calibrate",
    "clean",
    "load_config",
    "read_scans",
    "report",
    "screen",
    "train",
]

#: Module and name of each public object.
_PUBLIC = {
    "Detector": ("medood.detection.detector", "Detector"),
    "LoadScand": ("medood.scans.monai_loader", "LoadScand"),
    "MedoodError": ("medood.errors", "MedoodError"),
    "ReadOptions": ("medood.config.schema", "ReadConfig"),
    "Refusal": ("medood.scans.scan", "Refusal"),
    "RunOptions": ("medood.screening.run_options", "RunOptions"),
    "Scan": ("medood.scans.scan", "Scan"),
    "benchmark": ("medood.evaluation.benchmark", "benchmark"),
    "calibrate": ("medood.workflows.calibrate", "calibrate"),
    "clean": ("medood.workflows.clean", "clean"),
    "load_config": ("medood.config.loader", "load_config"),
    "read_scans": ("medood.scans.reader", "read_scans"),
    "report": ("medood.reporting.pdf", "report"),
    "screen": ("medood.screening.run", "screen"),
    "train": ("medood.workflows.train", "train"),
}


def __getattr__(name: str) -> Any:
    """Import a public object when it is first used, so that the command line starts fast."""
    if name == "__version__":
        from importlib.metadata import version

        return version("medood")
    if name in _PUBLIC:
        from importlib import import_module

        module, attribute = _PUBLIC[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'medood' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return __all__
