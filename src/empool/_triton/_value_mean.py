"""`value_mean` for CUDA."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import load_columns, window_of
from empool._triton._load import activation, corner_of
from empool._triton._rank import in_type
from empool._triton._softmax import scale_of
from empool._triton._tile import (
    DIVISORS,
    LANES,
    beside,
    bounds,
    index_sizes,
    moved,
    outputs_of_lane,
    rows_and_channels,
    side_by_side,
)
from empool._triton._value import beta_of, holes_of, largest_of, largest_score, positive_parts, score_of

SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "blocks"]
SQUARABLE = tl.constexpr(2.0**50)
_SPARE, _EXACT = tl.constexpr(24.0), tl.constexpr(2.0**23)


@triton.jit
def divisor_of(largest):
    """Return what positive parts are divided by, so that no square leaves the type's range: 1, or the largest one."""
    return tl.where((largest > SQUARABLE) | ((largest > 0) & (largest < 1 / SQUARABLE)), largest, 1.0)


@triton.jit
def weight_of(value, factor, largest, BETA: tl.constexpr):
    """Return the activation, or its positive part, and its weight."""
    if BETA == "none":
        value = tl.where(value > 0, value, tl.where(value != value, value, 0.0))
        weight = value / divisor_of(largest)
        weight = tl.where(largest == float("inf"), tl.where(value == float("inf"), 1.0, 0.0), weight)
    else:
        score = score_of(value, factor, BETA)
        weight = tl.where(score == largest, 1.0, tl.exp(score - largest))
    return value, weight


@triton.jit
def parts_any(
    corner, start, ends, size, step, live, factor, WINDOW: tl.constexpr, HIGH: tl.constexpr, BETA: tl.constexpr, like
):  # fmt: skip
    """Return the mean of every window, its largest score and one over the sum of its weights, whatever it holds.

    One pass over the window for the largest (from memory), and one for both sums (from the cache).
    """
    largest, nan_at = largest_score(corner, start, ends, size, step, live, factor, WINDOW, HIGH, like, BETA)
    largest = tl.where(nan_at >= 0, float("nan"), largest)
    total = like
    weighted = like
    for kd in range(WINDOW[0]):
        for kh in range(WINDOW[1]):
            for kw in range(WINDOW[2]):
                value, valid = activation(corner, start, ends, size, step, live, kd, kh, kw, WINDOW, HIGH)
                value, weight = weight_of(value.to(like.dtype), factor, largest, BETA)
                weight = tl.where(valid, weight, 0.0)
                total += weight
                # By value, the square of what is divided by the scale; else a share small enough to be added up.
                other = weight if BETA == "none" else value * (1 / 512)
                weighted += tl.where(weight == 0, 0.0, weight * other)
    share = 1.0 / tl.where(total == 0, 1.0, total)
    return weighted * share * (divisor_of(largest) if BETA == "none" else 512.0), largest, share


@triton.jit
def mean_any(
    input, output, largests, shares, plane_start, line_start, factor, lane, block, channel, d, d_end, h, h_end, size,
    step, row_live, OW, C, BETA: tl.constexpr, WRITES: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, SIDE: tl.constexpr, ALIGNED: tl.constexpr, like,
):  # fmt: skip
    """Average a lane's windows, whatever they hold; for the "variance" with one more pass over the window."""
    if SIDE:
        ow, live, at = outputs_of_lane(0, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, True, ALIGNED)
    else:
        ow = block * LANES + lane
        live = row_live & (ow < OW)
        at = (line_start + ow) * C + channel if CHANNELS_LAST else line_start + ow
    w, w_end = bounds(ow, size[2], OW, WINDOW, 2)
    start = (d, h, w)
    ends = (d_end, h_end, w_end)
    corner = corner_of(input, plane_start, start, size, step)
    mean, largest, share = parts_any(corner, start, ends, size, step, live, factor, WINDOW, HIGH, BETA, like)
    if WRITES == "variance":
        variance = like
        for kd in range(WINDOW[0]):
            for kh in range(WINDOW[1]):
                for kw in range(WINDOW[2]):
                    value, valid = activation(corner, start, ends, size, step, live, kd, kh, kw, WINDOW, HIGH)
                    value, weight = weight_of(value.to(like.dtype), factor, largest, BETA)
                    part = tl.where(valid, weight * share, 0.0)
                    apart = value - mean
                    variance += tl.where(part == 0, 0.0, part * apart * apart)
        mean = tl.where((mean == float("inf")) | (mean == -float("inf")), 0.0, variance)
    tl.store(output + at, mean.to(output.dtype.element_ty), mask=live)
    if WRITES == "parts":
        tl.store(largests + at, largest, mask=live)
        tl.store(shares + at, -share, mask=live)


