"""Eager calls on a CPU, prepared at the first: most of what a tiny tensor costs is to find out what to call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from empool import _call, _ops, _private
from empool._call import Method, Windows
from empool._tables import Tables

_PLAIN = {float, str, type(None), Tables}
"""What a method's own arguments may be, beside what says that it cannot change: no two of different types are equal."""
_MOST = 4096
_LEAST, _GREATEST = -(2**63), 2**63 - 1
_prepared: dict[Any, _Prepared] = {}


def pool(
    function: str,
    dims: int,
    input: Tensor,
    windows: tuple[Any, ...],
    return_indices: bool,
    make: Callable[..., Method],
    own: dict[str, Any],
) -> Any:
    """Pool as an earlier call with the same arguments did, or else by `empool._call`, which checks everything.

    Args:
        function: whose call it is.
        dims: the number of spatial dimensions.
        input: as the user gave it, as is the rest.
        windows: the regular ones, as `Windows` begins.
        return_indices: whether to return them too.
        make: makes the method of its arguments.
        own: these.
    """
    key = None
    if _private.is_unseen_on_cpu(input):
        key = _key(function, input, windows, return_indices, own)
        found = _prepared.get(key)
        if found is not None and (found.tables is None or found.tables.version == found.version):
            return _recorded(input, found) if _private.is_recording(input) else found.run(input)[0]
    method = make(function, **own)
    pooled = _call.pool(function, dims, input, Windows(*windows), return_indices, method)
    if key is not None and input.dtype in _call.DTYPES and input.dim() == dims + 2:
        _prepare(key, function, dims, input, Windows(*windows), method)
    return pooled


def _key(function: str, input: Tensor, windows: tuple[Any, ...], return_indices: bool, own: dict[str, Any]) -> Any:
    """Return what tells a call from every other; nothing where it can't be told by comparing, as 2 from 2.0."""
    kernel_size, stride, padding, dilation, ceil_mode = windows
    if not (type(kernel_size) is type(padding) is type(dilation) is int and (stride is None or type(stride) is int)):
        return None
    if return_indices is not False or type(ceil_mode) is not bool:
        return None
    for name, value in own.items():
        kind = type(value)
        if kind not in _PLAIN and not ((kind is bool and name == "training") or vars(kind).get("unchanging")):
            return None
    return function, input.shape, input.dtype, windows, *own, *own.values()


def _prepare(key: Any, function: str, dims: int, input: Tensor, windows: Windows, method: Method) -> None:
    """Keep what a call came to, if it has kernels that take their whole numbers as one."""
    plan, tables = _call.plan_of(function, dims, input, windows, False), method.tables
    version = tables.version if type(tables) is Tables else None  # Before the table: another thread may change p.
    rest: tuple[Any, ...]
    numbers: tuple[Any, ...] = plan.geometry
    table: Tensor | None
    if type(tables) is Tables:
        table, draws, _ = tables.get(plan.counts, method.training, input.device)
        numbers, stem = (plan.counts, *numbers), "rank"
    else:
        table, draws, stem = _call.beta_of(function, input, method.beta), True, "value"
    made: type[_Prepared]
    if method.training:
        made, operator, numbers = _Sample if draws else _Certain, f"{stem}_draw", (*numbers, _call.TIED[method.tied], 0)
        backward, rest = "drawn_scatter", (input.shape[2:], *plan.geometry[:5])
    else:
        made, operator, backward, rest = _Mean, f"{stem}_mean", f"{stem}_mean_backward", numbers
    forward, gradient = _ops.recalled(operator, numbers), _ops.recalled(backward, rest)
    if forward is not None and gradient is not None:
        if len(_prepared) >= _MOST:
            _prepared.clear()
        _prepared[key] = made(tables, version, table, forward, gradient, backward, rest)


class _Prepared:
    """A call but for its input: kernels, and what else they take.

    Attributes:
        tables: the distribution's, if it pools by rank.
        version: of the tables, when they were `table`.
    """

    def __init__(
        self, tables: Any, version: Any, table: Any, forward: Any, gradient: Any, backward: str, rest: tuple[Any, ...]
    ) -> None:
        self.tables, self.version, self.table = tables, version, table
        self.kernel, self.number = forward
        self.gradient_kernel, self.gradient_number = gradient
        self.backward, self.rest = backward, rest

    def run(self, input: Tensor) -> Any:
        """Return the output, and what the gradient needs."""
        raise NotImplementedError

    def gradient(self, grad: Tensor, kept: tuple[Any, ...]) -> Tensor:
        """Return the input's gradient."""
        if torch.is_grad_enabled() or not (_private.is_unseen_on_cpu(grad) and _private.are_plain(grad, *kept)):
            return _ops.call(self.backward, grad, *kept, *self.rest)
        return self.gradient_kernel(grad, *kept, self.gradient_number)


class _Sample(_Prepared):
    def run(self, input: Tensor) -> Any:
        return self.kernel(input, _seed.tensor.random_(_LEAST, _GREATEST), self.table, self.number)


class _Certain(_Prepared):
    """A sample that needs no random number and takes none from the generator."""

    def run(self, input: Tensor) -> Any:
        return self.kernel(input, _seed.tensor, self.table, self.number)


class _Mean(_Prepared):
    def run(self, input: Tensor) -> Any:
        return self.kernel(input, self.table, self.number), input, self.table


class _Seed(threading.local):
    """A thread's own tensor for a seed that only one kernel reads."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.tensor = torch.empty((), dtype=torch.int64, device="cpu")  # Whatever the default is at import.


_seed = _Seed()


class _Recorded(torch.autograd.Function):
    """A call whose gradient will be asked for; derivatives of that are the operators'."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, call: _Prepared) -> Tensor:
        output: Tensor
        output, *kept = call.run(input)
        ctx.save_for_backward(*kept)
        ctx.call = call
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.call.gradient(grad, ctx.saved_tensors), None


_recorded = _private.applied(_Recorded)
