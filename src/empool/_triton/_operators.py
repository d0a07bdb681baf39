"""The operators: tensors are made dense, outputs allocated, and a kernel chosen."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from empool import _window, reference
from empool._triton import _plan
from empool._triton._draw import _rank_draw_kernel
from empool._triton._mean import _rank_mean_backward_kernel, _rank_mean_kernel
from empool._triton._plan import Windows, launch
from empool._triton._scatter import _drawn_gather_kernel, _drawn_scatter_any_kernel, _drawn_scatter_kernel
from empool._triton._value import _value_draw_kernel
from empool._triton._value_mean import _value_mean_backward_kernel, _value_mean_kernel
from empool._triton._weight_grad import _rank_mean_weight_grad_kernel
from empool._window import Geometry

MOST_SUMS = 64
"""For how many counts and ranks together a program adds up the weights' gradient."""
KERNELS = (
    _rank_draw_kernel,
    _value_draw_kernel,
    _drawn_scatter_kernel,
    _drawn_scatter_any_kernel,
    _drawn_gather_kernel,
    _rank_mean_kernel,
    _rank_mean_backward_kernel,
    _rank_mean_weight_grad_kernel,
    _value_mean_kernel,
    _value_mean_backward_kernel,
)


def rank_draw(
    input: Tensor, seed: Tensor, thresholds: Tensor, counts: Sequence[int], *rest: Any
) -> tuple[Tensor, Tensor]:
    """Do as `empool.reference.rank_draw`."""
    geometry, (tied, first_image) = rest[:6], _numbers(rest[6:])
    windows, input, output, drawn = _draw(input, geometry, counts)
    seed = _seeds(seed, windows)
    columns = thresholds.size(2)
    launch(
        _rank_draw_kernel,
        _plan.output_plan(_rank_draw_kernel, windows),
        input,
        seed,
        thresholds.contiguous(),
        output,
        drawn,
        share=windows.images // max(seed.numel(), 1),
        first_image=first_image,
        SEEDS=seed.numel() != 1,
        TIED=tied,
        METHOD=draw_method(columns, windows.volume),
        COLUMNS=columns,
        SETS=thresholds.size(0) != 1,
        LOWEST=torch.finfo(input.dtype).min,
    )
    return output, drawn