@triton.jit
def mean_by_value(parts, K: tl.constexpr, PACKED: tl.constexpr):
    """Average the positive parts of every window, weighted by themselves.

    Returns:
        The mean, one over the sum, and whether a sum, or a square, may have left the range or is NaN.
    """
    total = parts[0]
    weighted = parts[0] * parts[0]
    for k in tl.static_range(1, K):
        total += parts[k]
        weighted = tl.fma(parts[k], parts[k], weighted)
    odd = ~((total <= SQUARABLE) & ((total == 0) | (total >= 2 * K / SQUARABLE)))
    share = one_over(tl.where(total == 0, 1.0, total), PACKED)
    return weighted * share, share, odd


@triton.jit
def one_over(total, PACKED: tl.constexpr):
    """Return one over a number that is neither very large nor very small; of 0, anything."""
    if PACKED and total.dtype == tl.float32:
        share = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [total], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        share = 1.0 / tl.where(total == 0, 1.0, total)
    return share


@triton.jit
def largest_power(columns, holes, scale, FIRST: tl.constexpr, NUMBER: tl.constexpr):
    """Return the largest of a scale times NUMBER columns from FIRST on, as if there were no NaN."""
    found = tl.fma(columns[FIRST], scale, holes[FIRST])
    for k in tl.static_range(FIRST + 1, FIRST + NUMBER):
        found = tl.maximum(found, tl.fma(columns[k], scale, holes[k]))
    return found


