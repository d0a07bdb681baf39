"""The pooling functions: the arguments of `torch.nn.functional.max_pool2d`, then each method's own by name."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any, Concatenate, Generic, Literal, ParamSpec, overload

from torch import Generator, Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from empool import _call, _prepared
from empool._call import Method, Number, OutputSize, Seed, Size, Tied, Windows
from empool._tables import Learned, Tables
from empool.distributions import EnsembleMax, MaxDropout, RankDistribution, StochasticMax, probability, share

P = ParamSpec("P")
Pair = tuple[Tensor, Tensor]
_SPATIAL = {1: "L", 2: "H, W", 3: "D, H, W"}
_WINDOWS = {
    False: "kernel_size, stride, dilation, ceil_mode: as `torch.nn.functional.{twin}` takes them.\n"
    "    padding: the same; padding is never output and counts in no mean.",
    True: "output_size: as `torch.nn.functional.{twin}` takes it.",
}
_INPUT = """input: ``(N, C, {spatial})`` or ``(C, {spatial})``; any floating dtype, any memory format; both are kept.
        {windows}
        return_indices: also return the flat index of each output in the input's spatial dimensions. Where no
            single activation is output (`training` false, or a 0 for none) it is that of the maximum."""
_DRAW = """training: sample if true; return the exact expectation if false.
        seed: 64-bit seed of the samples, an int or an int64 tensor of one element on the input's device. By default
            each call takes a new one from `generator`.
        generator: by default PyTorch's, of the input's device.
        tied: which outputs share a random number: ``"channel"`` all channels at a position, ``"position"`` all
            positions of a channel, ``"image"`` all of an image. By default none do."""
_RETURNS = """``(N, C, {output})``, sizes as `torch.nn.functional.{twin}` gives; with `return_indices` a pair
        with int64 indices."""
_REQUIRED = {"distribution": "empool.TopMean(2)"}
_RAISES = "RuntimeError: for a geometry that `torch.nn.functional.{twin}` refuses, in its words."


# fmt: off
class _Pooling(Generic[P]):
    """A pooling function as a type checker sees it; P are its own arguments."""

    @overload
    def __call__(
        self, input: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        ceil_mode: bool = False, return_indices: Literal[False] = False, *args: P.args, **own: P.kwargs) -> Tensor: ...
    @overload
    def __call__(
        self, input: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        ceil_mode: bool = False, return_indices: Literal[True] = True, *args: P.args, **own: P.kwargs) -> Pair: ...
    @overload
    def __call__(
        self, input: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        ceil_mode: bool = False, return_indices: bool = False, *args: P.args, **own: P.kwargs) -> Any: ...
    def __call__(self, *args: Any, **own: Any) -> Any: ...


class _Adaptive(Generic[P]):
    """A function for adaptive pooling as a type checker sees it."""

    @overload
    def __call__(
        self, input: Tensor, output_size: OutputSize, return_indices: Literal[False] = False,
        *args: P.args, **own: P.kwargs) -> Tensor: ...
    @overload
    def __call__(
        self, input: Tensor, output_size: OutputSize, return_indices: Literal[True] = True,
        *args: P.args, **own: P.kwargs) -> Pair: ...
    @overload
    def __call__(
        self, input: Tensor, output_size: OutputSize, return_indices: bool = False, *args: P.args, **own: P.kwargs
    ) -> Any: ...
    def __call__(self, *args: Any, **own: Any) -> Any: ...
# fmt: on


_Six = tuple[_Pooling[P], _Pooling[P], _Pooling[P], _Adaptive[P], _Adaptive[P], _Adaptive[P]]


def _functions(method: Callable[Concatenate[str, P], Method]) -> _Six[P]:
    """Make a method's functions: 1d, 2d and 3d with max-pooling's arguments, then with adaptive pooling's."""
    return tuple(_function(method, dims, adaptive) for adaptive in (False, True) for dims in (1, 2, 3))  # type: ignore


