"""The operators `torch.ops.empool.*`: schemas, fakes, derivatives, vmap rules, and the reference as default kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from empool import _onnx, _private, _window, reference
from empool._window import Geometry

_GEOMETRY = "int[] kernel_size, int[] stride, int[] padding, int[] dilation, int[]? output_size"
_DRAW = f"{_GEOMETRY}, bool ceil_mode, int tied, int first_image=0) -> (Tensor output, Tensor drawn)"
_RANKS = f"Tensor weights, int[] counts, {_GEOMETRY}, bool ceil_mode) -> Tensor"
_VALUES = f"Tensor? beta, {_GEOMETRY}, bool ceil_mode) -> Tensor"
SCHEMAS = {
    "rank_draw": f"(Tensor input, Tensor seed, Tensor thresholds, int[] counts, {_DRAW}",
    "value_draw": f"(Tensor input, Tensor seed, Tensor? beta, {_DRAW}",
    "drawn_scatter": f"(Tensor grad_output, Tensor drawn, SymInt[] input_size, {_GEOMETRY}) -> Tensor",
    "drawn_gather": f"(Tensor input, Tensor drawn, {_GEOMETRY}) -> Tensor",
    "rank_mean": f"(Tensor input, {_RANKS}",
    "rank_mean_backward": f"(Tensor grad_output, Tensor input, {_RANKS}",
    "rank_mean_jvp": f"(Tensor tangent, Tensor input, {_RANKS}",
    "rank_mean_weight_grad": f"(Tensor grad_output, Tensor input, {_RANKS}",
    "rank_mean_weight_grad_jvp": f"(Tensor grad_output, Tensor tangent, Tensor input, {_RANKS}",
    "value_mean": f"(Tensor input, {_VALUES}",
    "value_mean_backward": f"(Tensor grad_output, Tensor input, {_VALUES}",
    "value_mean_beta_grad": f"(Tensor grad_output, Tensor input, {_VALUES.replace('Tensor?', 'Tensor')}",
}
"""Every operator; `empool.reference` says what its arguments mean."""

_TENSORS = {name: schema.partition("->")[0].count("Tensor") for name, schema in SCHEMAS.items()}

_library = torch.library.Library("empool", "DEF")
for _name, _schema in SCHEMAS.items():
    _library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
_ops = torch.ops.empool
OPERATORS = {name: getattr(_ops, name).default for name in SCHEMAS}


def register(name: str, kernel: Callable[..., Any], key: str) -> None:
    """Let a kernel in Python serve an operator on the devices of a dispatch key."""
    _library.impl(name, kernel, key)


def register_traced(name: str, rule: Callable[..., Any]) -> None:
    """Let a rule say what a tracer that makes calls functional, as `torch.compile`'s does, puts for an operator."""
    if mode := _private.functional_mode():
        torch.library.register_torch_dispatch(f"empool::{name}", mode, rule, lib=_library)


# Fakes: shapes and strides without data.


def _fake_output(input: Tensor, *geometry: Any) -> Tensor:
    where = Geometry(*geometry)
    shape = (*input.shape[:2], *where.output_sizes(input.shape[2:]))
    return _window.dense(input.new_empty(shape), _window.is_channels_last(input))


def _fake_draw(input: Tensor, *geometry: Any) -> tuple[Tensor, Tensor]:
    output = _fake_output(input, *geometry)
    return output, torch.empty_like(output, dtype=reference.drawn_dtype(Geometry(*geometry).volume))


def _fake_scatter(grad_output: Tensor, drawn: Tensor, input_size: Sequence[int], *geometry: Any) -> Tensor:
    grad_input = grad_output.new_empty((*drawn.shape[:2], *input_size))
    return _window.dense(grad_input, _window.is_channels_last(drawn))


def _fake_backward(grad_output: Tensor, input: Tensor, *rest: Any) -> Tensor:
    return _window.dense(torch.empty_like(input), _window.is_channels_last(input))


