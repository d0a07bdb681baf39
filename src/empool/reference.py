"""The definition of every operator in plain PyTorch: read it to learn the methods; kernels are compared with it.

The valid activations of a window are ranked: largest first, equal values by position, first first. Training draws one
of them (`rank_draw`, `value_draw`) and keeps only where it was (`drawn`); testing takes the expectation (`rank_mean`).
Padding is not an activation, and a NaN in a window always wins (the last one, as in `torch.nn.functional.max_pool2d`).

The last arguments of every operator are those of `empool._window.Geometry`. Tables have one row for every number of
valid activations in `counts`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from empool import _philox, _window
from empool._window import Geometry

NEVER = 1 << 32
"""A threshold that no 32-bit number reaches."""
_SQUARABLE = 2.0**50
"""The squares of numbers up to here, and of those down to its inverse, are far from float32's limits."""


def rank_draw(
    input: Tensor, seed: Tensor, counts: Sequence[int], thresholds: Sequence[int], *geometry: Any
) -> tuple[Tensor, Tensor]:
    """Draw one rank for every window, and output the activation of that rank, or 0 for the rank after the last.

    The rank is the number of thresholds, out of the row for the window's count of valid activations, that the
    output's random number reaches.
    """
    windows, valid = _windows(input, Geometry(*geometry))  # (N, C, *output, K) and (1, 1, *output, K)
    count = valid.sum(-1)
    rank = torch.zeros_like(windows[..., 0], dtype=torch.int64)
    if thresholds:
        number = _philox.uniform32(seed, windows.shape[:-1])
        rank = (number.unsqueeze(-1) >= _rows(thresholds, counts, count, torch.int64)).sum(-1)
    order = _order(windows, valid)
    position = order.gather(-1, rank.clamp(max=windows.size(-1) - 1).unsqueeze(-1)).squeeze(-1)
    output, drawn = _draw(windows, valid, position, zero=rank >= count)
    return _laid_out(torch.where(count == 0, -math.inf, output), drawn, input)


def value_draw(input: Tensor, seed: Tensor, *geometry: Any) -> tuple[Tensor, Tensor]:
    """Draw each activation with a probability proportional to its positive part; 0 where nothing is positive.

    The draw is the first activation whose running sum exceeds the random share of the total. Where rounding or an
    infinite total leaves none, it is the first at which the running sum reaches the total.
    """
    windows, valid = _windows(input, Geometry(*geometry))
    wide = torch.promote_types(input.dtype, torch.float32)
    running = _running_sum(torch.where(valid, windows, 0).to(wide).relu())
    total = running[..., -1:]
    number = _philox.uniform32(seed, windows.shape[:-1])
    target = (number.to(wide) * 2.0**-32).unsqueeze(-1) * total
    position = ((running > target) | (running >= total)).to(torch.uint8).argmax(-1)  # The first that holds.
    output, drawn = _draw(windows, valid, position, zero=total.squeeze(-1) == 0)
    return _laid_out(output, drawn, input)


def drawn_scatter(grad_output: Tensor, drawn: Tensor, input_size: Sequence[int], *geometry: Any) -> Tensor:
    """Send the gradient of every output to the activation that was drawn: the backward of both draws.

    An activation drawn by several windows receives their gradients one after another, first window first, added in
    the tensor's own type, as PyTorch's max-pooling does on a CPU.
    """
    where = Geometry(*geometry)
    portions = (torch.where(drawn == index, grad_output, 0) for index in reversed(range(where.volume)))
    like = drawn.new_empty(()).expand((*drawn.shape[:2], *input_size))
    grad_input = _window.overlap_add(portions, like, where, drawn.shape[2:])
    return _window.dense(grad_input, _window.is_channels_last(drawn))


def drawn_gather(input: Tensor, drawn: Tensor, *geometry: Any) -> Tensor:
    """Read the input where the draw was, 0 where nothing was drawn: the adjoint of `drawn_scatter`."""
    where, output = Geometry(*geometry), drawn.shape[2:]
    padded = _window.pad(input, where, output, 0.0)
    result = input.new_zeros(drawn.shape)
    for index, offset in enumerate(where.offsets()):
        result = torch.where(drawn == index, _window.at_offset(padded, offset, where, output), result)
    return _window.dense(result, _window.is_channels_last(drawn))