def _function(method: Callable[..., Method], dims: int, adaptive: bool) -> Callable[..., Any]:
    prefix = "adaptive_" if adaptive else ""
    name, twin, axes = f"{prefix}{method.__name__[1:]}{dims}d", f"{prefix}max_pool{dims}d", _SPATIAL[dims]
    named = types.FunctionType(method.__code__, method.__globals__)  # Python's own errors name the function.
    named.__qualname__, named.__kwdefaults__ = name, method.__kwdefaults__

    def pooling(
        input: Tensor,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
        **own: Any,
    ) -> Any:
        windows = kernel_size, stride, padding, dilation, ceil_mode
        # What overrides functions, such as a tensor's subclass or a symbolic trace, says what a call means.
        if has_torch_function_unary(input):
            return handle_torch_function(pooling, (input,), input, *windows, return_indices, **own)
        return _prepared.pool(name, dims, input, windows, return_indices, named, own)

    def adaptive_pooling(input: Tensor, output_size: OutputSize, return_indices: bool = False, **own: Any) -> Any:
        if has_torch_function_unary(input):
            return handle_torch_function(adaptive_pooling, (input,), input, output_size, return_indices, **own)
        windows = Windows(output_size=output_size, adaptive=True)
        return _prepared.pool(name, dims, input, windows, return_indices, named, own)

    call: Any = adaptive_pooling if adaptive else pooling
    windows, output = _WINDOWS[adaptive].format(twin=twin), "O" + axes.replace(", ", ", O")
    fields = {"twin": twin, "spatial": axes, "output": output, "windows": windows}
    parts = {"input": _INPUT, "draw": _DRAW, "returns": _RETURNS, "raises": _RAISES}
    doc = inspect.getdoc(method) or ""
    _, *own = inspect.signature(method).parameters.values()
    if dims != 2 or adaptive:
        doc = doc.partition("Example:")[0] + _example(name, dims, adaptive, own)
    call.__doc__ = doc.format(**{key: part.replace("\n    ", "\n").format(**fields) for key, part in parts.items()})
    *shared, _ = inspect.signature(call).parameters.values()
    call.__signature__ = inspect.Signature([*shared, *own], return_annotation=Tensor | Pair)
    call.__name__ = call.__qualname__ = name
    return call  # type: ignore[no-any-return]


def _example(name: str, dims: int, adaptive: bool, own: list[inspect.Parameter]) -> str:
    """Write the example of a function that has none of its own."""
    given = [f", {p.name}={_REQUIRED[p.name]}" for p in own if p.default is p.empty]
    before, after = ([9] * dims, [3] * dims) if adaptive else ([8] * dims, [4] * dims)
    call = f"{name}(torch.randn(16, 32, {', '.join(map(str, before))}), {3 if adaptive else 2}{''.join(given)})"
    return f"Example:\n    >>> {call}.shape\n    torch.Size({[16, 32, *after]})"


@_functions
def _ensemble_max_pool(
    function: str, *, p: Number = 0.1, training: bool = True, seed: Seed = None, generator: Generator | None = None,
    tied: Tied = None) -> Method:  # fmt: skip
    """Output the second largest activation of each window with probability p, and the largest otherwise.

    Args:
        {input}
        p: probability of dropping the largest activation, in [0, 1]: a number, or a tensor of one for each channel.
        {draw}
    Returns:
        {returns}
    Raises:
        ValueError: if p is outside [0, 1]; tensors on a GPU aren't checked, as that would synchronise.
        {raises}
    Source: Zhang and Wu, J. USTC 47(10), 2017.
    Example:
        >>> ensemble_max_pool2d(torch.tensor([[[1.0, 2.0], [3.0, 7.0]]]), 2, p=0.25, training=False)
        tensor([[[6.]]])
    """
    return Method(_call.by_rank(function, EnsembleMax, "p", p, probability), None, training, seed, generator, tied)


(ensemble_max_pool1d, ensemble_max_pool2d, ensemble_max_pool3d,
 adaptive_ensemble_max_pool1d, adaptive_ensemble_max_pool2d,
 adaptive_ensemble_max_pool3d) = _ensemble_max_pool  # fmt: skip


@_functions
def _max_pool_dropout(
    function: str, *, p: Number = 0.2, training: bool = True, seed: Seed = None, generator: Generator | None = None,
    tied: Tied = None) -> Method:  # fmt: skip
    """Drop each activation with probability p and output the largest that is left, or 0 if none is.

    Args:
        {input}
        p: probability of dropping an activation, in [0, 1]: a number, or a tensor of one for each channel.
        {draw}
    Returns:
        {returns}
    Raises:
        ValueError: if p is outside [0, 1]; tensors on a GPU aren't checked, as that would synchronise.
        {raises}
    Source: Wu and Gu, arXiv 1512.01400, 2015; their p is the probability of retaining.
    Example:
        >>> max_pool_dropout2d(torch.tensor([[[1.0, 2.0], [3.0, 8.0]]]), 2, p=0.5, training=False)
        tensor([[[5.0625]]])
    """
    return Method(_call.by_rank(function, MaxDropout, "p", p, probability), None, training, seed, generator, tied)


(max_pool_dropout1d, max_pool_dropout2d, max_pool_dropout3d,
 adaptive_max_pool_dropout1d, adaptive_max_pool_dropout2d, adaptive_max_pool_dropout3d) = _max_pool_dropout  # fmt: skip