_FAKES: dict[str, Callable[..., Any]] = {
    "rank_draw": lambda input, seed, thresholds, counts, *rest: _fake_draw(input, *rest[:6]),
    "value_draw": lambda input, seed, beta, *rest: _fake_draw(input, *rest[:6]),
    "drawn_scatter": _fake_scatter,
    "drawn_gather": lambda input, drawn, *geometry: _window.dense(
        input.new_empty(drawn.shape), _window.is_channels_last(drawn)
    ),
    "rank_mean": lambda input, weights, counts, *geometry: _fake_output(input, *geometry),
    "rank_mean_backward": _fake_backward,
    "rank_mean_jvp": lambda tangent, input, weights, counts, *geometry: _fake_output(input, *geometry),
    "rank_mean_weight_grad": lambda grad_output, input, weights, *rest: _fake_table(weights),
    "rank_mean_weight_grad_jvp": lambda grad_output, tangent, input, weights, *rest: _fake_table(weights),
    "value_mean": lambda input, beta, *geometry: _fake_output(input, *geometry),
    "value_mean_backward": _fake_backward,
    "value_mean_beta_grad": lambda grad_output, input, beta, *geometry: _fake_table(beta),
}


def _fake_table(weights: Tensor) -> Tensor:
    return torch.empty_like(weights, memory_format=torch.contiguous_format)


for _name in ("rank_draw", "value_draw", "rank_mean", "value_mean"):  # What has a definition for ONNX, below.
    _FAKES[_name] = _private.called_by_inductor(_name, _FAKES[_name])
for _name, _fake in _FAKES.items():
    torch.library.register_fake(f"empool::{_name}", _fake, lib=_library)


# Where nothing looks, the CPU's kernels take all whole numbers of a call as one, under which C++ remembers them: to
# hand over six lists takes 3 microseconds, more than the pooling of a tiny tensor.

_recalled: dict[str, Callable[..., Any]] = {}
_remembered: dict[Any, int] = {}
_MOST_REMEMBERED = 4096  # As in C++.


def recall(names: Sequence[str]) -> None:
    """Let these operators' kernels on the CPU take remembered numbers."""
    for name in names:
        if kernel := getattr(torch.ops.empool_recalled, name, None):  # None where the build is older than this file.
            _recalled[name] = kernel.default._op


def _remember(name: str, numbers: tuple[Any, ...]) -> int:
    """Return what stands for the numbers, or a negative number if they stay as they are."""
    if len(_remembered) == _MOST_REMEMBERED or not all(isinstance(number, (tuple, int)) for number in numbers):
        return -1
    names = [argument.name for argument in OPERATORS[name]._schema.arguments][_TENSORS[name] :]
    given = dict(zip(names, numbers, strict=True))
    shapes = [given.get(name, ()) for name in ("counts", *Geometry._fields[:5], "input_size")]
    rest = given.get("ceil_mode", False), given.get("tied", 0), given.get("first_image", 0)
    _remembered[name, numbers] = index = torch.ops.empool_recalled.remember(*shapes, *rest)
    return index


def has_recalled(input: Tensor) -> bool:
    """Tell whether there are kernels on the tensor's device that `recalled` returns."""
    return bool(_in_python if input.is_cuda else _recalled)


def recalled(name: str, numbers: tuple[Any, ...], on_cuda: bool = False) -> tuple[Callable[..., Any], Any] | None:
    """Return the kernel that takes one thing for these numbers, and this thing, if there are both."""
    if on_cuda:
        return (functools.partial(_spread, _in_python[name]()), numbers) if name in _in_python else None
    if name not in _recalled:
        return None
    try:
        index = _remembered[name, numbers]
    except (KeyError, TypeError):  # Lists, which the dispatcher makes of tuples, can't be looked up.
        index = _remember(name, numbers)
    return None if index < 0 else (_recalled[name], index)


# A kernel in Python is called at once there: the dispatcher makes C++'s lists of the numbers and Python's of these.

_in_python: dict[str, Callable[[], Callable[..., Any]]] = {}


def call_at_once(name: str, kernel: Callable[[], Callable[..., Any]]) -> None:
    """Let an operator's kernel on CUDA, which is asked for at the first call, be called without the dispatcher."""
    _in_python[name] = kernel


def _spread(kernel: Callable[..., Any], *args: Any) -> Any:
    return kernel(*args[:-1], *args[-1])


