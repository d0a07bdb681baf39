"""What empool uses of PyTorch that is not public: all of it, looked up at first use.

Each use says what would end it. PyTorch 2.13, the latest that was tried, has none of that.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.compiler import is_compiling

Made = TypeVar("Made")

_PATHS = {
    # Until `torch.library.register_autograd` has a forward mode, derivatives are registered by hand, as it does it.
    "below_autograd": "_C._AutoDispatchBelowAutograd",
    "keys_below_autograd": "_C._after_autograd_keyset",
    "any_requires_grad": "_C._any_requires_grad",
    "forward_ad": "autograd.forward_ad",
    "set_forward_mode": "autograd.forward_ad._set_fwd_grad_enabled",
    "are_transforms_active": "_C._are_functorch_transforms_active",
    "one_level": "_functorch.utils.enable_single_level_autograd_function",
    # Until there are public questions for what sees a call.
    "dispatch_modes": "_C._len_torch_dispatch_stack",
    "tracing_state": "_C._get_tracing_state",
    "set_tracing_state": "_C._set_tracing_state",
    "profiler": "autograd.profiler",
    # Until `torch.func` wraps no constants.
    "is_wrapped": "_C._functorch.is_functorch_wrapped_tensor",
    "unwrap": "_C._functorch.get_unwrapped",
    # Until `torch.library` can say what a tracer records for an operator of several devices.
    "FunctionalTensor": "_subclasses.functional_tensor.FunctionalTensor",
    "FunctionalTensorMode": "_subclasses.functional_tensor.FunctionalTensorMode",
    "functorch_config": "_functorch.config",
    "triton_operators": "_library.triton.triton_ops_to_kernels",
    # Until `torch.onnx.export` takes decompositions of the user's operators.
    "register_decomposition": "_decomp.register_decomposition",
    "called_by_inductor": "_inductor.lowering.FALLBACK_ALLOW_LIST",
    # Until `torch.library` tells which operator has a kernel where.
    "has_kernel": "_C._dispatch_has_kernel_for_dispatch_key",
}


class _Torch:
    """What the names above stand for."""

    def __getattr__(self, name: str) -> Any:
        """Look a name up, the first time."""
        if name not in _PATHS:
            raise AttributeError(name)
        found: Any = torch
        for depth, part in enumerate(parts := _PATHS[name].split(".")):
            try:
                if not hasattr(found, part):
                    importlib.import_module(".".join(["torch", *parts[: depth + 1]]))
                found = getattr(found, part)
            except (ImportError, AttributeError):
                raise ImportError(
                    f"empool: torch.{_PATHS[name]} is missing from PyTorch {torch.__version__}; install a version that "
                    "empool's requirements name"
                ) from None
        setattr(self, name, found)
        return found


_torch = _Torch()

# By way of public classes: the bases of torch.nn's layers, which have no public names.
if TYPE_CHECKING:
    from torch.nn.modules import batchnorm, pooling

    BatchNorm = batchnorm._BatchNorm
    MaxPoolNd = pooling._MaxPoolNd
    AvgPoolNd = pooling._AvgPoolNd
    LPPoolNd = pooling._LPPoolNd
    AdaptiveMaxPoolNd = pooling._AdaptiveMaxPoolNd
    AdaptiveAvgPoolNd = pooling._AdaptiveAvgPoolNd
else:
    BatchNorm, LPPoolNd = nn.BatchNorm2d.__base__, nn.LPPool2d.__base__
    MaxPoolNd, AdaptiveMaxPoolNd = nn.MaxPool2d.__base__, nn.AdaptiveMaxPool2d.__base__
    AvgPoolNd, AdaptiveAvgPoolNd = nn.AvgPool2d.__base__, nn.AdaptiveAvgPool2d.__base__
POOLS = (MaxPoolNd, AvgPoolNd, LPPoolNd, AdaptiveMaxPoolNd, AdaptiveAvgPoolNd)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def is_watched(input: torch.Tensor) -> bool:
    """Tell whether anything but autograd wants to see what is called on the tensor.

    That is a tracer, a mode, a transform, or the tensor's own class.
    """
    return (
        type(input) not in _PLAIN
        or is_compiling()
        or _torch.are_transforms_active()
        or _torch.dispatch_modes()
        or _torch.tracing_state() is not None
        or _torch.profiler._is_profiler_enabled
    )


def is_exporting() -> bool:
    """Tell whether `torch.export` traces: before PyTorch 2.13 `torch.compile` takes the public question for true.

    Delete when torch >= 2.13.
    """
    flag = getattr(torch.compiler, "_is_exporting_flag", None)
    return torch.compiler.is_exporting() if flag is None else bool(flag)


def below_autograd(op: Any, keyset: Any, *args: Any) -> Any:
    """Call an operator's kernel below autograd, as `torch.library` does itself; without a keyset, from the top."""
    with _torch.below_autograd():
        if keyset is None:
            return op._op(*args)
        return op.redispatch(keyset & _torch.keys_below_autograd, *args)


def is_unseen(input: Any) -> bool:
    """Tell whether it is a dense tensor whose calls nothing watches but autograd, and that not forwards."""
    return (
        not is_watched(input)
        and (input.is_cpu or _is_usual(input))
        and input.layout is torch.strided
        and _torch.forward_ad._current_level < 0
    )


