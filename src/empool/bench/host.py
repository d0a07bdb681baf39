"""Where times come from: processor or card, versions, kernels in use, load, how memory was managed."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import empool
from empool.lab import provenance


def describe(device: str, threads: int, command: str) -> dict[str, Any]:
    """Return what a reader must know of the machine, as plain JSON.

    Args:
        device: "cpu" or "cuda".
        threads: that PyTorch uses.
        command: that measures.
    """
    about = {
        "command": command,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": device,
        "processor": provenance.processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "load_before": load(),
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "versions": _versions(),
        "commit": provenance.commit(),
        "kernels": empool.kernels(),
    }
    return about | (_card() if device == "cuda" else {})


def load() -> float | None:
    """Return the load average of the last minute; None where the system has none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _versions() -> dict[str, str]:
    found = {**provenance.versions(), "empool": empool.__version__, "torch": torch.__version__}
    with contextlib.suppress(PackageNotFoundError):
        found["triton"] = version("triton")
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    return found


def _card() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "card": properties.name,
        "card_memory": properties.total_memory,
        "card_cache": properties.L2_cache_size,
        "driver": _driver(),
    }


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