def _run(name: str, args: tuple[Any, ...]) -> Any:
    """Run an operator's kernel below autograd."""
    tensors = args[: _TENSORS[name]]
    if _private.are_plain(*tensors):
        if args[0].is_cuda:
            if name in _in_python and not _private.has_tangents():  # Which may be zeros without memory.
                return _in_python[name]()(*args)
        elif name in _recalled and (found := recalled(name, args[len(tensors) :])):
            return found[0](*tensors, found[1])
    return _private.below_autograd(OPERATORS[name], None, *args)


# Derivatives. They are registered at the Autograd key by hand because `torch.library.register_autograd` has no
# forward mode. The arguments of the autograd functions are the operator, the dispatcher's keys with whether grad mode
# is on, and the operator's own.


class _Derivative(torch.autograd.Function):
    """An operator as an autograd function."""

    @staticmethod
    def forward(name: str, dispatched: Any, *args: Any) -> Any:
        if dispatched is None:
            return _run(name, args)
        keyset, grad = dispatched
        if not _private.are_transforms_active():
            return _private.below_autograd(OPERATORS[name], keyset, *args)
        with _private.levels_below(grad):
            return _private.below_autograd(OPERATORS[name], keyset, *args)


def _keep(ctx: Any, *tensors: Tensor | None) -> None:
    ctx.save_for_backward(*tensors)
    if _private.is_forward_mode():
        ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)  # No zeros for `drawn`, nor for tangents that are none.


class _Draw(_Derivative):
    """`rank_draw` and `value_draw`: only where the draws were is kept."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        _keep(ctx, output[1])
        first = 6 if inputs[0] == "rank_draw" else 5
        ctx.arguments, ctx.input_size, ctx.geometry = len(inputs), inputs[2].shape[2:], inputs[first : first + 5]
        ctx.dtype = inputs[2].dtype

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, _: Any) -> tuple[Any, ...]:
        if grad_output is None:
            return (None,) * ctx.arguments
        grad_input = call("drawn_scatter", grad_output, *ctx.saved_tensors, ctx.input_size, *ctx.geometry)
        return None, None, grad_input, *[None] * (ctx.arguments - 3)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None]:
        (drawn,) = ctx.saved_tensors
        if tangents[2] is None:  # The tangent is beta's.
            return drawn.new_zeros(drawn.shape, dtype=ctx.dtype), None
        return call("drawn_gather", tangents[2], drawn, *ctx.geometry), None


class _DrawnScatter(_Derivative):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _keep(ctx, inputs[3])
        ctx.input_size, ctx.geometry = inputs[4], inputs[5:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        if grad is None:
            return (None,) * 10
        return None, None, call("drawn_gather", grad, *ctx.saved_tensors, *ctx.geometry), *[None] * 7

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return call("drawn_scatter", tangents[2], *ctx.saved_tensors, ctx.input_size, *ctx.geometry)


class _DrawnGather(_Derivative):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _keep(ctx, inputs[3])
        ctx.input_size, ctx.geometry = inputs[2].shape[2:], inputs[4:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        if grad is None:
            return (None,) * 9
        grad_input = call("drawn_scatter", grad, *ctx.saved_tensors, ctx.input_size, *ctx.geometry)
        return None, None, grad_input, *[None] * 6

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return call("drawn_gather", tangents[2], *ctx.saved_tensors, *ctx.geometry)


# The means are linear in the weights w and in the values v that stand at the ranks, which do not change under a small
# change of the input. With g the gradient of the output, the derivatives in g, v and w of the sum of g * w * v are
#   rank_mean_jvp(v, input, w)   rank_mean_backward(g, input, w)   rank_mean_weight_grad_jvp(g, v, input, w)
# and theirs are these again. rank_mean and rank_mean_weight_grad have the input itself for v.


class _RankForm(_Derivative):
    """One of the forms."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        first = 2 + _TENSORS[inputs[0]]
        _keep(ctx, *inputs[2:first])
        ctx.rest, ctx.shape = inputs[first:], output.shape

    @staticmethod
    def results(ctx: Any, grad: Tensor | None, *parts: Callable[[], Tensor] | None) -> tuple[Any, ...]:
        """Work out the gradients of the tensors that need one."""
        needed = zip(parts, ctx.needs_input_grad[2:], strict=False)
        wanted = [part() if part and need and grad is not None else None for part, need in needed]
        return None, None, *wanted, *[None] * len(ctx.rest)