@_functions
def _stochastic_max_pool(
    function: str, *, drop: Number = 0.5, training: bool = True, seed: Seed = None, generator: Generator | None = None,
    tied: Tied = None) -> Method:  # fmt: skip
    """Drop a fixed share of each window at random and output the largest that is left.

    Args:
        {input}
        drop: share of each window to drop, in [0, 1), rounded down to whole activations: a number, or a tensor of one
            for each channel.
        {draw}
    Returns:
        {returns}
    Raises:
        ValueError: if drop is outside [0, 1); tensors on a GPU aren't checked, as that would synchronise.
        {raises}
    Source: Huang et al., Channel-max, channel-drop and stochastic max-pooling, CVPRW 2015.
    Example:
        >>> stochastic_max_pool2d(torch.tensor([[[1.0, 2.0], [3.0, 7.0]]]), 2, drop=0.25, training=False)
        tensor([[[6.]]])
    """
    return Method(_call.by_rank(function, StochasticMax, "drop", drop, share), None, training, seed, generator, tied)


(stochastic_max_pool1d, stochastic_max_pool2d, stochastic_max_pool3d,
 adaptive_stochastic_max_pool1d, adaptive_stochastic_max_pool2d,
 adaptive_stochastic_max_pool3d) = _stochastic_max_pool  # fmt: skip


@_functions
def _rank_pool(
    function: str, *, distribution: RankDistribution | Tables | Learned, training: bool = True, seed: Seed = None,
    generator: Generator | None = None, tied: Tied = None) -> Method:  # fmt: skip
    """Sample a rank from a distribution and output that activation; the expectation is an ordered weighted average.

    Args:
        {input}
        distribution: how likely each rank is, such as `empool.Ordinal` or one of your own.
        {draw}
    Returns:
        {returns}
    Raises:
        TypeError: if `distribution` is not a rank distribution.
        {raises}
    Source: Yager, IEEE Transactions on Systems, Man and Cybernetics 18(1), 1988.
    Example:
        >>> ordinal = empool.Ordinal((0.5, 0.25, 0.25))
        >>> rank_pool2d(torch.tensor([[[1.0, 2.0], [3.0, 7.0]]]), 2, distribution=ordinal, training=False)
        tensor([[[4.7500]]])
    """
    return Method(_call.by_distribution(function, distribution), None, training, seed, generator, tied)


(rank_pool1d, rank_pool2d, rank_pool3d,
 adaptive_rank_pool1d, adaptive_rank_pool2d, adaptive_rank_pool3d) = _rank_pool  # fmt: skip


@_functions
def _stochastic_pool(
    function: str, *, training: bool = True, seed: Seed = None, generator: Generator | None = None,
    tied: Tied = None) -> Method:  # fmt: skip
    """Sample an activation in proportion to its positive part; the expectation is the sum of squares over the sum.

    Args:
        {input}
        {draw}
    Returns:
        {returns}
    Raises:
        {raises}
    Source: Zeiler and Fergus, arXiv 1301.3557, 2013. Negative activations count as 0.
    Example:
        >>> stochastic_pool2d(torch.tensor([[[1.0, 0.0], [0.0, 3.0]]]), 2, training=False)
        tensor([[[2.5000]]])
    """
    return Method(None, None, training, seed, generator, tied)


(stochastic_pool1d, stochastic_pool2d, stochastic_pool3d,
 adaptive_stochastic_pool1d, adaptive_stochastic_pool2d, adaptive_stochastic_pool3d) = _stochastic_pool  # fmt: skip


@_functions
def _soft_pool(
    function: str, *, beta: float | Tensor = 1.0, training: bool = True, seed: Seed = None,
    generator: Generator | None = None, tied: Tied = None) -> Method:  # fmt: skip
    """Sample an activation by the softmax of beta times the activations; the expectation is SoftPool.

    Args:
        {input}
        beta: a finite number, or a tensor of one for each channel, which may require grad. 0 gives average pooling;
            the larger, the nearer to max-pooling.
        {draw}
    Returns:
        {returns}
    Raises:
        ValueError: if beta is not finite; tensors on a GPU aren't checked, as that would synchronise.
        {raises}
    Source: Stergiou, Poppe and Kalliatakis, Refining activation downsampling with SoftPool, ICCV 2021.
    Example:
        >>> soft_pool2d(torch.tensor([[[1.0, 2.0], [3.0, 7.0]]]), 2, beta=0.0, training=False)
        tensor([[[3.2500]]])
    """
    return Method(None, _call.by_value(function, beta), training, seed, generator, tied)


(soft_pool1d, soft_pool2d, soft_pool3d,
 adaptive_soft_pool1d, adaptive_soft_pool2d, adaptive_soft_pool3d) = _soft_pool  # fmt: skip

__all__ = [name for name in dir() if name[-2:] in ("1d", "2d", "3d")]
