"""Where a number comes from: versions, source revision, device, machine, seeds."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("empool", "torch", "lightning", "torchmetrics", "numpy", "pillow", "timm", "torchvision")
_VARIABLES = (  # that change how fast, or with which algorithm, PyTorch computes; none holds a path or a name
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY"),
    *("KMP_AFFINITY", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES"),
    *("CUDA_LAUNCH_BLOCKING", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "PYTORCH_ALLOC_CONF"),
    *("PYTORCH_CUDA_ALLOC_CONF", "EMPOOL_EXTENSION", "TRITON_INTERPRET"),
)


def versions() -> dict[str, str]:
    """Give the versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit() -> str | None:
    """Give the Git revision of this package's source, with "-dirty" if files of it differ; None outside Git."""
    try:
        # An installed copy may lie in the work tree of another project, which does not track it.
        _git("ls-files", "--error-unmatch", "lab/provenance.py")
        revision = _git("rev-parse", "HEAD")
        return f"{revision}-dirty" if _git("status", "--porcelain", "--", ".") else revision
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).resolve().parents[1]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def device_name(device: str) -> str:
    """Name a device: "cpu", or "cuda (NVIDIA H100)"."""
    return f"cuda ({torch.cuda.get_device_name()})" if device == "cuda" else device


def origin(device: str, processes: int) -> dict[str, Any]:
    """Say what does a run: what may differ between one process that does it and another that goes on with it."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "versions": versions(),
        "commit": commit(),
    }


def machine(device: str) -> dict[str, Any]:
    """Describe the machine without naming it: processor, cores, bytes of memory, system, and GPUs if they are used."""
    memory = None
    with suppress(AttributeError, OSError, ValueError):  # Windows has no such call.
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cards = range(torch.cuda.device_count()) if device == "cuda" else ()  # To ask would take up memory on them.
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": memory,
        "gpus": [torch.cuda.get_device_name(card) for card in cards],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def processor() -> str:
    """Name the processor."""
    with suppress(OSError):
        if named := re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE):
            return named[1].strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, str]:
    """Give the variables that matter to a result or its time, of those that are set."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}