def _sum(ctx: Any, *terms: Tensor | None) -> Tensor:
    """Add up what there is of tangents; none is 0."""
    present = [term for term in terms if term is not None]
    with _private.levels_below(torch.is_grad_enabled()):
        return functools.reduce(torch.add, present) if present else ctx.saved_tensors[0].new_zeros(ctx.shape)


def _form(name: str, ctx: Any) -> Callable[..., Tensor | None]:
    """Return an operator of the same windows, which gives nothing for a tangent that is none."""

    def called(*tensors: Tensor | None) -> Tensor | None:
        return None if any(tensor is None for tensor in tensors) else call(name, *tensors, *ctx.rest)

    return called


class _RankMean(_RankForm):
    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
        input, weights = ctx.saved_tensors
        return _RankMean.results(
            ctx,
            grad,
            lambda: call("rank_mean_backward", grad, input, weights, *ctx.rest),
            lambda: call("rank_mean_weight_grad", grad, input, weights, *ctx.rest),
        )

    @staticmethod
    def jvp(ctx: Any, op: Any, keyset: Any, t_input: Any, t_weights: Any, *rest: Any) -> Tensor:
        input, weights = ctx.saved_tensors
        mean = _form("rank_mean_jvp", ctx)
        return _sum(ctx, mean(t_input, input, weights), mean(input, input, t_weights))


class _RankMeanBackward(_RankForm):
    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
        grad_output, input, weights = ctx.saved_tensors
        return _RankMeanBackward.results(
            ctx,
            grad,
            lambda: call("rank_mean_jvp", grad, input, weights, *ctx.rest),
            None,
            lambda: call("rank_mean_weight_grad_jvp", grad_output, grad, input, weights, *ctx.rest),
        )

    @staticmethod
    def jvp(ctx: Any, op: Any, keyset: Any, t_grad: Any, t_input: Any, t_weights: Any, *rest: Any) -> Tensor | None:
        grad_output, input, weights = ctx.saved_tensors
        backward = _form("rank_mean_backward", ctx)
        return _sum(ctx, backward(t_grad, input, weights), backward(grad_output, input, t_weights))


class _RankMeanJvp(_RankForm):
    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
        tangent, input, weights = ctx.saved_tensors
        return _RankMeanJvp.results(
            ctx,
            grad,
            lambda: call("rank_mean_backward", grad, input, weights, *ctx.rest),
            None,
            lambda: call("rank_mean_weight_grad_jvp", grad, tangent, input, weights, *ctx.rest),
        )

    @staticmethod
    def jvp(ctx: Any, op: Any, keyset: Any, t_tangent: Any, t_input: Any, t_weights: Any, *rest: Any) -> Tensor | None:
        tangent, input, weights = ctx.saved_tensors
        mean = _form("rank_mean_jvp", ctx)
        return _sum(ctx, mean(t_tangent, input, weights), mean(tangent, input, t_weights))


class _RankMeanWeightGrad(_RankForm):
    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
        grad_output, input, _ = ctx.saved_tensors
        return _RankMeanWeightGrad.results(
            ctx,
            grad,
            lambda: call("rank_mean_jvp", input, input, grad, *ctx.rest),
            lambda: call("rank_mean_backward", grad_output, input, grad, *ctx.rest),
            None,
        )

    @staticmethod
    def jvp(ctx: Any, op: Any, keyset: Any, t_grad: Any, t_input: Any, *rest: Any) -> Tensor | None:
        grad_output, input, weights = ctx.saved_tensors
        gradient = _form("rank_mean_weight_grad_jvp", ctx)
        return _sum(ctx, gradient(t_grad, input, input, weights), gradient(grad_output, t_input, input, weights))


class _RankMeanWeightGradJvp(_RankForm):
    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
        grad_output, tangent, input, _ = ctx.saved_tensors
        return _RankMeanWeightGradJvp.results(
            ctx,
            grad,
            lambda: call("rank_mean_jvp", tangent, input, grad, *ctx.rest),
            lambda: call("rank_mean_backward", grad_output, input, grad, *ctx.rest),
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, op: Any, keyset: Any, t_grad: Any, t_tangent: Any, *rest: Any) -> Tensor | None:
        grad_output, tangent, input, weights = ctx.saved_tensors
        gradient = _form("rank_mean_weight_grad_jvp", ctx)
        return _sum(ctx, gradient(t_grad, tangent, input, weights), gradient(grad_output, t_tangent, input, weights))


