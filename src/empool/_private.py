"""What empool uses of PyTorch that is not public: all of it, each with what would end it; needed at first use only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad


def _found(path: str) -> Any:
    """Return what a dotted path below `torch` names, or say that this PyTorch has it no more."""
    import importlib

    module, _, name = f"torch.{path}".rpartition(".")
    try:
        found = importlib.import_module(module) if module not in ("torch._C",) else torch._C
        return getattr(found, name)
    except (ImportError, AttributeError):
        raise ImportError(
            f"empool: torch.{path} is missing from PyTorch {torch.__version__}; install a version that empool's "
            "requirements name, or report it"
        ) from None


def is_watched(input: torch.Tensor) -> bool:
    """Tell whether anything but autograd wants to see what is called on the tensor.

    That is a tracer, a mode, a transform, or the tensor's own class. Delete with `below_autograd`.
    """
    return (
        type(input) not in _PLAIN
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def below_autograd(op: Any, keyset: Any, *args: Any) -> Any:
    """Call an operator's kernel below autograd, as `torch.library` does itself; without a keyset, from the top.

    Delete when `torch.library.register_autograd` has a forward mode.
    """
    with torch._C._AutoDispatchBelowAutograd():
        if keyset is None:
            return op._op(*args)
        return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def is_differentiating(*args: Any) -> bool:
    """Tell whether one of the tensors requires grad, or forward mode is on. Delete with `below_autograd`."""
    return is_forward_mode() or (torch.is_grad_enabled() and torch._C._any_requires_grad(*args))


def is_forward_mode() -> bool:
    """Tell whether forward-mode derivatives are taken. Delete with `below_autograd`."""
    return forward_ad._current_level >= 0


def record(function: type[torch.autograd.Function], *args: Any) -> Any:
    """Apply an autograd function at one level of `torch.func`'s transforms, the one where the dispatcher is.

    Delete with `below_autograd`.
    """
    apply = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    if not torch._C._are_functorch_transforms_active():
        return apply(*args)
    from torch._functorch.utils import enable_single_level_autograd_function

    with enable_single_level_autograd_function():
        return apply(*args)


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """Return what `torch.func`'s transforms wrapped a constant in. Delete when constants are not wrapped."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def has_dispatch_mode() -> bool:
    """Tell whether a mode sees every operator, such as one of fake tensors. Delete when there is a public question."""
    return torch._C._len_torch_dispatch_stack() > 0


def functional_mode() -> type:
    """Return the mode in which `torch.compile` makes calls functional, as `torch.library.triton_op` uses it."""
    from torch._subclasses.functional_tensor import FunctionalTensorMode

    return FunctionalTensorMode


def decompose(op: Any, definition: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Let the ONNX exporter put an operator's definition for it.

    Delete when `torch.onnx.export` asks an `ExportedProgram.run_decompositions` table of the user's.
    """
    torch._decomp.register_decomposition(op)(definition)
    torch._decomp.register_decomposition(op, type="meta")(fake)
