"""What `torch.compile` sees of the operators on CUDA: the launches of their Triton kernels, where they can be seen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from empool import _private

VISIBLE = ("rank_draw", "value_draw", "drawn_scatter", "drawn_gather")
"""The operators that only select and add. A mean multiplies and adds, and Inductor cannot be told not to fuse the two
in a kernel that it is given, which would change bits: it stays an operator."""
DEVICE = "cuda"

_log = logging.getLogger(__name__)


def rule(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return what is traced for an operator: its kernel's launch on a GPU, if all sizes are known; else itself.

    It is what `torch.library.triton_op` does for an operator that is Triton on every device. As there, `torch.export`
    keeps the operator, and so does everything under `torch._functorch.config.decompose_custom_triton_ops = False`.
    """

    def traced(mode: Any, op: Any, types: Sequence[type], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not kwargs and _is_visible(name, args):
            try:
                with mode:
                    return kernel(*args)
            except Exception:  # PyTorch's tracing of kernels and Triton are two projects.
                _log.warning("empool::%s is compiled as an operator: its kernel was not traced", name, exc_info=True)
        return mode.__torch_dispatch__(op, types, args, kwargs)

    return traced


def _is_visible(name: str, args: tuple[Any, ...]) -> bool:
    if not _private.sees_through_operators():
        return False
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if not all(_private.is_functional(tensor) and tensor.device.type == DEVICE for tensor in tensors):
        return False
    sizes = [size for tensor in tensors for size in (*tensor.shape, *tensor.stride())]
    sizes += [size for arg in args if isinstance(arg, list | tuple) for size in arg]
    if any(isinstance(size, torch.SymInt) for size in sizes):
        return False
    return name != "value_draw" or args[2] is None  # With beta, it multiplies and adds.


class _Kernels:
    """The Triton kernels, imported when they are asked for."""

    def __iter__(self) -> Iterator[Any]:
        try:
            from empool._triton import KERNELS
        except Exception:  # A Triton that cannot be imported compiles nothing either.
            return iter(())
        return (kernel for kernel in KERNELS if hasattr(kernel, "src"))


def remember(name: str) -> None:
    """Let the cache of compiled graphs ask for the kernels: where one has changed, what it holds is out of date.

    The key is made of what Dynamo sees, which is not the backward; so every operator stands for all kernels.
    """
    _private.remember_kernels(name, _Kernels())