def value_draw(input: Tensor, seed: Tensor, beta: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    """Do as `empool.reference.value_draw`."""
    geometry, (tied, first_image) = rest[:6], _numbers(rest[6:])
    windows, input, output, drawn = _draw(input, geometry)
    seed = _seeds(seed, windows)
    launch(
        _value_draw_kernel,
        _plan.output_plan(_value_draw_kernel, windows),
        input,
        seed,
        seed if beta is None else beta.contiguous(),
        output,
        drawn,
        share=windows.images // max(seed.numel(), 1),
        first_image=first_image,
        SEEDS=seed.numel() != 1,
        TIED=tied,
        BETA=_beta(beta),
    )
    return output, drawn


def drawn_scatter(grad_output: Tensor, drawn: Tensor, input_size: Sequence[int], *geometry: Any) -> Tensor:
    """Do as `empool.reference.drawn_scatter`."""
    channels_last = _window.is_channels_last(drawn)
    grad_output, drawn = _window.dense(grad_output, channels_last), _window.dense(drawn, channels_last)
    size = (*drawn.shape[:2], *input_size)
    windows = Windows.of(size, drawn.shape, Geometry(*geometry), channels_last, grad_output.element_size())
    grad_input = _empty(size, grad_output, channels_last)
    kernel, cells = scatter_kernel(windows)
    launch(kernel, _plan.input_plan(kernel, windows, cells), grad_output, drawn, grad_input)
    return grad_input


def drawn_gather(input: Tensor, drawn: Tensor, *geometry: Any) -> Tensor:
    """Do as `empool.reference.drawn_gather`."""
    channels_last = _window.is_channels_last(drawn)
    input, drawn = _window.dense(input, channels_last), _window.dense(drawn, channels_last)
    windows = Windows.of(input.shape, drawn.shape, Geometry(*geometry), channels_last, input.element_size())
    output = _empty(drawn.shape, input, channels_last)
    plan = _plan.output_plan(_drawn_gather_kernel, windows, lanes=False)
    launch(_drawn_gather_kernel, plan, input, drawn, output)
    return output


def rank_mean(input: Tensor, weights: Tensor, counts: Sequence[int], *geometry: Any) -> Tensor:
    """Do as `empool.reference.rank_mean`."""
    windows, input, shape = _windows(input, geometry, counts)
    output = _empty(shape, input, windows.channels_last)
    columns = weights.size(2)
    method = "any"
    if columns <= 2 and windows.volume <= _plan.UNROLLED_WINDOW:
        method = ("first", "second")[columns - 1]
    elif columns <= windows.volume <= _plan.SORTED_WINDOW:
        method = "sorted"
    network = _plan.sorting_network(windows.volume) if method == "sorted" else (0, 0)
    launch(
        _rank_mean_kernel,
        _plan.output_plan(_rank_mean_kernel, windows),
        input,
        weights.contiguous(),
        output,
        METHOD=method,
        NETWORK=network,
        EXCHANGES=len(network) // 2,
        LOWEST=torch.finfo(input.dtype).min,
        COLUMNS=columns,
        SETS=weights.size(0) != 1,
    )
    return output


def rank_mean_backward(
    grad_output: Tensor, input: Tensor, weights: Tensor, counts: Sequence[int], *geometry: Any
) -> Tensor:
    """Do as `empool.reference.rank_mean_backward`."""
    windows, input, _ = _windows(input, geometry, counts)
    grad_output = _window.dense(grad_output, windows.channels_last)
    grad_input = _empty(input.shape, input, windows.channels_last)
    launch(
        _rank_mean_backward_kernel,
        _plan.input_plan(_rank_mean_backward_kernel, windows, cells=False),
        grad_output,
        input,
        weights.contiguous(),
        grad_input,
        COLUMNS=weights.size(2),
        SETS=weights.size(0) != 1,
    )
    return grad_input


def rank_mean_weight_grad(
    grad_output: Tensor, input: Tensor, weights: Tensor, counts: Sequence[int], *geometry: Any
) -> Tensor:
    """Do as `empool.reference.rank_mean_weight_grad`; of windows too large for registers, by it."""
    windows, input, _ = _windows(input, geometry, counts)
    columns, rows = weights.size(2), windows.rows[1::2]
    if not (columns <= windows.volume <= _plan.SORTED_WINDOW and 0 < len(rows) * columns <= MOST_SUMS):
        return reference.rank_mean_weight_grad(grad_output, input, weights, counts, *geometry)
    plan = _plan.channel_plan(_rank_mean_weight_grad_kernel, windows)
    network = _plan.sorting_network(windows.volume) or (0, 0)
    wide = torch.promote_types(input.dtype, torch.float32)
    sums = input.new_empty((plan.parts, windows.channels, len(rows), columns), dtype=wide)
    launch(
        _rank_mean_weight_grad_kernel,
        plan,
        _window.dense(grad_output, windows.channels_last),
        input,
        sums,
        NETWORK=network,
        EXCHANGES=len(network) // 2 if windows.volume > 1 else 0,
        COLUMNS=columns,
    )
    total = sums.sum((0,) if weights.size(0) != 1 else (0, 1), dtype=torch.float64)
    gradient = torch.zeros_like(weights)
    for index, row in enumerate(rows):
        gradient[:, row] = total[..., index, :]
    return gradient


def value_mean(input: Tensor, beta: Tensor | None, *geometry: Any) -> Tensor:
    """Do as `empool.reference.value_mean`."""
    windows, input, shape = _windows(input, geometry)
    output = _empty(shape, input, windows.channels_last)
    _value_mean(windows, input, beta, [output] * 3, keep=False)
    return output


def value_mean_backward(grad_output: Tensor, input: Tensor, beta: Tensor | None, *geometry: Any) -> Tensor:
    """Do as `empool.reference.value_mean_backward`."""
    windows, input, shape = _windows(input, geometry)
    grad_output = _window.dense(grad_output, windows.channels_last)
    grad_input = _empty(input.shape, input, windows.channels_last)
    wide = torch.promote_types(input.dtype, torch.float32)
    kept = [_empty(shape, input, windows.channels_last, dtype=wide) for _ in range(3)]
    _value_mean(windows, input, beta, kept, keep=True)
    launch(
        _value_mean_backward_kernel,
        _plan.input_plan(_value_mean_backward_kernel, windows, cells=False),
        grad_output,
        input,
        input if beta is None else beta.contiguous(),
        *kept,
        grad_input,
        BETA=_beta(beta),
    )
    return grad_input


def _value_mean(windows: Windows, input: Tensor, beta: Tensor | None, written: list[Tensor], keep: bool) -> None:
    launch(
        _value_mean_kernel,
        _plan.output_plan(_value_mean_kernel, windows),
        input,
        input if beta is None else beta.contiguous(),
        *written,
        BETA=_beta(beta),
        KEEP=keep,
    )


def draw_method(columns: int, volume: int) -> str:
    """Choose how `_rank_draw_kernel` finds the draw, by the number of thresholds: no p changes it."""
    if columns <= 1 and volume <= _plan.UNROLLED_WINDOW:
        return ("first", "second")[columns]
    return "ranks" if columns and volume <= _plan.SORTED_WINDOW else "any"


def scatter_kernel(windows: Windows) -> tuple[Any, bool]:
    """Choose the kernel of `drawn_scatter`, and tell whether its programs cover cells."""
    stride = windows.window[3] * windows.window[4] * windows.window[5]
    if windows.volume <= _plan.UNROLLED_WINDOW and stride <= _plan.UNROLLED_CELL and not windows.adaptive:
        return _drawn_scatter_kernel, True
    return _drawn_scatter_any_kernel, False


def _numbers(rest: Sequence[int]) -> tuple[int, int]:
    """Return `tied` and `first_image`, which may be left out."""
    tied, first_image = (*rest, *(0, 0)[len(rest) :])
    return tied, first_image


def _beta(beta: Tensor | None) -> str:
    return "none" if beta is None else "one" if beta.numel() == 1 else "channel"


def _seeds(seed: Tensor, windows: Windows) -> Tensor:
    """Return the seeds side by side, as they are not where `torch.vmap` repeats one.

    Raises:
        ValueError: if they do not divide the images.
    """
    if windows.images and (seed.numel() == 0 or windows.images % seed.numel()):
        raise ValueError(f"expected seeds that divide the {windows.images} images, got {seed.numel()}")
    return seed.contiguous()


def _windows(
    input: Tensor, geometry: Sequence[Any], counts: Sequence[int] = ()
) -> tuple[Windows, Tensor, tuple[int, ...]]:
    """Describe the windows of an input; return it made dense, and the output's shape."""
    channels_last = _window.is_channels_last(input)
    input = _window.dense(input, channels_last)
    *lists, ceil_mode = geometry
    windows, shape = _described(
        input.shape, channels_last, input.element_size(), tuple(counts), (*map(tuple, lists), ceil_mode)
    )
    return windows, input, shape


@functools.lru_cache(maxsize=4096)
def _described(
    size: Sequence[int], channels_last: bool, itemsize: int, counts: tuple[int, ...], geometry: tuple[Any, ...]
) -> tuple[Windows, tuple[int, ...]]:
    where = Geometry(*geometry)
    shape = (*size[:2], *where.output_sizes(size[2:]))
    return Windows.of(size, shape, where, channels_last, itemsize, counts), shape


def _draw(input: Tensor, geometry: Sequence[Any], counts: Sequence[int] = ()) -> tuple[Windows, Tensor, Tensor, Tensor]:
    """Describe a draw; return the input made dense, and what is to be written."""
    windows, input, shape = _windows(input, geometry, counts)
    output = _empty(shape, input, windows.channels_last)
    drawn = _empty(shape, input, windows.channels_last, dtype=reference.drawn_dtype(windows.volume))
    return windows, input, output, drawn


def _empty(shape: Sequence[int], like: Tensor, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    images, channels, *sizes = shape
    if channels_last:
        return like.new_empty((images, *sizes, channels), dtype=dtype).movedim(-1, 1)
    return like.new_empty((images, channels, *sizes), dtype=dtype)
