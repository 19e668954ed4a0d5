"""``medood doctor``."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import typer

PACKAGES = (
    "monai",
    "torch",
    "torchvision",
    "timm",
    "pydicom",
    "nibabel",
    "scikit-learn",
    "hydra-core",
    "grad-cam",
    "imagecodecs",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pillow",
    "lightning-fabric",
    "typst",
)


def doctor_command() -> None:
    """Print versions, devices, and which DICOM transfer syntaxes decode here.

    Exit code 2 where one does not; the line says what to install.
    """
    from medood.scans.dicom.transfer_syntaxes import supported_syntaxes

    print(f"medood {version('medood')}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        print(f"  {name:<22}{_version(name)}")
    print("devices")
    for line in _devices():
        print(f"  {line}")
    print("transfer syntaxes")
    missing = False
    for support in supported_syntaxes():
        missing = missing or not support.plugin
        print(f"  {support.plugin or 'none':<13}{support.syntax:<26}{support.syntax.name}  {support.remedy}".rstrip())
    print("  not read     MPEG and HEVC video, JPEG XL, JPIP: convert with the program that wrote them")
    if missing:
        raise typer.Exit(2)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return f"missing; pip install {name}"


def _devices() -> list[str]:
    try:
        import torch
    except ImportError:
        return ["torch cannot be imported; pip install torch"]
    lines = [f"CPU, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        lines.append(f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return lines if len(lines) > 1 else [*lines, "no CUDA device; configs/cxr_cpu.yaml trains without one"]
