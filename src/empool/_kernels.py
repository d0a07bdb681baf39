"""The fast kernels: C++ on the CPU, Triton on CUDA, each behind the operator whose definition is the reference."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

from empool import _extension, _ops, _traced


@functools.cache
def _triton_kernel(name: str) -> Callable[..., Any]:
    """Return an operator's Triton kernel; Triton is imported here, at the first call on a GPU."""
    from empool import _triton

    kernel: Callable[..., Any] = getattr(_triton, name)
    return kernel


def _run_triton(name: str, *args: Any) -> Any:
    return _triton_kernel(name)(*args)


_has_triton = importlib.util.find_spec("triton") is not None
if _has_triton:
    for _name in _extension.OPERATORS:
        _ops.register(_name, functools.partial(_run_triton, _name), "CUDA")
        _ops.call_at_once(_name, functools.partial(_triton_kernel, _name))
    for _name in _traced.VISIBLE:
        _ops.register_traced(_name, _traced.rule(_name, functools.partial(_run_triton, _name)))
        _traced.remember(_name)
if _extension.load():
    _ops.recall(_extension.RECALLED)


def kernels() -> dict[str, dict[str, str]]:
    """Tell which kernel serves every operator on every device, and where it is the reference, why.

    Returns:
        For each operator of `torch.ops.empool` what serves ``"cpu"`` and ``"cuda"``: ``"C++ (avx2)"``, ``"Triton"`` or
        ``"reference: "`` and the reason.

    Example:
        >>> import empool
        >>> sorted(empool.kernels()["rank_draw"])
        ['cpu', 'cuda']
    """
    return {name: {"cpu": _cpu(name), "cuda": _cuda(name)} for name in _ops.SCHEMAS}


def _cpu(name: str) -> str:
    reason = _extension.why_not(name)
    return f"C++ ({_extension.cpu_capability()})" if reason is None else f"reference: {reason}"


def _cuda(name: str) -> str:
    if name not in _extension.OPERATORS:
        return "reference: no Triton kernel"
    return "Triton" if _has_triton else "reference: Triton is not installed"