class _ValueMean(_Derivative):
    """Its gradients are operators; every further derivative is PyTorch's, of the plain formulas."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _keep(ctx, *inputs[2:4])
        ctx.geometry = inputs[4:]

    @staticmethod
    def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
        input, beta = ctx.saved_tensors
        grad_input = grad_beta = None
        if grad is None:
            return (None,) * (4 + len(ctx.geometry))
        if ctx.needs_input_grad[2]:
            grad_input = call("value_mean_backward", grad, input, beta, *ctx.geometry)
        if ctx.needs_input_grad[3]:
            grad_beta = call("value_mean_beta_grad", grad, input, beta, *ctx.geometry)
        return None, None, grad_input, grad_beta, *[None] * len(ctx.geometry)

    @staticmethod
    def jvp(ctx: Any, op: Any, keyset: Any, t_input: Any, t_beta: Any, *rest: Any) -> Tensor | None:
        kept: tuple[Any, ...] = ctx.saved_tensors
        input, beta = (t if t is None else forward_ad.unpack_dual(t, level=0).primal for t in kept)
        with _private.levels_below(torch.is_grad_enabled()):
            return _ValueMean._change(input, beta, t_input, t_beta, ctx.geometry)

    @staticmethod
    def _change(input: Any, beta: Any, t_input: Any, t_beta: Any, geometry: Sequence[Any]) -> Tensor | None:
        change = None
        if t_input is not None:
            slope = reference.value_slopes(input, beta, *geometry)
            tangents = _window.windows(t_input, Geometry(*geometry), fill=0.0)[0].to(slope.dtype)
            change = (slope * tangents).sum(-1)
        if t_beta is not None:
            by_channel = t_beta.reshape(-1, *[1] * (input.dim() - 2))
            by_beta = reference.value_mean_beta_slope(input, beta, *geometry) * by_channel
            change = by_beta if change is None else change + by_beta
        return None if change is None else _window.dense(change.to(input.dtype), _window.is_channels_last(input))


_FUNCTIONS: dict[str, type[_Derivative]] = {
    "rank_draw": _Draw,
    "value_draw": _Draw,
    "drawn_scatter": _DrawnScatter,
    "drawn_gather": _DrawnGather,
    "rank_mean": _RankMean,
    "rank_mean_backward": _RankMeanBackward,
    "rank_mean_jvp": _RankMeanJvp,
    "rank_mean_weight_grad": _RankMeanWeightGrad,
    "rank_mean_weight_grad_jvp": _RankMeanWeightGradJvp,
    "value_mean": _ValueMean,
}


def _plain_formulas(name: str, keyset: Any, *args: Any) -> Any:
    return getattr(reference, name)(*args)  # Which PyTorch differentiates.


_DERIVATIVES = {name: _private.applied(_FUNCTIONS[name]) if name in _FUNCTIONS else _plain_formulas for name in SCHEMAS}


def _recorded(name: str, keyset: Any, *args: Any) -> Any:
    """Record the call where a derivative can be asked for: a tensor that requires grad, or forward mode."""
    if not _private.is_differentiating(*args[:4]):
        return _private.below_autograd(OPERATORS[name], keyset, *args)
    return _private.at_one_level(_DERIVATIVES[name], name, (keyset, torch.is_grad_enabled()), *args)


for _name in SCHEMAS:
    _library.impl(_name, functools.partial(_recorded, _name), "Autograd", with_keyset=True)


def call(name: str, *args: Any) -> Any:
    """Call an operator.

    The dispatcher comes to the derivative in Python by way of C++. A call that nothing else wants to see goes there at
    once, which halves what a call of a tiny tensor costs (6 of 12 microseconds).
    """
    if _private.is_watched(args[0]):
        return OPERATORS[name](*args)
    return _DERIVATIVES[name](name, None, *args) if _private.is_differentiating(*args[:4]) else _run(name, args)


# vmap: the batch is folded into the images, and every example brings its own seed; where tables differ by example, or
# a gradient is theirs, into the channels, which may each have a table.


_OF_TABLES = ("rank_mean_weight_grad", "rank_mean_weight_grad_jvp", "value_mean_beta_grad")
"""The operators whose result is a table's gradient."""


