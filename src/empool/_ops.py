"""The operators `torch.ops.empool.*`: schemas, fakes, derivatives, vmap rules, and the reference as default kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.autograd import forward_ad

from empool import _window, reference
from empool._window import Geometry

_GEOMETRY = "int[] kernel_size, int[] stride, int[] padding, int[] dilation"
_MEAN = f"int[] counts, float[] weights, {_GEOMETRY}, bool ceil_mode"
SCHEMAS = {
    "rank_draw": "(Tensor input, Tensor seed, int[] counts, int[] thresholds, "
    f"{_GEOMETRY}, bool ceil_mode) -> (Tensor output, Tensor drawn)",
    "value_draw": f"(Tensor input, Tensor seed, {_GEOMETRY}, bool ceil_mode) -> (Tensor output, Tensor drawn)",
    "drawn_scatter": f"(Tensor grad_output, Tensor drawn, SymInt[] input_size, {_GEOMETRY}) -> Tensor",
    "drawn_gather": f"(Tensor input, Tensor drawn, {_GEOMETRY}) -> Tensor",
    "rank_mean": f"(Tensor input, {_MEAN}) -> Tensor",
    "rank_mean_backward": f"(Tensor grad_output, Tensor input, {_MEAN}) -> Tensor",
    "rank_mean_jvp": f"(Tensor tangent, Tensor input, {_MEAN}) -> Tensor",
}
"""Every operator; the arguments after the tensors and tables are those of `empool._window.Geometry`."""

_library = torch.library.Library("empool", "DEF")
for _name, _schema in SCHEMAS.items():
    _library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
_ops = torch.ops.empool


def register(name: str, kernel: Callable[..., Any], key: str) -> None:
    """Let a kernel in Python serve an operator on the devices of a dispatch key."""
    _library.impl(name, kernel, key)


def register_traced(name: str, rule: Callable[..., Any]) -> None:
    """Let a rule say what a tracer that makes calls functional, as `torch.compile`'s does, puts for an operator."""
    torch.library.register_torch_dispatch(f"empool::{name}", FunctionalTensorMode, rule, lib=_library)


# Fakes: shapes and strides without data.


def _fake_output(input: Tensor, geometry: Geometry) -> Tensor:
    shape = (*input.shape[:2], *geometry.output_sizes(input.shape[2:]))
    return _window.dense(input.new_empty(shape), _window.is_channels_last(input))


@torch.library.register_fake("empool::rank_draw", lib=_library)
def _(
    input: Tensor, seed: Tensor, counts: Sequence[int], thresholds: Sequence[int], *geometry: Any
) -> tuple[Tensor, Tensor]:
    return _fake_draw(input, Geometry(*geometry))


@torch.library.register_fake("empool::value_draw", lib=_library)
def _(input: Tensor, seed: Tensor, *geometry: Any) -> tuple[Tensor, Tensor]:
    return _fake_draw(input, Geometry(*geometry))


