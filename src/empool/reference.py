"""The definition of every operator in plain PyTorch: read it to learn the methods; kernels are compared with it.

The valid activations of a window are ranked: largest first, equal values by position, first first. Training draws one
of them (`rank_draw`, `value_draw`) and keeps only where it was (`drawn`); testing takes the expectation (`rank_mean`).
Padding is not an activation, and a NaN in a window always wins (the last one, as in `torch.nn.functional.max_pool2d`).

The arguments from `kernel_size` to `ceil_mode` are those of `empool._window.Geometry`. A table of thresholds or weights
is ``(S, K, columns)``: one row for each of the K numbers of valid activations in `counts`, and S sets of rows, one for
all channels or one for each.
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
LOG2E = 1.4426950408889634
EXP2 = (
    1.0,
    *map(float.fromhex, ("0x1.62e428p-1", "0x1.ebfdf8p-3", "0x1.c67ee4p-5", "0x1.3d5826p-7", "0x1.44bd44p-10")),
)
EXP2 = (*EXP2, float.fromhex("0x1.cacdf6p-13"))
"""The polynomial for 2^x on [0, 1), lowest power first: float32 numbers, right to 1e-8."""
LEAST = -126
"""Below 2 to this power a weight is 0."""


def rank_draw(
    input: Tensor,
    seed: Tensor,
    thresholds: Tensor,
    counts: Sequence[int],
    *rest: Any,
) -> tuple[Tensor, Tensor]:
    """Draw one rank for every window, and output the activation of that rank, or 0 for the rank after the last.

    The rank is the number of thresholds, out of the row for the window's count of valid activations, that the
    output's random number reaches.
    """
    geometry, numbers = Geometry(*rest[:6]), rest[6:]  # How `_philox.uniform32` counts is last.
    windows, valid = _window.windows(input, geometry)  # (N, C, *output, K) and (*output, K)
    count = valid.sum(-1)
    rank = torch.zeros_like(windows[..., 0], dtype=torch.int64)
    if thresholds.size(-1):
        number = _philox.uniform32(seed, windows.shape[:-1], *numbers)
        rank = rank + (number.unsqueeze(-1) >= rows(thresholds, counts, count)).sum(-1)
    order = _order(windows, valid)
    position = order.gather(-1, rank.clamp(max=windows.size(-1) - 1).unsqueeze(-1)).squeeze(-1)
    output, drawn = _draw(windows, valid, position, zero=rank >= count)
    return _laid_out(torch.where(count == 0, -math.inf, output), drawn, input)


def value_draw(input: Tensor, seed: Tensor, beta: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    """Draw each activation with a probability proportional to its weight; 0 where there is none.

    The weight is the positive part, or with beta ``exp(beta * activation)``. The draw is the first activation whose
    running sum exceeds the random share of the total. Where rounding or an infinite total leaves none, it is the first
    at which the running sum reaches the total.
    """
    geometry, numbers = Geometry(*rest[:6]), rest[6:]  # How `_philox.uniform32` counts is last.
    windows, valid = _window.windows(input, geometry)
    wide = torch.promote_types(input.dtype, torch.float32)
    running = _running_sum(_value_weights(windows.to(wide), valid, beta))
    total = running[..., -1:]
    number = _philox.uniform32(seed, windows.shape[:-1], *numbers)
    target = (number.to(wide) * 2.0**-32).unsqueeze(-1) * total
    position = ((running > target) | (running >= total)).to(torch.uint8).argmax(-1)  # The first that holds.
    output, drawn = _draw(windows, valid, position, zero=total.squeeze(-1) == 0)
    return _laid_out(output, drawn, input)


def drawn_scatter(grad_output: Tensor, drawn: Tensor, input_size: Sequence[int], *geometry: Any) -> Tensor:
    """Send the gradient of every output to the activation that was drawn: the backward of both draws.

    An activation drawn by several windows receives their gradients one after another, first window first, added in
    the tensor's own type, as PyTorch's max-pooling does on a CPU.
    """
    flat, gradient = drawn.flatten(2), grad_output.flatten(2)

    def portion(window: Tensor, offset: Tensor) -> Tensor:
        return torch.where(flat.index_select(2, window) == offset, gradient.index_select(2, window), 0)

    grad_input = _window.gather_from_windows(portion, Geometry(*geometry), input_size, grad_output)
    return _window.dense(grad_input, _window.is_channels_last(drawn))


def drawn_gather(input: Tensor, drawn: Tensor, *geometry: Any) -> Tensor:
    """Read the input where the draw was, 0 where nothing was drawn: the adjoint of `drawn_scatter`."""
    windows, _ = _window.windows(input, Geometry(*geometry), 0.0, drawn.shape[2:])
    at = drawn.to(torch.int64).clamp(0, windows.size(-1) - 1)
    result = torch.where(drawn == zero_drawn(drawn.dtype), 0, windows.gather(-1, at.unsqueeze(-1)).squeeze(-1))
    return _window.dense(result, _window.is_channels_last(drawn))


def rank_mean(input: Tensor, weights: Tensor, counts: Sequence[int], *geometry: Any) -> Tensor:
    """Average the ranked activations of every window with the probabilities of their ranks.

    Summed in float32 at least, in rank order, and rounded once. A rank of weight 0, or beyond the last, takes no
    part, so that an infinity there does no harm. Weights may be negative, as tangents are.
    """
    where = Geometry(*geometry)
    wide = torch.promote_types(input.dtype, torch.float32)
    if weights.size(-1) == 1:
        ranked = _max_pool(input, where).unsqueeze(-1)  # (N, C, *output, R)
        valid = _window.positions(where, input.shape[2:], ranked.shape[2:-1], input.device)[1]
    else:
        windows, valid = _window.windows(input, where)
        ranked = windows.topk(weights.size(-1), dim=-1).values  # NaN counts as largest.
        # Among zeros of both signs the first.
        first = windows.gather(-1, (windows == ranked[..., :1]).to(torch.uint8).argmax(-1, keepdim=True))
        ranked = torch.cat([torch.where(ranked[..., :1].isnan(), ranked[..., :1], first), ranked[..., 1:]], -1)
    count, largest = valid.sum(-1), ranked[..., 0]
    weight = rows(weights.to(wide), counts, count)
    if weights.size(-1) > min(counts):  # Ranks beyond the last find padding.
        weight = torch.where(torch.arange(weights.size(-1), device=input.device) < count.unsqueeze(-1), weight, 0)
    mean = _weighted_sum(ranked.to(wide), weight).to(input.dtype)
    mean = torch.where(largest.isnan(), largest, torch.where(count == 0, -math.inf, mean))
    return _window.dense(mean, _window.is_channels_last(input))


def _max_pool(input: Tensor, geometry: Geometry) -> Tensor:
    dims = input.dim() - 3
    if geometry.output_size:
        adaptive: Any = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[dims]
        return adaptive(input, geometry.output_size)  # type: ignore[no-any-return]
    max_pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims]
    return max_pool(input, *geometry[:4], geometry.ceil_mode)  # type: ignore[no-any-return]


def rank_mean_backward(
    grad_output: Tensor, input: Tensor, weights: Tensor, counts: Sequence[int], *geometry: Any
) -> Tensor:
    """Share the gradient of every output among the ranked activations, by the probabilities of their ranks.

    Summed in float32 at least and rounded once, but for the maximum on a CPU, whose backward is that of a draw.
    """
    where = Geometry(*geometry)
    share = _shares(input, weights, counts, where)  # (N, C, *output, K)
    wide = grad_output.dtype if input.device.type == "cpu" and is_maximum(weights) else share.dtype
    volume, share, gradient = where.volume, share.to(wide).flatten(2), grad_output.to(wide).flatten(2)

    def portion(window: Tensor, offset: Tensor) -> Tensor:
        part = share.index_select(2, window * volume + offset)
        return torch.where(part != 0, gradient.index_select(2, window) * part, 0)

    grad_input = _window.gather_from_windows(portion, where, input.shape[2:], grad_output.to(wide))
    return _window.dense(grad_input.to(input.dtype), _window.is_channels_last(input))


def rank_mean_jvp(tangent: Tensor, input: Tensor, weights: Tensor, counts: Sequence[int], *geometry: Any) -> Tensor:
    """Average the tangents of the ranked activations: forward-mode derivative, and adjoint of the backward."""
    where = Geometry(*geometry)
    share = _shares(input, weights, counts, where)
    tangents = _window.windows(tangent, where, fill=0.0)[0].to(share.dtype)
    mean = torch.where(share != 0, tangents * share, 0).sum(-1).to(tangent.dtype)
    return _window.dense(mean, _window.is_channels_last(input))


def rank_mean_weight_grad(
    grad_output: Tensor, input: Tensor, weights: Tensor, counts: Sequence[int], *geometry: Any
) -> Tensor:
    """Return the gradient of the weights: for each, the sum of gradient times activation over the windows it serves.

    Summed in float64. Windows with a NaN, whose output no weight changes, take no part.
    """
    return rank_mean_weight_grad_jvp(grad_output, input, input, weights, counts, *geometry)


def rank_mean_weight_grad_jvp(
    grad_output: Tensor, tangent: Tensor, input: Tensor, weights: Tensor, counts: Sequence[int], *geometry: Any
) -> Tensor:
    """Return the gradient of the weights in `rank_mean_jvp`: as `rank_mean_weight_grad`, with tangents for values."""
    where = Geometry(*geometry)
    windows, valid = _window.windows(input, where)
    count = valid.sum(-1)
    ranked = _order(windows, valid)[..., : weights.size(-1)]
    values = _window.windows(tangent, where, fill=0.0)[0].gather(-1, ranked)  # (N, C, *output, R)
    taken = valid.expand_as(windows).gather(-1, ranked) & ~_last_nan(windows, valid)[0].unsqueeze(-1)
    terms = torch.where(taken, values.double() * grad_output.double().unsqueeze(-1), 0)
    rows = [torch.where((count == n).unsqueeze(-1), terms, 0).flatten(2, -2).sum((0, 2)) for n in counts]  # (C, R)
    total = torch.stack(rows, 1)
    return (total.sum(0, keepdim=True) if weights.size(0) == 1 else total).to(weights.dtype)


def value_mean(input: Tensor, beta: Tensor | None, *geometry: Any) -> Tensor:
    """Average the activations of every window, weighted by their positive parts or, with beta, by their softmax.

    Summed in float32 at least and rounded once; 0 where nothing has a weight. A window whose squares would leave the
    type's range is scaled by its largest activation; an infinite one has all the weight.
    """
    *_, mean = _value_terms(input, beta, Geometry(*geometry))
    return _window.dense(mean.to(input.dtype), _window.is_channels_last(input))


def value_mean_backward(grad_output: Tensor, input: Tensor, beta: Tensor | None, *geometry: Any) -> Tensor:
    """Send the gradient of every output to the activations that it is the weighted average of.

    With p the softmax and y the output, activation a has the share ``p * (1 + beta * (a - y))``; by value it is
    ``(2 * a - y) / total`` of what is positive.
    """
    where = Geometry(*geometry)
    share = value_slopes(input, beta, *geometry).flatten(2)
    gradient, volume = grad_output.to(share.dtype).flatten(2), where.volume

    def portion(window: Tensor, offset: Tensor) -> Tensor:
        part = share.index_select(2, window * volume + offset)
        return torch.where(part != 0, gradient.index_select(2, window) * part, 0)

    grad_input = _window.gather_from_windows(portion, where, input.shape[2:], grad_output.to(share.dtype))
    return _window.dense(grad_input.to(input.dtype), _window.is_channels_last(input))


def value_mean_beta_grad(grad_output: Tensor, input: Tensor, beta: Tensor, *geometry: Any) -> Tensor:
    """Return the gradient of beta: the sum of gradient times slope over the windows it serves, in float64."""
    slope = value_mean_beta_slope(input, beta, *geometry)
    channels = (grad_output.double() * slope).transpose(0, 1).flatten(1).sum(1)
    return (channels.sum() if beta.numel() == 1 else channels).reshape(beta.shape).to(beta.dtype)


def value_slopes(input: Tensor, beta: Tensor | None, *geometry: Any) -> Tensor:
    """Return how much each activation changes `value_mean`: ``(N, C, *output, K)``, float32 at least."""
    values, share, mean = _value_terms(input, beta, Geometry(*geometry))
    mean = mean.unsqueeze(-1)
    if beta is None:
        scale = _scale(values.amax(-1, keepdim=True).detach())  # On which the slope does not depend.
        scale = torch.where(scale.isinf(), 1, scale)
        second = mean / scale * (share / torch.where(values == 0, 1, values / scale))
        slope = share * 2 - torch.where(mean == 0, 0, second)
        slope = torch.where(values > 0, slope, torch.where(values.isnan(), values, 0))
    else:
        slope = share * (1 + _per_channel(beta, values) * (values - mean))
    return torch.where((share == 0) | mean.isinf(), 0, slope)


def _scale(largest: Tensor) -> Tensor:
    """Return what to divide activations by so that their squares stay within the type's range."""
    return torch.where((largest > _SQUARABLE) | ((largest > 0) & (largest < 1 / _SQUARABLE)), largest, 1)


