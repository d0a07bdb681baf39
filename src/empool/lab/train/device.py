"""Where a run is computed."""

from __future__ import annotations

import torch

from empool.lab.errors import LabError


def device_named(device: str) -> str:
    """Choose "cpu" or "cuda" on this machine, which "auto" stands for.

    Raises:
        LabError: for "cuda" where there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise LabError("no CUDA device: use --device cpu")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
