"""Where a number comes from: versions, source revision, device."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("empool", "torch", "lightning", "torchmetrics", "numpy", "pillow", "timm", "torchvision")


def versions() -> dict[str, str]:
    """Give the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Give the Git revision of this package's source, with "-dirty" if files of it differ; None outside Git."""
    package = Path(__file__).resolve().parents[1]
    try:
        # An installed copy may lie in the work tree of another project, which does not track it.
        _git(package, "ls-files", "--error-unmatch", "lab/provenance.py")
        revision = _git(package, "rev-parse", "HEAD")
        return f"{revision}-dirty" if _git(package, "status", "--porcelain", "--", ".") else revision
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> str:
    """Name the machine: its system, processor and cores."""
    processor = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.is_file():
        lines = described.read_text(encoding="utf-8", errors="replace").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        processor = models[0] if models else processor
    return f"{platform.system()} {platform.machine()}, {processor}, {os.cpu_count()} cores"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def device_name(device: str) -> str:
    """Name a device: "cpu", or "cuda (NVIDIA H100)"."""
    return f"cuda ({torch.cuda.get_device_name()})" if device == "cuda" else device
