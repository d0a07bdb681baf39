"""The experiments: train one network with each pooling and several seeds, and report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empool.lab.errors import LabError
    from empool.lab.interface import Study, compare, table
    from empool.lab.train.callback import PSchedule

__all__ = ["LabError", "PSchedule", "Study", "compare", "table"]

_FROM = {  # Imported when they are asked for: help need not wait for PyTorch.
    **dict.fromkeys(("Study", "compare", "table"), "interface"),
    "LabError": "errors",
    "PSchedule": "train.callback",
}


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FROM[name]}"), name)
