"""Loads the compiled CPU kernels, `empool._C`, and tells which operators have one."""

from __future__ import annotations

import importlib
import importlib.util
import os

from empool import _private

OPERATORS = (
    "rank_draw",
    "value_draw",
    "drawn_scatter",
    "drawn_gather",
    "rank_mean",
    "rank_mean_backward",
    "rank_mean_weight_grad",
    "value_mean",
    "value_mean_backward",
    "value_mean_beta_grad",
)
"""The operators that have kernels: in C++ here, in Triton for CUDA."""
RECALLED = tuple(
    name for name in OPERATORS if name != "drawn_gather" and not name.endswith(("weight_grad", "beta_grad"))
)
"""Those that it also implements with the whole numbers of a call as one, which it remembers."""

_INTERFACE = 2
_NOT_BUILT = (
    "not built: PyTorch or a C++20 compiler was missing at install, or EMPOOL_BUILD=0 was set; "
    "with both, install empool once more, with `pip install --force-reinstall --no-deps --no-cache-dir`"
)


def load() -> bool:
    """Register the compiled kernels with PyTorch's dispatcher, if they were built.

    Returns:
        Whether they were built.
    Raises:
        ImportError: if they were built but cannot be loaded, say for another PyTorch, or from other sources.
    """
    if _unwanted() or importlib.util.find_spec("empool._C") is None:
        return False
    built = importlib.import_module("empool._C")
    if getattr(built, "interface", 1) != _INTERFACE:
        raise ImportError(
            "empool._C was built from other sources, and its kernels take other arguments: "
            "install empool once more, or in a clone `python setup.py build_ext --inplace`"
        )
    return True


def cpu_capability() -> str | None:
    """Return the instruction set that the compiled kernels use: ``default``, ``avx2`` or ``avx512``; None without them.

    Raises:
        ValueError: if the environment variable EMPOOL_CPU_CAPABILITY asks for another, or for one that is not there.
    """
    if not load():
        return None
    capability: str = importlib.import_module("empool._C").cpu_capability()
    return capability


def why_not(operator: str) -> str | None:
    """Return why an operator has no compiled kernel for the CPU, or None if it has one.

    Args:
        operator: a name in the namespace `torch.ops.empool`.
    """
    if _private.has_kernel(f"empool::{operator}", "CPU"):
        return None
    if operator not in OPERATORS:
        return "no C++ kernel"
    return "EMPOOL_EXTENSION=0 is set" if _unwanted() else _NOT_BUILT


def _unwanted() -> bool:
    return os.environ.get("EMPOOL_EXTENSION", "1") == "0"
