"""The operators: tensors are made dense, outputs allocated, and a kernel chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from empool import _window, reference
from empool._triton import _plan, _tables
from empool._triton._draw import _rank_draw_kernel, _value_draw_kernel
from empool._triton._mean import _rank_mean_backward_kernel, _rank_mean_kernel
from empool._triton._plan import Windows, launch
from empool._triton._scatter import _drawn_gather_kernel, _drawn_scatter_any_kernel, _drawn_scatter_kernel
from empool._window import Geometry

KERNELS = (
    _rank_draw_kernel,
    _value_draw_kernel,
    _drawn_scatter_kernel,
    _drawn_scatter_any_kernel,
    _drawn_gather_kernel,
    _rank_mean_kernel,
    _rank_mean_backward_kernel,
)


def rank_draw(
    input: Tensor, seed: Tensor, counts: Sequence[int], thresholds: Sequence[int], *geometry: Any
) -> tuple[Tensor, Tensor]:
    """Do as `empool.reference.rank_draw`."""
    windows, input, output, drawn = _draw(input, Geometry(*geometry))
    method, threshold = draw_method(counts, thresholds, windows.volume)
    table = rows = seed
    if method == "any":
        table = _tables.table(thresholds, torch.int64, input.device)
        rows = _tables.row_of_count(counts, windows.volume, input.device)
    launch(
        _rank_draw_kernel,
        _plan.output_plan(_rank_draw_kernel, windows),
        input,
        seed,
        table,
        rows,
        output,
        drawn,
        threshold=_plan.signed32(threshold),
        share=windows.images // max(seed.numel(), 1),
        columns=len(thresholds) // len(counts),
        SEEDS=seed.numel() != 1,
        METHOD=method,
    )
    return output, drawn


def value_draw(input: Tensor, seed: Tensor, *geometry: Any) -> tuple[Tensor, Tensor]:
    """Do as `empool.reference.value_draw`."""
    windows, input, output, drawn = _draw(input, Geometry(*geometry))
    launch(
        _value_draw_kernel,
        _plan.output_plan(_value_draw_kernel, windows),
        input,
        seed,
        output,
        drawn,
        share=windows.images // max(seed.numel(), 1),
        SEEDS=seed.numel() != 1,
    )
    return output, drawn


def drawn_scatter(grad_output: Tensor, drawn: Tensor, input_size: Sequence[int], *geometry: Any) -> Tensor:
    """Do as `empool.reference.drawn_scatter`."""
    channels_last = _window.is_channels_last(drawn)
    grad_output, drawn = _window.dense(grad_output, channels_last), _window.dense(drawn, channels_last)
    size = (*drawn.shape[:2], *input_size)
    windows = Windows.of(size, drawn.shape, geometry, channels_last, grad_output.element_size())
    grad_input = _empty(size, grad_output, channels_last)
    kernel, cells = scatter_kernel(windows)
    launch(kernel, _plan.input_plan(kernel, windows, cells), grad_output, drawn, grad_input)
    return grad_input


def drawn_gather(input: Tensor, drawn: Tensor, *geometry: Any) -> Tensor:
    """Do as `empool.reference.drawn_gather`."""
    channels_last = _window.is_channels_last(drawn)
    input, drawn = _window.dense(input, channels_last), _window.dense(drawn, channels_last)
    windows = Windows.of(input.shape, drawn.shape, geometry, channels_last, input.element_size())
    output = _empty(drawn.shape, input, channels_last)
    plan = _plan.output_plan(_drawn_gather_kernel, windows, lanes=False)
    launch(_drawn_gather_kernel, plan, input, drawn, output)
    return output


def rank_mean(input: Tensor, counts: Sequence[int], weights: Sequence[float], *geometry: Any) -> Tensor:
    """Do as `empool.reference.rank_mean`."""
    where, channels_last = Geometry(*geometry), _window.is_channels_last(input)
    input = _window.dense(input, channels_last)
    shape = (*input.shape[:2], *where.output_sizes(input.shape[2:]))
    windows = Windows.of(input.shape, shape, geometry[:4], channels_last, input.element_size())
    output = _empty(shape, input, channels_last)
    method, columns = "any", len(weights) // len(counts)
    if windows.volume <= _plan.UNROLLED_WINDOW and reference.is_maximum(counts, weights):
        method = "first"
    elif windows.volume <= _plan.UNROLLED_WINDOW and columns == 2:
        method = "second"
    launch(
        _rank_mean_kernel,
        _plan.output_plan(_rank_mean_kernel, windows),
        input,
        *_weights(input, counts, weights, windows.volume),
        output,
        columns=columns,
        METHOD=method,
    )
    return output


def rank_mean_backward(
    grad_output: Tensor, input: Tensor, counts: Sequence[int], weights: Sequence[float], *geometry: Any
) -> Tensor:
    """Do as `empool.reference.rank_mean_backward`."""
    channels_last = _window.is_channels_last(input)
    grad_output, input = _window.dense(grad_output, channels_last), _window.dense(input, channels_last)
    windows = Windows.of(input.shape, grad_output.shape, geometry[:4], channels_last, input.element_size())
    grad_input = _empty(input.shape, input, channels_last)
    launch(
        _rank_mean_backward_kernel,
        _plan.input_plan(_rank_mean_backward_kernel, windows, cells=False),
        grad_output,
        input,
        *_weights(input, counts, weights, windows.volume),
        grad_input,
        columns=len(weights) // len(counts),
        MAXIMUM=reference.is_maximum(counts, weights),
    )
    return grad_input


def draw_method(counts: Sequence[int], thresholds: Sequence[int], volume: int) -> tuple[str, int]:
    """Choose how `_rank_draw_kernel` finds the draw.

    Returns:
        "first", "second" or "any", and the one threshold of "second".
    """
    columns = len(thresholds) // len(counts)
    if volume <= _plan.UNROLLED_WINDOW:
        if all(threshold == reference.NEVER for threshold in thresholds):
            return "first", 0
        several = {threshold for count, threshold in zip(counts, thresholds, strict=False) if count > 1}
        alone = {threshold for count, threshold in zip(counts, thresholds, strict=False) if count == 1}
        if columns == 1 and len(several) == 1 and several != {reference.NEVER} and alone <= {reference.NEVER}:
            return "second", several.pop()
    return "any", 0


def is_by_table(counts: Sequence[int], thresholds: Sequence[int], kernel_size: Sequence[int]) -> bool:
    """Tell whether `rank_draw` reads its thresholds from a table on the device."""
    return draw_method(counts, thresholds, math.prod(kernel_size))[0] == "any"


def scatter_kernel(windows: Windows) -> tuple[Any, bool]:
    """Choose the kernel of `drawn_scatter`, and tell whether its programs cover cells."""
    stride = windows.window[3] * windows.window[4] * windows.window[5]
    if windows.volume <= _plan.UNROLLED_WINDOW and stride <= _plan.UNROLLED_CELL:
        return _drawn_scatter_kernel, True
    return _drawn_scatter_any_kernel, False


def _draw(input: Tensor, where: Geometry) -> tuple[Windows, Tensor, Tensor, Tensor]:
    """Describe a draw; return the input made dense, and what is to be written."""
    channels_last = _window.is_channels_last(input)
    input = _window.dense(input, channels_last)
    shape = (*input.shape[:2], *where.output_sizes(input.shape[2:]))
    windows = Windows.of(input.shape, shape, where[:4], channels_last, input.element_size())
    output = _empty(shape, input, channels_last)
    drawn = _empty(shape, input, channels_last, dtype=reference.drawn_dtype(windows.volume))
    return windows, input, output, drawn


def _empty(shape: Sequence[int], like: Tensor, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    images, channels, *sizes = shape
    if channels_last:
        return like.new_empty((images, *sizes, channels), dtype=dtype).movedim(-1, 1)
    return like.new_empty((images, channels, *sizes), dtype=dtype)


def _weights(input: Tensor, counts: Sequence[int], weights: Sequence[float], volume: int) -> tuple[Tensor, Tensor]:
    """Return the weights in the type of the sum, and the row of every number of valid activations."""
    wide = torch.promote_types(input.dtype, torch.float32)
    return _tables.table(weights, wide, input.device), _tables.row_of_count(counts, volume, input.device)
