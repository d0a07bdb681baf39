"""Eager calls, prepared at the first: most of what a tiny tensor costs is to find out what to call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from empool import _call, _ops, _private
from empool._call import Method, Windows
from empool._tables import Tables

_PLAIN = {float, int, str, type(None)}
"""What a method's own arguments may be, beside tables and what says that it cannot change: where two are equal, so is
what they mean."""
_MOST = 512  # Of a layer, or of all functions: 0.7 MB where images have any size.
_LEAST, _GREATEST = -(2**63), 2**63 - 1
_prepared: dict[Any, _Prepared] = {}
"""Calls without a layer's tables, which keep their own."""


def pool(
    function: str,
    dims: int,
    input: Tensor,
    windows: tuple[Any, ...],
    return_indices: bool,
    make: Callable[..., Method],
    own: dict[str, Any],
) -> Any:
    """Pool as an earlier call with the same arguments did, or else by `empool._call`.

    Args:
        function: whose call it is.
        dims: the number of spatial dimensions.
        input: as the user gave it, as is the rest.
        windows: as `Windows` has them, or begins.
        return_indices: whether to return them too.
        make: makes the method of its arguments.
        own: these.
    """
    if return_indices is False and _private.is_unseen(input) and (known := _key(function, input, windows, own)):
        kept, key, source = known
        found = kept.get(key)
        if found is None:
            found = _prepare(function, dims, input, Windows(*windows), make, own)
            if found is not None:
                if len(kept) >= _MOST:
                    kept.clear()
                kept[key] = found
        if found is not None:
            return _recorded(input, found, source) if _private.is_recording(input) else found.run(input, source)[0]
    return _call.pool(function, dims, input, Windows(*windows), return_indices, make(function, **own))


def _key(function: str, input: Tensor, windows: tuple[Any, ...], own: dict[str, Any]) -> Any:
    """Return where such calls are kept, what tells this one from every other, and a seed or generator if one is given.

    Nothing where it can't be told by comparing, as 2 from 2.0.
    """
    if len(windows) == 5:
        kernel_size, stride, padding, dilation, ceil_mode = windows
        plain = type(kernel_size) is type(padding) is type(dilation) is int and (stride is None or type(stride) is int)
        if type(ceil_mode) is not bool or not (plain or all(map(_is_plain, windows[:4]))):
            return None
    elif not _is_plain(windows[5]):  # All but the output's size are `functional`'s.
        return None
    kept, source = _prepared, None
    key = [function, input.shape, input.dtype, input.get_device(), windows]
    for name, value in own.items():
        kind = type(value)
        if kind in _PLAIN and name not in ("seed", "generator"):
            key += name, value
        elif kind is Tables:
            kept = value.prepared
        elif (kind is bool and name == "training") or vars(kind).get("unchanging"):
            key += name, value
        elif value is not None:
            if source is not None or not _is_source(name, value, input):
                return None
            source = value
    return kept, tuple(key), source


def _is_plain(size: Any) -> bool:
    kind = type(size)
    return kind is int or size is None or (kind is tuple and all(type(n) is int or n is None for n in size))


def _is_source(name: str, value: Any, input: Tensor) -> bool:
    """Tell whether it is a seed or generator that needs no further look."""
    if name != "seed":
        return name == "generator" and type(value) is torch.Generator and value.device.type == input.device.type
    if type(value) is int:
        return _LEAST <= value < 2**64
    return (
        type(value) is Tensor
        and value.dtype is torch.int64
        and value.numel() == 1
        and value.get_device() == input.get_device()
        and _private.are_plain(value)
    )


def _prepare(
    function: str, dims: int, input: Tensor, windows: Windows, make: Callable[..., Method], own: dict[str, Any]
) -> _Prepared | None:
    """Check a call, and return what it comes to, if it has kernels that take its whole numbers as one."""
    if input.dtype not in _call.DTYPES or input.dim() != dims + 2 or not _ops.has_recalled(input):
        return None
    if input.is_cuda and _private.is_capturing():  # What is made there belongs to the graph.
        return None
    method = make(function, **own)
    _call.check_training(function, method)
    if method.tied is not None:
        _call.check_draw(function, input, method)
    plan, tables = _call.plan_of(function, dims, input, windows, False), method.tables
    if plan is None:
        return None
    rest: tuple[Any, ...]
    numbers: tuple[Any, ...] = plan.geometry
    table: Tensor | None
    if type(tables) is Tables:
        table, draws, _ = tables.get(plan.counts, method.training, input.device)
        _call.check_channels(function, input, table.size(0))
        numbers, stem = (plan.counts, *numbers), "rank"
    else:
        table, draws, stem = _call.beta_of(function, input, method.beta), True, "value"
    made: type[_Prepared]
    if method.training:
        made, operator, numbers = _Sample if draws else _Certain, f"{stem}_draw", (*numbers, _call.TIED[method.tied], 0)
        made = _CudaSample if draws and input.is_cuda else _CudaCertain if input.is_cuda else made
        backward, rest = "drawn_scatter", (input.shape[2:], *plan.geometry[:5])
    else:
        made, operator, backward, rest = _Mean, f"{stem}_mean", f"{stem}_mean_backward", numbers
    forward = _ops.recalled(operator, numbers, input.is_cuda)
    gradient = _ops.recalled(backward, rest, input.is_cuda)
    return made(table, forward, gradient, backward, rest) if forward is not None and gradient is not None else None