def value_mean_beta_slope(input: Tensor, beta: Tensor, *geometry: Any) -> Tensor:
    """Return how much beta changes `value_mean`: the variance under the softmax, ``(N, C, *output)``."""
    values, share, mean = _value_terms(input, beta, Geometry(*geometry))
    apart = values - mean.unsqueeze(-1)
    return torch.where((share == 0) | mean.isinf().unsqueeze(-1), 0, share * apart * apart).sum(-1)


def _value_terms(input: Tensor, beta: Tensor | None, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Return the activations of every window, their weights' shares of the sum, and the weighted average."""
    windows, valid = _window.windows(input, geometry, fill=0.0)
    values = windows.to(torch.promote_types(input.dtype, torch.float32))
    if beta is None:
        values = values.relu()
        largest = values.amax(-1, keepdim=True).detach()  # The mean does not depend on the scale; nor do derivatives.
        scale = _scale(largest)
        weight = torch.where(largest == math.inf, (values == math.inf).to(values.dtype), values / scale)
    else:
        score = _scores(values, valid, beta)
        largest = score.amax(-1, keepdim=True).detach()
        weight = torch.where((score == largest) & score.isinf(), 1, (score - largest).exp())
        weight = torch.where(valid, weight, 0)
    total = weight.sum(-1, keepdim=True)
    share = weight / torch.where(total == 0, 1, total)
    if beta is None:
        mean = (weight * weight).sum(-1) / torch.where(total == 0, 1, total).squeeze(-1) * scale.squeeze(-1)
        return values, share, torch.where(largest.squeeze(-1) == math.inf, math.inf, mean)
    return values, share, torch.where(share == 0, 0, share * values).sum(-1)


def _scores(values: Tensor, valid: Tensor, beta: Tensor) -> Tensor:
    """Return beta times every activation, -inf for padding."""
    factor = _per_channel(beta, values)
    return torch.where(valid, torch.where(factor == 0, 0, factor * values), -math.inf)


def _per_channel(beta: Tensor, values: Tensor) -> Tensor:
    """View beta, one number or one a channel, as what multiplies the values of windows."""
    return beta.to(values.dtype).reshape(-1, *[1] * (values.dim() - 2))


def _value_weights(values: Tensor, valid: Tensor, beta: Tensor | None) -> Tensor:
    """Return what each activation is drawn in proportion to, computed alike on every device, bit for bit."""
    if beta is None:
        return torch.where(valid, values, 0).relu()
    score = _scores(values, valid, beta)
    largest = score.amax(-1, keepdim=True)
    power = torch.where(score == largest, 0, (score - largest) * LOG2E)
    whole = power.floor()
    fraction = power - whole
    mantissa = torch.full_like(power, EXP2[-1])
    for coefficient in reversed(EXP2[:-1]):
        mantissa = mantissa * fraction + coefficient
    # 2^whole as the bits of its exponent: exact, as no library's power need be.
    integer, bits, bias = (torch.int64, 52, 1023) if power.dtype == torch.float64 else (torch.int32, 23, 127)
    scale = ((whole.clamp(LEAST, 0).to(integer) + bias) << bits).view(power.dtype)
    return torch.where(valid & (power >= LEAST), mantissa * scale, 0)


def is_maximum(weights: Tensor) -> bool:
    """Tell whether the weights are those of the plain maximum in every row: 1, 0, 0, ..."""
    return bool((weights[..., 0] == 1).all()) and not bool(weights[..., 1:].any())


def drawn_dtype(volume: int) -> torch.dtype:
    """Return the type that holds an offset in a window of so many positions: one byte wherever that is enough."""
    return torch.uint8 if volume <= 255 else torch.int32


def zero_drawn(dtype: torch.dtype) -> int:
    """Return the value of `drawn` that says: no activation was drawn."""
    return 255 if dtype == torch.uint8 else -1


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


def rows(table: Tensor, counts: Sequence[int], count: Tensor) -> Tensor:
    """Look up the table's row for every window's count of valid activations: ``(S, *output, columns)``."""
    row = torch.zeros_like(count)
    for index, n in enumerate(counts[1:], 1):
        row = torch.where(count == n, index, row)
    return table.index_select(1, row.flatten()).reshape(table.size(0), *row.shape, table.size(2))


def _shares(input: Tensor, weights: Tensor, counts: Sequence[int], geometry: Geometry) -> Tensor:
    """Return the weight of every activation in every window's mean: ``(N, C, *output, K)``, float32 at least."""
    windows, valid = _window.windows(input, geometry)
    wide = torch.promote_types(input.dtype, torch.float32)
    weight = rows(weights.to(wide), counts, valid.sum(-1)).expand(*windows.shape[:-1], -1)
    ranked = _order(windows, valid)[..., : weight.size(-1)]
    share = torch.zeros_like(windows, dtype=wide).scatter(-1, ranked, weight)
    has_nan, last_nan = _last_nan(windows, valid)
    alone = torch.zeros_like(share).scatter(-1, last_nan.unsqueeze(-1), 1)
    return torch.where(has_nan.unsqueeze(-1), alone, share) * valid


def _weighted_sum(ranked: Tensor, weight: Tensor) -> Tensor:
    """Add up ``weight * ranked`` over the last dimension, in rank order; the maximum alone keeps a zero's sign."""
    terms = torch.where(weight != 0, weight * ranked, 0)
    total = torch.zeros_like(terms[..., 0])
    for term in terms.unbind(-1):
        total = total + term
    maximum = (weight[..., 0] == 1) & ~weight[..., 1:].any(-1)
    return torch.where(maximum, ranked[..., 0], total)


def _running_sum(values: Tensor) -> Tensor:
    """Add up the last dimension one value after another (`torch.cumsum` may add in another order)."""
    sums = [values[..., 0]]
    for value in values.unbind(-1)[1:]:
        sums.append(sums[-1] + value)
    return torch.stack(sums, dim=-1)
