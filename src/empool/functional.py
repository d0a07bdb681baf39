"""The pooling functions: `torch.nn.functional.max_pool2d`'s arguments, and each method's own by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from empool._call import Seed, Size, distribution_argument, distribution_of, pool
from empool.distributions import EnsembleMax, MaxDropout, RankDistribution, StochasticMax, probability, share

__all__ = [
    "ensemble_max_pool1d",
    "ensemble_max_pool2d",
    "ensemble_max_pool3d",
    "max_pool_dropout1d",
    "max_pool_dropout2d",
    "max_pool_dropout3d",
    "rank_pool1d",
    "rank_pool2d",
    "rank_pool3d",
    "stochastic_max_pool1d",
    "stochastic_max_pool2d",
    "stochastic_max_pool3d",
    "stochastic_pool1d",
    "stochastic_pool2d",
    "stochastic_pool3d",
]


def _overridable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let what stands for a tensor, as in a symbolic trace, say what a call means, as PyTorch's own functions do."""

    @functools.wraps(function)
    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(input, Tensor) and has_torch_function_unary(input):
            return handle_torch_function(call, (input,), input, *args, **kwargs)
        return function(input, *args, **kwargs)

    return call


@_overridable
def ensemble_max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    p: float = 0.1,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    r"""Output the runner-up of each window with probability p in training, the expectation in testing.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; any floating dtype, any memory format, kept.
        kernel_size, stride, padding, dilation, ceil_mode: as `torch.nn.functional.max_pool2d` takes them. Padding is
            no activation: it is never drawn and counts in no mean.
        return_indices: also return where each output comes from, as flat indices into the input's spatial
            dimensions: the maximum's in testing and for a 0 that no activation gave.
        p: probability of dropping the largest activation, in [0, 1].
        training: draw if true; the exact expectation over the draws if false.
        seed: 64-bit seed of the draws, an int or an int64 tensor of one element on the input's device. By default it
            is drawn from PyTorch's default generator of that device.
    Returns:
        ``(N, C, OH, OW)``, sizes as `torch.nn.functional.max_pool2d` gives; with `return_indices` a pair
        with int64 indices.
    Raises:
        ValueError: if p is outside [0, 1].
        RuntimeError: for a geometry that `torch.nn.functional.max_pool2d` refuses, in its words.
    Source: Zhang and Wu, J. USTC 47(10), 2017.
    Example:
        >>> ensemble_max_pool2d(torch.tensor([[[1.0, 2.0], [3.0, 7.0]]]), 2, p=0.25, training=False)
        tensor([[[6.]]])
    """
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "ensemble_max_pool2d",
        2,
        input,
        geometry,
        return_indices,
        distribution_of(EnsembleMax, probability, "ensemble_max_pool2d", "p", p),
        training,
        seed,
    )


@_overridable
def ensemble_max_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    p: float = 0.1,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    """Pool as `ensemble_max_pool2d` does, over one dimension: ``(N, C, L)`` or ``(C, L)`` in."""
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "ensemble_max_pool1d",
        1,
        input,
        geometry,
        return_indices,
        distribution_of(EnsembleMax, probability, "ensemble_max_pool1d", "p", p),
        training,
        seed,
    )


@_overridable
def ensemble_max_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    p: float = 0.1,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    """Pool as `ensemble_max_pool2d` does, over three dimensions: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` in."""
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "ensemble_max_pool3d",
        3,
        input,
        geometry,
        return_indices,
        distribution_of(EnsembleMax, probability, "ensemble_max_pool3d", "p", p),
        training,
        seed,
    )