def rank_mean(input: Tensor, counts: Sequence[int], weights: Sequence[float], *geometry: Any) -> Tensor:
    """Average the ranked activations of every window with the probabilities of their ranks.

    Summed in float32 at least, in rank order, and rounded once. A rank of probability 0 takes no part, so that an
    infinity there does no harm.
    """
    where = Geometry(*geometry)
    if is_maximum(counts, weights):
        max_pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[input.dim() - 3]
        return _window.dense(max_pool(input, *where), _window.is_channels_last(input))
    windows, valid = _windows(input, where)
    count = valid.sum(-1)
    ranked = windows.topk(len(weights) // len(counts), dim=-1).values  # (N, C, *output, R); NaN counts as largest.
    wide = torch.promote_types(input.dtype, torch.float32)
    mean = _weighted_sum(ranked.to(wide), _rows(weights, counts, count, wide)).to(input.dtype)
    largest = ranked[..., 0]
    mean = torch.where(largest.isnan(), largest, torch.where(count == 0, -math.inf, mean))
    return _window.dense(mean, _window.is_channels_last(input))


def rank_mean_backward(
    grad_output: Tensor, input: Tensor, counts: Sequence[int], weights: Sequence[float], *geometry: Any
) -> Tensor:
    """Share the gradient of every output among the ranked activations, by the probabilities of their ranks.

    Summed in float32 at least and rounded once, but for the maximum, whose backward is that of a draw.
    """
    where = Geometry(*geometry)
    share = _shares(input, counts, weights, where)  # (N, C, *output, K)
    wide = grad_output.dtype if is_maximum(counts, weights) else share.dtype
    gradient, share = grad_output.to(wide), share.to(wide)
    portions = (torch.where(s > 0, gradient * s, 0) for s in reversed(share.unbind(-1)))
    grad_input = _window.overlap_add(portions, input, where, grad_output.shape[2:])
    return _window.dense(grad_input.to(input.dtype), _window.is_channels_last(input))


def rank_mean_jvp(
    tangent: Tensor, input: Tensor, counts: Sequence[int], weights: Sequence[float], *geometry: Any
) -> Tensor:
    """Average the tangents of the ranked activations: forward-mode derivative, and adjoint of the backward."""
    where = Geometry(*geometry)
    share = _shares(input, counts, weights, where)
    tangents = _window.windows(tangent, where, fill=0.0).to(share.dtype)
    mean = torch.where(share > 0, tangents * share, 0).sum(-1).to(tangent.dtype)
    return _window.dense(mean, _window.is_channels_last(input))


def value_mean(input: Tensor, *geometry: Any) -> Tensor:
    """Average the positive activations of every window, weighted by themselves; 0 where nothing is positive.

    Not an operator: PyTorch differentiates it. Summed in float32 at least and rounded once. A window whose squares
    would leave the type's range is scaled by its largest activation; an infinite one has all the weight.
    """
    positive = _window.windows(input, Geometry(*geometry), fill=0.0)
    positive = positive.to(torch.promote_types(input.dtype, torch.float32)).relu()
    largest = positive.amax(-1).detach()  # The mean does not depend on the scale, so neither does its derivative.
    scale = torch.where((largest > _SQUARABLE) | ((largest > 0) & (largest < 1 / _SQUARABLE)), largest, 1)
    scaled = positive / scale.unsqueeze(-1)
    total = scaled.sum(-1)
    mean = (scaled * scaled).sum(-1) / torch.where(total == 0, 1, total) * scale
    mean = torch.where(largest == math.inf, largest, mean)
    return _window.dense(mean.to(input.dtype), _window.is_channels_last(input))


def is_maximum(counts: Sequence[int], weights: Sequence[float]) -> bool:
    """Tell whether the weights are those of the plain maximum, which is copied and never multiplied."""
    return len(weights) == len(counts) and all(weight == 1 for weight in weights)


def drawn_dtype(volume: int) -> torch.dtype:
    """Return the type that holds an offset in a window of so many positions: one byte wherever that is enough."""
    return torch.uint8 if volume <= 255 else torch.int32


def zero_drawn(dtype: torch.dtype) -> int:
    """Return the value of `drawn` that says: no activation was drawn."""
    return 255 if dtype == torch.uint8 else -1


def _windows(input: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    return _window.windows(input, geometry), _window.valid(input, geometry)


def _order(windows: Tensor, valid: Tensor) -> Tensor:
    """Return the positions of every window by rank: valid ones first, largest first, equal ones by position."""
    order = windows.sort(dim=-1, descending=True, stable=True).indices
    padding = (~valid).expand_as(order).gather(-1, order)
    return order.gather(-1, padding.to(torch.uint8).sort(dim=-1, stable=True).indices)


def _last_nan(windows: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which windows hold a NaN, and where the last one is."""
    nan = windows.isnan() & valid
    return nan.any(-1), nan.size(-1) - 1 - nan.flip(-1).to(torch.uint8).argmax(-1)


def _draw(windows: Tensor, valid: Tensor, position: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """Read the activation at each window's drawn position; 0, and position -1, where `zero` holds."""
    has_nan, last_nan = _last_nan(windows, valid)
    position = torch.where(has_nan, last_nan, position)
    zero = zero & ~has_nan
    output = torch.where(zero, 0, windows.gather(-1, position.unsqueeze(-1)).squeeze(-1))
    dtype = drawn_dtype(windows.size(-1))
    return output, torch.where(zero, zero_drawn(dtype), position).to(dtype)


def _laid_out(output: Tensor, drawn: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    channels_last = _window.is_channels_last(input)
    return _window.dense(output, channels_last), _window.dense(drawn, channels_last)


def _rows(table: Sequence[float], counts: Sequence[int], count: Tensor, dtype: torch.dtype) -> Tensor:
    """Look up the table's row for every window's count of valid activations: ``(*count.shape, columns)``."""
    width = len(table) // len(counts)
    rows = [table[start : start + width] for start in range(0, len(table), width)]
    columns = []
    for column in zip(*rows, strict=True):
        entry = torch.full(count.shape, column[0], dtype=dtype, device=count.device)
        for n, value in zip(counts[1:], column[1:], strict=True):
            entry = torch.where(count == n, value, entry)
        columns.append(entry)
    return torch.stack(columns, dim=-1)


def _shares(input: Tensor, counts: Sequence[int], weights: Sequence[float], geometry: Geometry) -> Tensor:
    """Return the weight of every activation in every window's mean: ``(N, C, *output, K)``, float32 at least."""
    windows, valid = _windows(input, geometry)
    wide = torch.promote_types(input.dtype, torch.float32)
    weight = _rows(weights, counts, valid.sum(-1), wide).expand(*windows.shape[:-1], -1)
    ranked = _order(windows, valid)[..., : weight.size(-1)]
    share = torch.zeros_like(windows, dtype=wide).scatter(-1, ranked, weight)
    has_nan, last_nan = _last_nan(windows, valid)
    alone = torch.zeros_like(share).scatter(-1, last_nan.unsqueeze(-1), 1)
    return torch.where(has_nan.unsqueeze(-1), alone, share) * valid


def _weighted_sum(ranked: Tensor, weight: Tensor) -> Tensor:
    """Add up ``weight * ranked`` over the last dimension, in rank order."""
    terms = torch.where(weight > 0, weight * ranked, 0)
    total = torch.zeros_like(terms[..., 0])
    for term in terms.unbind(-1):
        total = total + term
    return total


def _running_sum(values: Tensor) -> Tensor:
    """Add up the last dimension one value after another (`torch.cumsum` may add in another order)."""
    sums = [values[..., 0]]
    for value in values.unbind(-1)[1:]:
        sums.append(sums[-1] + value)
    return torch.stack(sums, dim=-1)