def _fake_draw(input: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    output = _fake_output(input, geometry)
    return output, torch.empty_like(output, dtype=reference.drawn_dtype(geometry.volume))


@torch.library.register_fake("empool::drawn_scatter", lib=_library)
def _(grad_output: Tensor, drawn: Tensor, input_size: Sequence[int], *geometry: Any) -> Tensor:
    grad_input = grad_output.new_empty((*drawn.shape[:2], *input_size))
    return _window.dense(grad_input, _window.is_channels_last(drawn))


@torch.library.register_fake("empool::drawn_gather", lib=_library)
def _(input: Tensor, drawn: Tensor, *geometry: Any) -> Tensor:
    return _window.dense(input.new_empty(drawn.shape), _window.is_channels_last(drawn))


@torch.library.register_fake("empool::rank_mean", lib=_library)
def _fake_rank_mean(input: Tensor, counts: Sequence[int], weights: Sequence[float], *geometry: Any) -> Tensor:
    return _fake_output(input, Geometry(*geometry))


@torch.library.register_fake("empool::rank_mean_backward", lib=_library)
def _(grad_output: Tensor, input: Tensor, counts: Sequence[int], weights: Sequence[float], *geometry: Any) -> Tensor:
    return _window.dense(torch.empty_like(input), _window.is_channels_last(input))


@torch.library.register_fake("empool::rank_mean_jvp", lib=_library)
def _(tangent: Tensor, input: Tensor, counts: Sequence[int], weights: Sequence[float], *geometry: Any) -> Tensor:
    return _fake_output(input, Geometry(*geometry))


# Derivatives. They are registered at the Autograd key by hand because `torch.library.register_autograd` has no
# forward mode; a `_SingleLevelFunction` is what it uses itself.


class _Derivative(torch.autograd.function._SingleLevelFunction):
    """An operator as an autograd function; its inputs are the operator, the dispatch keys and the arguments."""

    @staticmethod
    def forward(op: Any, keyset: Any, *args: Any) -> Any:
        return _below_autograd(op, keyset, *args)


class _Draw(_Derivative):
    """`rank_draw` and `value_draw`: only where the draws were is kept."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # No zeros for `drawn`, which has no gradient.
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])
        ctx.arguments, ctx.input_size, ctx.geometry = len(inputs), inputs[2].shape[2:], inputs[-5:-1]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, _: Any) -> tuple[Any, ...]:
        if grad_output is None:
            return (None,) * ctx.arguments
        grad_input = call("drawn_scatter", grad_output, *ctx.saved_tensors, ctx.input_size, *ctx.geometry)
        return None, None, grad_input, *[None] * (ctx.arguments - 3)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None]:
        return call("drawn_gather", tangents[2], *ctx.saved_tensors, *ctx.geometry), None


class _DrawnScatter(_Derivative):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[3])
        ctx.save_for_forward(inputs[3])
        ctx.input_size, ctx.geometry = inputs[4], inputs[5:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return None, None, call("drawn_gather", grad, *ctx.saved_tensors, *ctx.geometry), *[None] * 6

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return call("drawn_scatter", tangents[2], *ctx.saved_tensors, ctx.input_size, *ctx.geometry)


class _DrawnGather(_Derivative):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[3])
        ctx.save_for_forward(inputs[3])
        ctx.input_size, ctx.geometry = inputs[2].shape[2:], inputs[4:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grad_input = call("drawn_scatter", grad, *ctx.saved_tensors, ctx.input_size, *ctx.geometry)
        return None, None, grad_input, *[None] * 5

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return call("drawn_gather", tangents[2], *ctx.saved_tensors, *ctx.geometry)


class _RankMean(_Derivative):
    """The ranks do not change under a small change of the input, so the second derivative is zero."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])
        ctx.save_for_forward(inputs[2])
        ctx.mean = inputs[3:]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        grad_input = call("rank_mean_backward", grad_output, *ctx.saved_tensors, *ctx.mean)
        return None, None, grad_input, *[None] * len(ctx.mean)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return call("rank_mean_jvp", tangents[2], *ctx.saved_tensors, *ctx.mean)


class _LinearInFirst(_Derivative):
    """`rank_mean_backward` and `rank_mean_jvp`: linear in the first tensor, constant in the input's small changes."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[3])
        ctx.save_for_forward(inputs[3])
        ctx.op, ctx.mean = inputs[0], inputs[4:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        adjoint = "rank_mean_jvp" if ctx.op is _ops.rank_mean_backward.default else "rank_mean_backward"
        return None, None, call(adjoint, grad, *ctx.saved_tensors, *ctx.mean), *[None] * (len(ctx.mean) + 1)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return ctx.op(tangents[2], *ctx.saved_tensors, *ctx.mean)


_DERIVATIVES: dict[str, type[_Derivative]] = {
    "rank_draw": _Draw,
    "value_draw": _Draw,
    "drawn_scatter": _DrawnScatter,
    "drawn_gather": _DrawnGather,
    "rank_mean": _RankMean,
    "rank_mean_backward": _LinearInFirst,
    "rank_mean_jvp": _LinearInFirst,
}


def _below_autograd(op: Any, keyset: Any, *args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        if keyset is None:
            return op._op(*args)
        return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def _with_derivative(op: Any, derivative: Any, keyset: Any, *args: Any) -> Any:
    """Record the call where a derivative can be asked for: an input that requires grad, or forward mode."""
    if not (forward_ad._current_level >= 0 or (torch.is_grad_enabled() and torch._C._any_requires_grad(*args))):
        return _below_autograd(op, keyset, *args)
    if torch._C._are_functorch_transforms_active():
        with enable_single_level_autograd_function():
            return derivative.apply(op, keyset, *args)
    return derivative.apply(op, keyset, *args)


def call(name: str, input: Tensor, *args: Any) -> Any:
    """Call an operator on tensors of the input's kind.

    The dispatcher comes to the derivative in Python by way of C++; a call that nothing else wants to see (a tracer, a
    mode, a transform, a subclass) goes there at once, in half the time.
    """
    op = _OPERATORS[name]
    if (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
        or type(input) not in _PLAIN
    ):
        return op(input, *args)
    return _with_derivative(op, _DERIVATIVES[name], None, input, *args)


_OPERATORS = {name: getattr(_ops, name).default for name in SCHEMAS}
_PLAIN = (Tensor, torch.nn.Parameter)

for _name, _derivative in _DERIVATIVES.items():
    _record = functools.partial(_with_derivative, _OPERATORS[_name], _derivative)
    _library.impl(_name, _record, "Autograd", with_keyset=True)


# vmap: the batch is folded into the images, and every example brings its own seed.


def _fold(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    tensor = tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


def _fold_seed(seed: Tensor, dim: int | None, batch: int) -> Tensor:
    seed = seed.expand(batch, *seed.shape) if dim is None else seed.movedim(dim, 0)
    return seed.reshape(-1)


def _vmap(name: str, info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
    batch, draws = info.batch_size, name in ("rank_draw", "value_draw")
    folded = [
        (_fold_seed if draws and i == 1 else _fold)(arg, dim, batch) if isinstance(arg, Tensor) else arg
        for i, (arg, dim) in enumerate(zip(args, in_dims, strict=True))
    ]
    result = getattr(_ops, name)(*folded)
    if draws:
        return tuple(part.unflatten(0, (batch, part.size(0) // batch)) for part in result), (0, 0)
    return result.unflatten(0, (batch, result.size(0) // batch)), 0


for _name in SCHEMAS:
    torch.library.register_vmap(f"empool::{_name}", functools.partial(_vmap, _name), lib=_library)


# ONNX: the exporter decomposes an operator that it does not know, and finds the means' definition in this table. Where
# sizes are symbols, fake tensors would take it for the fake too, and be minutes over a large window, were it not for an
# entry in the table of fakes.
torch._decomp.register_decomposition(_ops.rank_mean.default)(reference.rank_mean)
torch._decomp.register_decomposition(_ops.rank_mean.default, type="meta")(_fake_rank_mean)
