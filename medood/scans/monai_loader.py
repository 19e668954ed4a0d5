"""Load scans in a MONAI pipeline: ``LoadScand``, a counterpart of MONAI's own ``LoadImaged``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from medood.config.schema import ReadConfig
from medood.errors import MedoodError
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.scans.transforms import ScanToTensor


class LoadScand(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Replace a path by its scan: a float32 ``MetaTensor`` ``[1, H, W]`` in [0, 1], bone white, rows first.

    The affine holds the pixel spacing; ``meta`` holds ``filename_or_obj``, ``grayscale`` (how the grey values were made),
    ``attributes``, ``frame`` and ``sha256``. From a file with several frames, the chosen one is loaded.

    Args:
        keys: keys of the paths in the dictionary.
        frames: ``first`` or ``middle``.
        plane: slice plane of volumes: ``axial``, ``coronal`` or ``sagittal``.
        allow_missing_keys: skip missing keys instead of raising an error.

    Raises:
        MedoodError: when called on a file without an image; the message gives the reason.
    """

    def __init__(
        self, keys: KeysCollection, frames: str = "first", plane: str = "axial", *, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self._options = ReadConfig(frames=frames, plane=plane)
        self._to_tensor = ScanToTensor()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the paths replaced."""
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            path = Path(loaded[key])
            try:
                result = next(iter(read_scans(path, self._options)), None)
            except FileNotFoundError as error:
                raise MedoodError(f"{error}.") from error
            if not isinstance(result, Scan):
                raise MedoodError(f"{path} holds no image: {result.reason if result else 'it is empty'}.")
            tensor = self._to_tensor(result)
            tensor.meta.update(  # type: ignore[attr-defined]
                filename_or_obj=str(path),
                frame=result.identity.frame,
                sha256=result.identity.sha256,
                grayscale=asdict(result.grayscale),
                attributes=result.attributes,
            )
            loaded[key] = tensor
        return loaded