class _Prepared:
    """A call but for its input: kernels, and what else they take."""

    def __init__(self, table: Any, forward: Any, gradient: Any, backward: str, rest: tuple[Any, ...]) -> None:
        self.table = table
        self.kernel, self.number = forward
        self.gradient_kernel, self.gradient_number = gradient
        self.backward, self.rest = backward, rest

    def run(self, input: Tensor, source: Any) -> Any:
        """Return the output first.

        Args:
            input: as for the operator.
            source: where random numbers come from, if it isn't PyTorch's default generator.
        """
        raise NotImplementedError

    def record(self, input: Tensor, source: Any) -> Any:
        """Return the output, and what the gradient needs."""
        return self.run(input, source)

    def gradient(self, grad: Tensor, kept: tuple[Any, ...]) -> Tensor:
        """Return the input's gradient."""
        if torch.is_grad_enabled() or not (_private.is_unseen(grad) and _private.are_plain(grad, *kept)):
            return _ops.call(self.backward, grad, *kept, *self.rest)
        return self.gradient_kernel(grad, *kept, self.gradient_number)


class _Sample(_Prepared):
    def run(self, input: Tensor, source: Any) -> Any:
        seed = _seed.tensor.random_(_LEAST, _GREATEST) if source is None else _given(source)
        return self.kernel(input, seed, self.table, self.number)


def _given(source: Any) -> Tensor:
    if isinstance(source, Tensor):
        return source.reshape(())
    if isinstance(source, int):
        return _seed.tensor.fill_(_call.signed(source))
    return _seed.tensor.random_(_LEAST, _GREATEST, generator=source)


class _Certain(_Prepared):
    """A sample that needs no random number and takes none from the generator."""

    def run(self, input: Tensor, source: Any) -> Any:
        return self.kernel(input, _seed.tensor, self.table, self.number)


class _CudaSample(_Prepared):
    def run(self, input: Tensor, source: Any) -> Any:
        return self.kernel(input, self.seed(input.device, source), self.table, self.number)

    def seed(self, device: torch.device, source: Any) -> Tensor:
        """Return a seed of this call's own: its kernel may be read later than the next call."""
        if isinstance(source, Tensor):
            return source.reshape(())
        if isinstance(source, int):
            return torch.full((), _call.signed(source), dtype=torch.int64, device=device)
        return torch.randint(_LEAST, _GREATEST, (), device=device, generator=source)


class _CudaCertain(_CudaSample):
    def seed(self, device: torch.device, source: Any) -> Tensor:
        """Return one that is not read, but in a CUDA graph, which may be replayed with another p."""
        if _private.is_capturing():
            return super().seed(device, source)
        return torch.empty((), dtype=torch.int64, device=device)


class _Mean(_Prepared):
    def run(self, input: Tensor, source: Any) -> Any:
        return (self.kernel(input, self.table, self.number),)

    def record(self, input: Tensor, source: Any) -> Any:
        table = self.table
        if table is not None and table.is_cuda:
            table = table.clone()  # A new p is written into it, perhaps before the backward pass.
        return self.kernel(input, table, self.number), input, table


class _Seed(threading.local):
    """A thread's own tensor for a seed that only one kernel reads."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.tensor = torch.empty((), dtype=torch.int64, device="cpu")  # Whatever the default is at import.


_seed = _Seed()


class _Recorded(torch.autograd.Function):
    """A call whose gradient will be asked for; derivatives of that are the operators'."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, call: _Prepared, source: Any) -> Tensor:
        output: Tensor
        output, *kept = call.record(input, source)
        ctx.save_for_backward(*kept)
        ctx.call = call
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.call.gradient(grad, ctx.saved_tensors), None, None


_recorded = _private.applied(_Recorded)