@triton.jit
def mean_by_softmax(
    values, holes, scale, largest, K: tl.constexpr, WRITES: tl.constexpr, PACKED: tl.constexpr, FINE: tl.constexpr
):  # fmt: skip
    """Average the activations of every window, weighted by two to the power of the scale times them.

    A power is one fused product and sum, and rounded once: that the largest power was rounded, too, changes all weights
    alike. The largest weight is 2^24, and so 2^150 times the smallest that `exp2` does not take for zero: as the
    smallest number of float32 is below 1.

    Args:
        values: of every window, 0 where there is padding.
        holes: as `holes_of` gives.
        largest: the largest power.
        FINE: whether to correct the mean's rounding, so that an activation that has all the weight is the mean.
    Returns:
        The mean, or what else it WRITES, what was added to powers, one over the sum, and where any of this may have
        left the type's range or is NaN.
    """
    shift = _SPARE - largest
    weights = ()
    for k in tl.static_range(K):
        weights = weights + (tl.exp2(tl.fma(values[k], scale, shift + holes[k])),)
    total = weights[0]
    weighted = tl.fma(weights[0], values[0], tl.zeros_like(total))  # No -0, whether or not there is padding.
    for k in tl.static_range(1, K):
        total += weights[k]
        weighted = tl.fma(weights[k], values[k], weighted)
    share = one_over(total, PACKED)
    mean = weighted * share
    if FINE:
        beyond = tl.zeros_like(mean)
        for k in tl.static_range(K):
            beyond = tl.fma(weights[k], values[k] - mean, beyond)
        mean = tl.fma(beyond, share, mean)
    odd = ~((tl.abs(mean) < float("inf")) & (tl.abs(largest) < _EXACT))
    if WRITES == "variance":
        variance = tl.zeros_like(mean)
        for k in tl.static_range(K):
            apart = values[k] - mean
            variance += weights[k] * share * apart * apart
        mean = variance
        odd = odd | (mean != mean)
    return mean, shift, share, odd


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _value_mean_kernel(
    input,
    beta,
    output,
    largests,
    shares,
    rows,
    C,
    D,
    H,
    W,
    OD,
    OH,
    OW,
    blocks,
    blocks_magic,
    blocks_shift,
    plane_magic,
    plane_shift,
    height_magic,
    height_shift,
    channels_magic,
    channels_shift,
    BETA: tl.constexpr,
    WRITES: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    READ: tl.constexpr,
    CHUNK: tl.constexpr,
    PACKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    FLAT: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Average the activations of every window: of positive parts weighted by themselves, or by their softmax.

    For the backward it WRITES "parts": the mean unrounded, the largest, and one over the sum of the weights; the last
    with a negative sign where a window may hold a NaN, an infinity or an extreme; by softmax, elsewhere, what is added
    to powers in place of the largest. For the gradient of beta it writes
    the "variance" under the softmax in place of the mean.

    READ: how many columns a block's windows cover, CHUNK: so many are one access. Then windows are in registers, and
    what holds a NaN, an infinity or extremes is done again. If 0, windows are read one by one, and several times.
    """
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    ROWS: tl.constexpr = WINDOW[0] * WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, od, oh, block, plane, row_live = rows_and_channels(
        rows, C, OD, OH, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift, height_magic, height_shift,
        channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS, WINDOW[1] > WINDOW[4],
    )  # fmt: skip
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    step = C if CHANNELS_LAST else 1
    plane_start = plane * (D * H * W) * step + (channel if CHANNELS_LAST else 0)
    line_start = (plane * (OD * OH) + place) * OW
    d, d_end = bounds(od, D, OD, WINDOW, 0)
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    size = (D, H, W)
    factor = beta_of(beta, channel, C, BETA, wide)
    QUICK: tl.constexpr = READ > 0
    SIDE: tl.constexpr = not CHANNELS_LAST and not QUICK
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else (LANES if SIDE else 1)], wide)
    again = like.to(tl.int32)
    if QUICK:
        scale = scale_of(factor)
        columns = ()
        holes = ()
        powers = ()
        means = ()
        largest_ones = ()
        inverses = ()
        for lane in tl.static_range(4):
            ow, live, at = outputs_of_lane(
                lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, False, ALIGNED
            )
            if CHANNELS_LAST or lane == 0:
                loaded = load_columns(
                    input, plane_start, (d, h), (d_end, h_end), size, block, step, row_live, WINDOW, HIGH,
                    0 if lane == 0 else (lane - 1) * WINDOW[5] + WINDOW[2],
                    lane * WINDOW[5] + WINDOW[2] if CHANNELS_LAST else READ, CHUNK, 0.0, ALIGNED, PACKED,
                )  # fmt: skip
                more = in_type(loaded, wide)
                if BETA == "none":
                    more = positive_parts(more)
                else:
                    padding = holes_of(
                        more, d, h, (d_end, h_end), W, block, 0 if lane == 0 else (lane - 1) * WINDOW[5] + WINDOW[2],
                        WINDOW, HIGH, wide,
                    )  # fmt: skip
                    holes = holes + padding
                    for c in tl.static_range(len(more) // ROWS):
                        powers = powers + (largest_power(more, padding, scale, c * ROWS, ROWS),)
                columns = columns + more
            values = window_of(columns, lane, WINDOW, wide)
            if BETA == "none":
                mean, share, odd = mean_by_value(values, K, PACKED)
                largest = largest_of(values, K) if WRITES == "parts" else mean
            else:
                largest = powers[lane * WINDOW[5]]
                for kw in tl.static_range(1, KW):
                    largest = tl.maximum(largest, powers[lane * WINDOW[5] + kw])
                mean, largest, share, odd = mean_by_softmax(
                    values, window_of(holes, lane, WINDOW, wide), scale, largest, K, WRITES, PACKED,
                    WRITES != "mean" or dtype.primitive_bitwidth > 16,
                )  # fmt: skip
            again = again | tl.where(live & odd, 1 << lane, 0)
            if CHANNELS_LAST:  # A lane after another, so that registers hold few columns.
                tl.store(output + at, mean.to(output.dtype.element_ty), mask=live)
                if WRITES == "parts":
                    tl.store(largests + at, largest, mask=live)
                    tl.store(shares + at, share, mask=live)
            else:
                means = means + (mean,)
                largest_ones = largest_ones + (largest,)
                inverses = inverses + (share,)
        if not CHANNELS_LAST:
            none, live, at = outputs_of_lane(
                0, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, True, ALIGNED
            )
            value = beside(means).to(output.dtype.element_ty)
            if FLAT and WRITES == "mean":
                at, source, live = side_by_side(rows, BLOCK, FLAT)
                value = moved(value, source)
            tl.store(output + at, value, mask=live)
            if WRITES == "parts":
                tl.store(largests + at, beside(largest_ones), mask=live)
                tl.store(shares + at, beside(inverses), mask=live)
    if not QUICK or tl.max(again) > 0:
        for turn in range(1 if SIDE else 4):  # Seldom: a loop compiles faster.
            which = row_live & ((again >> turn) & 1 != 0) if QUICK else row_live
            mean_any(
                input, output, largests, shares, plane_start, line_start, factor, turn, block, channel, d, d_end, h,
                h_end, size, step, which, OW, C, BETA, WRITES, WINDOW, HIGH, CHANNELS_LAST, SIDE, ALIGNED, like,
            )  # fmt: skip