def are_plain(first: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Tell whether the first tensor, which nothing watches, is dense on a CPU or GPU, and no other has a class."""
    if not _is_usual(first) or first.layout is not torch.strided:
        return False
    for other in others:
        if other is not None and (type(other) is not torch.Tensor or not _is_usual(other)):
            return False
    return True


def _is_usual(tensor: torch.Tensor) -> bool:
    """Tell whether a kernel can read a tensor on a CPU or GPU: none in Python knows of signs not yet turned."""
    return tensor.is_cpu or (tensor.is_cuda and not tensor.is_neg())


def is_differentiating(*args: Any) -> bool:
    """Tell whether one of the tensors requires grad, or forward mode is on."""
    if is_forward_mode():
        return True
    return torch.is_grad_enabled() and bool(_torch.any_requires_grad(*args)) and not torch.is_inference_mode_enabled()


def is_recording(input: torch.Tensor) -> bool:
    """Tell whether a call on the tensor is recorded; inference mode records nothing, whatever grad mode says."""
    return input.requires_grad and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def is_forward_mode() -> bool:
    """Tell whether forward-mode derivatives may be taken.

    A compiled transform enters a level without telling the module of forward mode.
    """
    return has_tangents() or are_transforms_active()


def are_transforms_active() -> bool:
    """Tell whether `torch.func` transforms the call."""
    return bool(_torch.are_transforms_active())


def has_tangents() -> bool:
    """Tell whether forward mode is on, outside of transforms."""
    return bool(_torch.forward_ad._current_level >= 0)


def applied(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return what applies an autograd function and knows nothing of `torch.func`'s transforms."""
    apply: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return apply


def at_one_level(call: Callable[..., Any], *args: Any) -> Any:
    """Call something at one level of `torch.func`'s transforms, the one where the dispatcher is."""
    if not _torch.are_transforms_active():
        return call(*args)
    with _torch.one_level():
        return call(*args)


@contextlib.contextmanager
def levels_below(grad: bool) -> Iterator[None]:
    """Let the levels of `torch.func`'s transforms below record again: an autograd function turns recording off.

    Args:
        grad: whether it was on.
    """
    with torch.set_grad_enabled(grad), _torch.set_forward_mode(True):
        yield


def unwrapped(tensor: torch.Tensor) -> torch.Tensor:
    """Return what `torch.func`'s transforms wrapped a constant in."""
    while _torch.is_wrapped(tensor):
        tensor = _torch.unwrap(tensor)
    return tensor


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Keep what is made out of `torch.jit.trace`, as a constant."""
    state = _torch.tracing_state()
    _torch.set_tracing_state(None)
    try:
        yield
    finally:
        _torch.set_tracing_state(state)


def has_dispatch_mode() -> bool:
    """Tell whether a mode sees every operator, such as one of fake tensors."""
    return bool(_torch.dispatch_modes() > 0)


def is_capturing() -> bool:
    """Tell whether a CUDA graph is captured; a PyTorch without CUDA, which can have fake tensors, raises instead."""
    with contextlib.suppress(RuntimeError):
        return torch.cuda.is_current_stream_capturing()
    return False


def has_kernel(operator: str, key: str) -> bool:
    """Tell whether an operator has a kernel of its own for a dispatch key."""
    found: bool = _torch.has_kernel(operator, key)
    return found


def functional_mode() -> Any:
    """Return the mode in which `torch.compile` makes calls functional, as `torch.library.triton_op` uses it.

    Without it, `torch.compile` sees the operators and not what is in them.
    """
    with contextlib.suppress(ImportError):
        return _torch.FunctionalTensorMode
    return None


def is_functional(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is one of that mode, and of no other class."""
    return type(tensor) is _torch.FunctionalTensor


def sees_through_operators() -> bool:
    """Tell whether `torch.compile` wants to see the kernels of operators."""
    return bool(getattr(_torch.functorch_config, "decompose_custom_triton_ops", False))


def remember_kernels(name: str, kernels: Any) -> None:
    """Tell the cache of compiled graphs which Triton kernels an operator may run; without it, it asks for none."""
    with contextlib.suppress(ImportError):
        _torch.triton_operators[f"empool::{name}"] = kernels


def read_by_graphs(tensor: torch.Tensor) -> torch.Tensor:
    """Say of a tensor that a compiled graph may keep its sizes, and a CUDA graph read it where it is; and return it.

    As `torch._dynamo.mark_static` and `mark_static_address` do, without importing the compiler.
    """
    tensor._dynamo_static_indices = set(range(tensor.dim()))  # type: ignore[attr-defined]
    tensor._dynamo_static_input_type = "unguarded"  # type: ignore[attr-defined]
    return tensor


def called_by_dynamo(function: Callable[..., Made]) -> Callable[..., Made]:
    """Let Dynamo call a function while it traces, where its arguments are known, and take the result for a constant.

    As `torch.compiler.assume_constant_result` does, without importing the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_known(number: float) -> bool:
    """Tell of a number that Dynamo sees whether it compiles for this one alone."""
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return has_static_value(number)


def specialised(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Let Dynamo, if it takes whole numbers for symbols, compile for these alone."""
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    return tuple([int(guard_scalar(number)) for number in numbers])


def decompose(op: Any, definition: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Let the ONNX exporter put an operator's definition for it; fake tensors know it by its fake.

    Without it, the exporter says that it doesn't know the operator.
    """
    with contextlib.suppress(ImportError):
        _torch.register_decomposition(op)(definition)
        _torch.register_decomposition(op, type="meta")(fake)


def called_by_inductor(name: str, fake: Callable[..., Any]) -> Callable[..., Any]:
    """Return a fake that tells Inductor, if it is about to compile, to call the operator as it is.

    Where the variable CI is set Inductor refuses an operator that has a definition and isn't in its list. A fake runs
    before it looks there, and nothing of Inductor is imported for whom doesn't compile.
    """

    @functools.wraps(fake)
    def listed(*args: Any) -> Any:
        if "torch._inductor" in sys.modules:
            _torch.called_by_inductor.add(f"empool::{name}")
        return fake(*args)

    return listed