@_overridable
def max_pool_dropout2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    p: float = 0.2,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    r"""Drop every activation with probability p and output the largest left (0 if none is), in testing the expectation.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; any floating dtype, any memory format, kept.
        kernel_size, stride, padding, dilation, ceil_mode: as `torch.nn.functional.max_pool2d` takes them. Padding is
            no activation: it is never drawn and counts in no mean.
        return_indices: also return where each output comes from, as flat indices into the input's spatial
            dimensions: the maximum's in testing and for a 0 that no activation gave.
        p: probability of dropping an activation, in [0, 1].
        training: draw if true; the exact expectation over the draws if false.
        seed: 64-bit seed of the draws, an int or an int64 tensor of one element on the input's device. By default it
            is drawn from PyTorch's default generator of that device.
    Returns:
        ``(N, C, OH, OW)``, sizes as `torch.nn.functional.max_pool2d` gives; with `return_indices` a pair
        with int64 indices.
    Raises:
        ValueError: if p is outside [0, 1].
        RuntimeError: for a geometry that `torch.nn.functional.max_pool2d` refuses, in its words.
    Source: Wu and Gu, arXiv 1512.01400, 2015; their p is the probability of retaining.
    Example:
        >>> max_pool_dropout2d(torch.tensor([[[1.0, 2.0], [3.0, 8.0]]]), 2, p=0.5, training=False)
        tensor([[[5.0625]]])
    """
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "max_pool_dropout2d",
        2,
        input,
        geometry,
        return_indices,
        distribution_of(MaxDropout, probability, "max_pool_dropout2d", "p", p),
        training,
        seed,
    )


@_overridable
def max_pool_dropout1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    p: float = 0.2,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    """Pool as `max_pool_dropout2d` does, over one dimension: ``(N, C, L)`` or ``(C, L)`` in."""
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "max_pool_dropout1d",
        1,
        input,
        geometry,
        return_indices,
        distribution_of(MaxDropout, probability, "max_pool_dropout1d", "p", p),
        training,
        seed,
    )


@_overridable
def max_pool_dropout3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    p: float = 0.2,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    """Pool as `max_pool_dropout2d` does, over three dimensions: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` in."""
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "max_pool_dropout3d",
        3,
        input,
        geometry,
        return_indices,
        distribution_of(MaxDropout, probability, "max_pool_dropout3d", "p", p),
        training,
        seed,
    )


@_overridable
def stochastic_max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    drop: float = 0.5,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    r"""Drop a fixed share of each window at random and output the largest left, in testing the expectation.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; any floating dtype, any memory format, kept.
        kernel_size, stride, padding, dilation, ceil_mode: as `torch.nn.functional.max_pool2d` takes them. Padding is
            no activation: it is never drawn and counts in no mean.
        return_indices: also return where each output comes from, as flat indices into the input's spatial
            dimensions: the maximum's in testing and for a 0 that no activation gave.
        drop: share of a window's activations that is dropped, in [0, 1); ``floor(drop * n)`` of n.
        training: draw if true; the exact expectation over the draws if false.
        seed: 64-bit seed of the draws, an int or an int64 tensor of one element on the input's device. By default it
            is drawn from PyTorch's default generator of that device.
    Returns:
        ``(N, C, OH, OW)``, sizes as `torch.nn.functional.max_pool2d` gives; with `return_indices` a pair
        with int64 indices.
    Raises:
        ValueError: if drop is outside [0, 1).
        RuntimeError: for a geometry that `torch.nn.functional.max_pool2d` refuses, in its words.
    Source: Huang et al., Channel-max, channel-drop and stochastic max-pooling, CVPRW 2015.
    Example:
        >>> stochastic_max_pool2d(torch.tensor([[[0.0, 3.0], [6.0, 12.0]]]), 2, training=False)
        tensor([[[8.5000]]])
    """
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "stochastic_max_pool2d",
        2,
        input,
        geometry,
        return_indices,
        distribution_of(StochasticMax, share, "stochastic_max_pool2d", "drop", drop),
        training,
        seed,
    )


@_overridable
def stochastic_max_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    drop: float = 0.5,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    """Pool as `stochastic_max_pool2d` does, over one dimension: ``(N, C, L)`` or ``(C, L)`` in."""
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "stochastic_max_pool1d",
        1,
        input,
        geometry,
        return_indices,
        distribution_of(StochasticMax, share, "stochastic_max_pool1d", "drop", drop),
        training,
        seed,
    )


@_overridable
def stochastic_max_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    drop: float = 0.5,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    """Pool as `stochastic_max_pool2d` does, over three dimensions: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` in."""
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "stochastic_max_pool3d",
        3,
        input,
        geometry,
        return_indices,
        distribution_of(StochasticMax, share, "stochastic_max_pool3d", "drop", drop),
        training,
        seed,
    )