def _table_index(name: str) -> int:
    """Return which argument is the table; -1, which is no tensor, if there is none."""
    names = [argument.name for argument in OPERATORS[name]._schema.arguments]
    return next((i for i, argument in enumerate(names) if argument in ("weights", "thresholds", "beta")), -1)


def _vmap(name: str, info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Any, Any]:
    batch, draws, at = info.batch_size, name in ("rank_draw", "value_draw"), _table_index(name)
    by_table = isinstance(args[at], Tensor) and in_dims[at] is not None
    if batch == 0 and by_table:  # No example, no table: any will do.
        table = args[at].movedim(in_dims[at], 0)
        args = (*args[:at], table.new_zeros(table.shape[1:]), *args[at + 1 :])
        in_dims, by_table = [*in_dims[:at], None, *in_dims[at + 1 :]], False
    if draws and by_table:
        return _one_by_one(name, batch, in_dims, args)
    if by_table or name in _OF_TABLES:
        return _by_channels(name, batch, in_dims, args, at)
    examples = [_batched(arg, dim, batch) for arg, dim in zip(args, in_dims, strict=True)]
    images = examples[0].size(1)
    folded = [
        arg
        if not isinstance(arg, Tensor) or i == at
        else example.reshape(-1)
        if draws and i == 1
        else example.flatten(0, 1)
        for i, (arg, example) in enumerate(zip(args, examples, strict=True))
    ]
    result = OPERATORS[name](*folded)
    if draws:
        return tuple(part.unflatten(0, (batch, images)) for part in result), (0, 0)
    return result.unflatten(0, (batch, images)), 0


def _batched(arg: Any, dim: int | None, batch: int) -> Any:
    if not isinstance(arg, Tensor):
        return arg
    return arg.expand(batch, *arg.shape) if dim is None else arg.movedim(dim, 0)


def _one_by_one(name: str, batch: int, in_dims: Sequence[Any], args: Sequence[Any]) -> tuple[Any, Any]:
    results = [
        OPERATORS[name](
            *(
                arg.select(dim, i) if isinstance(arg, Tensor) and dim is not None else arg
                for arg, dim in zip(args, in_dims, strict=True)
            )
        )
        for i in range(batch)
    ]
    return tuple(map(torch.stack, zip(*results, strict=True))), (0, 0)


def _by_channels(name: str, batch: int, in_dims: Sequence[Any], args: Sequence[Any], at: int) -> tuple[Tensor, int]:
    examples = [_batched(arg, dim, batch) for arg, dim in zip(args, in_dims, strict=True)]
    channels = examples[0].size(2)
    folded = []
    for i, example in enumerate(examples):
        if i == at:
            sets = example if example.dim() > 1 else example.unsqueeze(-1)
            folded.append(sets.expand(batch, channels, *sets.shape[2:]).flatten(0, 1))
        else:
            folded.append(example.movedim(0, 1).flatten(1, 2) if isinstance(example, Tensor) else example)
    result = OPERATORS[name](*folded)
    if name in _OF_TABLES:
        result, shape = result.unflatten(0, (batch, channels)), examples[at].shape
        return (result if shape[1:2] == (channels,) else result.sum(1, keepdim=True)).reshape(shape), 0
    return result.unflatten(1, (batch, channels)), 1


for _name in SCHEMAS:
    torch.library.register_vmap(f"empool::{_name}", functools.partial(_vmap, _name), lib=_library)


# ONNX: the exporter decomposes an operator that it does not know, and finds the means' definition in this table. Where
# sizes are symbols, fake tensors would take it for the fake too, and be minutes over a large window, were it not for an
# entry in the table of fakes.
for _name in ("rank_mean", "value_mean"):
    _private.decompose(OPERATORS[_name], getattr(reference, _name), _FAKES[_name])
for _name in ("rank_draw", "value_draw"):
    _private.decompose(OPERATORS[_name], getattr(_onnx, _name), _FAKES[_name])