@_overridable
def stochastic_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    r"""Draw an activation in proportion to its positive part, in testing the sum of squares over the sum.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; any floating dtype, any memory format, kept.
        kernel_size, stride, padding, dilation, ceil_mode: as `torch.nn.functional.max_pool2d` takes them. Padding is
            no activation: it is never drawn and counts in no mean.
        return_indices: also return where each output comes from, as flat indices into the input's spatial
            dimensions: the maximum's in testing and for a 0 that no activation gave.
        training: draw if true; the exact expectation over the draws if false.
        seed: 64-bit seed of the draws, an int or an int64 tensor of one element on the input's device. By default it
            is drawn from PyTorch's default generator of that device.
    Returns:
        ``(N, C, OH, OW)``, sizes as `torch.nn.functional.max_pool2d` gives; with `return_indices` a pair
        with int64 indices.
    Raises:
        RuntimeError: for a geometry that `torch.nn.functional.max_pool2d` refuses, in its words.
    Source: Zeiler and Fergus, arXiv 1301.3557, 2013. Negative activations count as 0.
    Example:
        >>> stochastic_pool2d(torch.tensor([[[1.0, 2.0], [-1.0, 1.0]]]), 2, training=False)
        tensor([[[1.5000]]])
    """
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool("stochastic_pool2d", 2, input, geometry, return_indices, None, training, seed)


@_overridable
def stochastic_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    """Pool as `stochastic_pool2d` does, over one dimension: ``(N, C, L)`` or ``(C, L)`` in."""
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool("stochastic_pool1d", 1, input, geometry, return_indices, None, training, seed)


@_overridable
def stochastic_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    """Pool as `stochastic_pool2d` does, over three dimensions: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` in."""
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool("stochastic_pool3d", 3, input, geometry, return_indices, None, training, seed)


@_overridable
def rank_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    distribution: RankDistribution,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    r"""Output an activation whose rank is drawn from a distribution in training, the expectation in testing.

    Args:
        input: ``(N, C, H, W)`` or ``(C, H, W)``; any floating dtype, any memory format, kept.
        kernel_size, stride, padding, dilation, ceil_mode: as `torch.nn.functional.max_pool2d` takes them. Padding is
            no activation: it is never drawn and counts in no mean.
        return_indices: also return where each output comes from, as flat indices into the input's spatial
            dimensions: the maximum's in testing and for a 0 that no activation gave.
        distribution: how likely each rank is, such as `empool.Ordinal((0.7, 0.2, 0.1))`.
        training: draw if true; the exact expectation over the draws if false.
        seed: 64-bit seed of the draws, an int or an int64 tensor of one element on the input's device. By default it
            is drawn from PyTorch's default generator of that device.
    Returns:
        ``(N, C, OH, OW)``, sizes as `torch.nn.functional.max_pool2d` gives; with `return_indices` a pair
        with int64 indices.
    Raises:
        TypeError: if distribution is no `empool.RankDistribution`.
        RuntimeError: for a geometry that `torch.nn.functional.max_pool2d` refuses, in its words.
    Source: the common form of the methods above; Ordinal pooling is one more.
    Example:
        >>> rank_pool2d(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]), 2, distribution=empool.Average(), training=False)
        tensor([[[3.]]])
    """
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "rank_pool2d",
        2,
        input,
        geometry,
        return_indices,
        distribution_argument("rank_pool2d", distribution),
        training,
        seed,
    )


@_overridable
def rank_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    distribution: RankDistribution,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    """Pool as `rank_pool2d` does, over one dimension: ``(N, C, L)`` or ``(C, L)`` in."""
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "rank_pool1d",
        1,
        input,
        geometry,
        return_indices,
        distribution_argument("rank_pool1d", distribution),
        training,
        seed,
    )


@_overridable
def rank_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    distribution: RankDistribution,
    training: bool = True,
    seed: Seed = None,
) -> Any:
    """Pool as `rank_pool2d` does, over three dimensions: ``(N, C, D, H, W)`` or ``(C, D, H, W)`` in."""
    geometry = (kernel_size, stride, padding, dilation, ceil_mode)
    return pool(
        "rank_pool3d",
        3,
        input,
        geometry,
        return_indices,
        distribution_argument("rank_pool3d", distribution),
        training,
        seed,
    )
