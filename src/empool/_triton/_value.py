"""`value_draw` for CUDA, and what `value_mean` has in common with it."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import load_columns, window_of
from empool._triton._draw import SIZES, store_draw
from empool._triton._load import activation, corner_of, load_window, padded_with, valid_of_window
from empool._triton._rank import in_type
from empool._triton._softmax import SURE, drawn_by_powers, error_of, rough_powers, shift_of
from empool._triton._tile import (
    DIVISORS,
    LANES,
    beside,
    bounds,
    index_sizes,
    moved,
    number_of_lane,
    outputs_of_lane,
    rows_and_channels,
    side_by_side,
    uniform32,
)
from empool.reference import EXP2, LEAST, LOG2E

_LOG2E, _LEAST = tl.constexpr(LOG2E), tl.constexpr(LEAST)
_NEXT_UNLESS_BEYOND = tl.constexpr(
    "{ .reg .pred below; setp.le.f32 below, $2, $3; mov.f32 $0, $4; mov.f32 $1, $5;"
    " @below add.rn.f32 $0, $6, 0f80000000; @below add.rn.f32 $1, $5, 0f3f800000; }"
)
"""The next value and place where a sum is not beyond the bound: sums, of which a GPU has twice as many as choices."""
_NONE_OF_ZERO = tl.constexpr("{ .reg .pred zero; setp.eq.f32 zero, $2, 0f00000000; selp.b32 $0, -1, $1, zero; }")
_EXP2, _DEGREE = tl.constexpr(EXP2), tl.constexpr(len(EXP2) - 1)


@triton.jit
def _number(value: tl.constexpr, like):
    """Return a constant in a tile's type."""
    return tl.full([1, 1], value, like.dtype)


@triton.jit
def beta_of(beta, channel, C, BETA: tl.constexpr, wide: tl.constexpr):
    """Return beta in the type of the sums: one number, one a channel, or 0 where there is none."""
    factor = tl.zeros([1, 1], wide)
    if BETA == "one":
        factor = tl.load(beta + tl.zeros([1, 1], tl.int32)).to(wide)
    elif BETA == "channel":
        factor = tl.load(beta + tl.minimum(channel, C - 1)).to(wide)
    return factor


@triton.jit
def score_of(value, factor, BETA: tl.constexpr):
    """Return what the softmax is of; where beta is 0, an infinity counts no more than a number."""
    return tl.where(factor == 0, 0.0, factor * value) if BETA != "none" else value


@triton.jit
def _power(score, largest, FINITE: tl.constexpr = False):
    """Return e to the score below the largest one, computed alike on every device, bit for bit; 0 for a NaN.

    The scale is 2^whole as the bits of its exponent: a sum with 1.5 * 2^(bits of the mantissa) leaves the whole number
    in the lowest ones. Of the smallest power, the exponent is 0, and so the scale.
    """
    power = (score - largest) * _number(_LOG2E, score)
    if not FINITE:
        power = tl.where(score == largest, 0.0, power)
    power = tl.maximum(power, _LEAST - 1)
    whole = tl.floor(power)
    fraction = power - whole
    mantissa = _number(_EXP2[_DEGREE], score) + tl.zeros_like(score)
    for i in tl.static_range(_DEGREE - 1, -1, -1):
        mantissa = mantissa * fraction + _number(_EXP2[i], score)
    if score.dtype == tl.float64:
        exponent = tl.maximum(whole, _LEAST - 1).to(tl.int64) + 1023
        scale = tl.where(whole < _LEAST, 0, exponent << 52).to(tl.float64, bitcast=True)
    else:
        scale = ((whole + (12582912.0 + 127)).to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)
    return mantissa * scale


@triton.jit
def largest_score(
    corner, start, ends, size, step, live, factor, WINDOW: tl.constexpr, HIGH: tl.constexpr, like, BETA: tl.constexpr
):
    """Return the largest score of every window (of positive parts, the largest), and the last NaN's position."""
    best = like if BETA == "none" else like - float("inf")
    nan_at = like.to(tl.int32) - 1
    for kd in range(WINDOW[0]):
        for kh in range(WINDOW[1]):
            for kw in range(WINDOW[2]):
                k = (kd * WINDOW[1] + kh) * WINDOW[2] + kw
                here, valid = activation(corner, start, ends, size, step, live, kd, kh, kw, WINDOW, HIGH)
                here = here.to(like.dtype)
                nan_at = tl.where(here != here, k, nan_at)
                score = score_of(here, factor, BETA)
                best = tl.where(valid & (score > best), score, best)
    return best, nan_at


@triton.jit
def _running_sums(
    corner, start, ends, size, step, live, factor, largest, target, total, WINDOW: tl.constexpr, HIGH: tl.constexpr,
    like, BETA: tl.constexpr, FIND: tl.constexpr,
):  # fmt: skip
    """Add up the weights of every window, in window order.

    Returns:
        The sum and the last NaN's position; or, to FIND a draw, the value and position of the first activation at
        which the running sum exceeds the target or reaches the total.
    """
    running = like
    value = like
    at = like.to(tl.int32) - 1
    for kd in range(WINDOW[0]):
        for kh in range(WINDOW[1]):
            for kw in range(WINDOW[2]):
                k = (kd * WINDOW[1] + kh) * WINDOW[2] + kw
                here, valid = activation(corner, start, ends, size, step, live, kd, kh, kw, WINDOW, HIGH)
                here = here.to(like.dtype)
                if BETA == "none":
                    running += tl.where(here > 0, here, 0.0)
                else:
                    running += tl.where(valid, _power(score_of(here, factor, BETA), largest), 0.0)
                if FIND:
                    found = valid & (at < 0) & ((running > target) | (running >= total))
                    value = tl.where(found, here, value)
                    at = tl.where(found, k, at)
                else:
                    at = tl.where(here != here, k, at)
    return value if FIND else running, at


@triton.jit
def draw_any(
    input, output, drawn, plane_start, line_start, numbers, factor, lane, block, channel, d, d_end, h, h_end, size,
    step, row_live, OW, C, TIED: tl.constexpr, BETA: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, SIDE: tl.constexpr, ALIGNED: tl.constexpr, PACKED: tl.constexpr,
    ROUGH: tl.constexpr, like,
):  # fmt: skip
    """Draw from a lane's windows, whatever they hold.

    One pass over the window for the total and one to find the draw; before them, with beta, one for the largest.

    Args:
        ROUGH: whether windows had a shift together, which leaves nothing of one whose activations are far smaller than
            its neighbours': then it is tried alone first.
    """
    if SIDE:
        ow, live, at = outputs_of_lane(0, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, True, ALIGNED)
        number = number_of_lane(numbers, 0, True, TIED)
    else:
        ow = block * LANES + lane
        live = row_live & (ow < OW)
        at = (line_start + ow) * C + channel if CHANNELS_LAST else line_start + ow
        number = numbers[0]
        if TIED < 2:
            number = tl.where(lane == 1, numbers[1], tl.where(lane == 2, numbers[2], number))
            number = tl.where(lane == 3, numbers[3], number)
    w, w_end = bounds(ow, size[2], OW, WINDOW, 2)
    start = (d, h, w)
    ends = (d_end, h_end, w_end)
    corner = corner_of(input, plane_start, start, size, step)
    ALONE: tl.constexpr = ROUGH and BETA != "none" and like.dtype == tl.float32
    if ALONE:
        K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
        values = load_window(input, plane_start, start, ends, size, step, live, WINDOW, HIGH, like.dtype, 0.0)
        valids = valid_of_window(start, ends, live, WINDOW, HIGH)
        shift = shift_of(values, factor)
        shifts = ()
        for k in tl.static_range(K):
            shifts = shifts + (tl.where(valids[k], shift, -float("inf")),)
        value, position, slack = drawn_by_powers(
            values, rough_powers(values, factor, shifts), error_of(shift, factor, K, input.dtype.element_ty), number,
            WINDOW[2], WINDOW[2], 0, PACKED, like,
        )  # fmt: skip
        store_draw(output, drawn, at, value, position, live & (slack > SURE))
        live = live & ~(slack > SURE)
    if not ALONE or tl.max(live.to(tl.int32)) > 0:
        largest = like
        if BETA != "none":
            largest, nan_at = largest_score(corner, start, ends, size, step, live, factor, WINDOW, HIGH, like, BETA)
        total, nan_at = _running_sums(
            corner, start, ends, size, step, live, factor, largest, like, like, WINDOW, HIGH, like, BETA, False
        )
        target = _target(number, total)
        value, position = _running_sums(
            corner, start, ends, size, step, live, factor, largest, target, total, WINDOW, HIGH, like, BETA, True
        )
        zero = total == 0
        value = tl.where(zero, 0.0, value)
        position = tl.where(zero, -1, position)
        value = tl.where(nan_at >= 0, float("nan"), value)
        position = tl.where(nan_at >= 0, nan_at, position)
        store_draw(output, drawn, at, value, position, live)


@triton.jit
def _target(number, total):
    """Return a number's share of the total: number / 2^32 of it."""
    return number.to(total.dtype) * 2.3283064365386963e-10 * total


@triton.jit
def positive_parts(values):
    """Return the positive part of each of a tuple's values; NaN stays."""
    found = ()
    for k in tl.static_range(len(values)):
        found = found + (tl.maximum(values[k], 0.0, propagate_nan=tl.PropagateNan.ALL),)
    return found


@triton.jit
def holes_of(
    columns, d, h, ends, W, block, BEGIN: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr, wide: tl.constexpr
):  # fmt: skip
    """Return what to add to the powers of a block's columns from BEGIN on: -inf for padding, or -0.0, for nothing."""
    found = ()
    for _ in tl.static_range(len(columns)):
        found = found + (tl.full(block.shape, -0.0, wide),)
    return padded_with(found, -float("inf"), d, h, ends, W, block, BEGIN, WINDOW, HIGH)


@triton.jit
def scores_of(columns, holes, factor, ROWS: tl.constexpr):
    """Return beta times all of a block's columns of so many ROWS, -inf for padding; and the largest of each column."""
    scores = ()
    tops = ()
    for c in tl.static_range(len(columns) // ROWS):
        column = ()
        for row in tl.static_range(ROWS):
            column = column + (tl.fma(columns[c * ROWS + row], factor, holes[c * ROWS + row]),)
        scores = scores + column
        tops = tops + (largest_of(column, ROWS),)
    return scores, tops


@triton.jit
def _largest_of_columns(tops, lane: tl.constexpr, WINDOW: tl.constexpr):
    """Return the largest score of a window, by those of its columns."""
    largest = tops[lane * WINDOW[5]]
    KW: tl.constexpr = WINDOW[2]
    for kw in tl.static_range(1, KW):
        largest = largest_of((largest, tops[lane * WINDOW[5] + kw]), 2)
    return largest


@triton.jit
def largest_of(values, K: tl.constexpr):
    """Return the largest of a tuple's values; NaN if one is."""
    found = values[0]
    for k in tl.static_range(1, K):
        found = tl.maximum(found, values[k], propagate_nan=tl.PropagateNan.ALL)
    return found


@triton.jit
def powers_of(scores, largest, K: tl.constexpr):
    found = ()
    for k in tl.static_range(K):
        found = found + (_power(scores[k], largest, True),)
    return found


@triton.jit
def _below(number):
    """Return the largest number below a positive one."""
    if number.dtype == tl.float64:
        below = (number.to(tl.int64, bitcast=True) - 1).to(tl.float64, bitcast=True)
    else:
        below = (number.to(tl.int32, bitcast=True) - 1).to(tl.float32, bitcast=True)
    return below


@triton.jit
def drawn_of_window(values, weights, number, K: tl.constexpr, PACKED: tl.constexpr, like):
    """Draw a value in proportion to its weight.

    Returns:
        The value, its position, and the sum of the weights, NaN if one of them is. If it is 0, nothing is drawn.
    """
    sums = (weights[0],)
    for k in tl.static_range(1, K):
        sums = sums + (sums[k - 1] + weights[k],)
    total = sums[K - 1]
    # What exceeds the target, or reaches the total if rounding or an infinity leaves no such sum.
    bound = tl.minimum(_target(number, total), _below(total))
    if PACKED and like.dtype == tl.float32:
        value = values[0]
        place = like + 8388608.0  # 2^23: then the place is in the lowest bits.
        for k in tl.static_range(K - 1):
            value, place = tl.inline_asm_elementwise(
                _NEXT_UNLESS_BEYOND, "=&f,=&f,f,f,f,f,f", [sums[k], bound, value, place, values[k + 1]],
                dtype=(tl.float32, tl.float32), is_pure=True, pack=1,
            )  # fmt: skip
        position = place.to(tl.int32, bitcast=True) & 255
    else:
        value = values[K - 1]
        position = like.to(tl.int32) + (K - 1)
        for k in tl.static_range(K - 2, -1, -1):
            beyond = sums[k] > bound
            value = tl.where(beyond, values[k], value)
            position = tl.where(beyond, k, position)
    return value, position, total


@triton.jit
def none_of_zero(position, total, PACKED: tl.constexpr):
    """Return a draw's position, -1 where the total is 0."""
    if PACKED and total.dtype == tl.float32:
        position = tl.inline_asm_elementwise(
            _NONE_OF_ZERO, "=r,r,f", [position, total], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        position = tl.where(total == 0, -1, position)
    return position


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _value_draw_kernel(
    input,
    seed,
    beta,
    output,
    drawn,
    rows,
    share,
    first_image,
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
    SEEDS: tl.constexpr,
    TIED: tl.constexpr,
    BETA: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    READ: tl.constexpr,
    CHUNK: tl.constexpr,
    NUMBER: tl.constexpr,
    PACKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    FLAT: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Draw an activation of every window in proportion to its positive part, or to the exponential of beta times it.

    READ: how many columns a block's windows cover, CHUNK: so many are one access. Then windows are in registers, and
    what holds a NaN or an infinite score is done again. If 0, windows are read one by
    one, and several times.
    """
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
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
    most = like
    unsure = like.to(tl.int32) - (0 if QUICK else 1)
    if QUICK:
        columns = ()
        weighed = ()
        tops = ()
        values = ()
        positions = ()
        for lane in tl.static_range(NUMBER):
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
                    columns = columns + positive_parts(more)
                elif wide == tl.float64:
                    columns = columns + more
                    holes = holes_of(
                        more, d, h, (d_end, h_end), W, block, 0 if lane == 0 else (lane - 1) * WINDOW[5] + WINDOW[2],
                        WINDOW, HIGH, wide,
                    )  # fmt: skip
                    scores, largest_ones = scores_of(more, holes, factor, WINDOW[0] * WINDOW[1])
                    weighed = weighed + scores
                    tops = tops + largest_ones
                else:
                    columns = columns + more
            window = window_of(columns, lane, WINDOW, wide)
            if lane - lane // LANES * LANES == 0:
                numbers = uniform32(
                    seed, image, channel, place, block + lane // LANES, share, first_image, SEEDS, TIED, PACKED
                )
            number = number_of_lane(numbers, lane - lane // LANES * LANES, False, TIED)
            if BETA == "none":
                value, position, total = drawn_of_window(window, window, number, K, PACKED, like)
                position = none_of_zero(position, total, PACKED)  # Then all values are 0.
                most = largest_of((most, total), 2)
            else:
                if wide == tl.float64:
                    largest = _largest_of_columns(tops, lane, WINDOW)
                    weights = powers_of(window_of(weighed, lane, WINDOW, wide), largest, K)
                    value, position, total = drawn_of_window(window, weights, number, K, PACKED, like)
                    most = largest_of((most, tl.where(live, tl.abs(largest), 0.0)), 2)
                else:
                    if CHANNELS_LAST or lane == 0:  # All of a block's windows, or each.
                        its = columns[lane * WINDOW[5] * (WINDOW[0] * WINDOW[1]) :]
                        shift = shift_of(its, factor)
                        error = error_of(shift, factor, K, dtype)
                        shifts = padded_with(
                            (shift,) * len(its), -float("inf"), d, h, (d_end, h_end), W, block, lane * WINDOW[5],
                            WINDOW, HIGH,
                        )  # fmt: skip
                        powers = rough_powers(its, factor, shifts)
                    value, position, slack = drawn_by_powers(
                        window, window_of(powers, 0 if CHANNELS_LAST else lane, WINDOW, wide), error, number,
                        WINDOW[2], WINDOW[2], 0, PACKED, like,
                    )  # fmt: skip
                    unsure = tl.where(slack > SURE, unsure, unsure | (1 << lane))
            if CHANNELS_LAST:  # A lane after another, so that registers hold few columns.
                store_draw(output, drawn, at, value, position, live)
            else:
                values = values + (value,)
                positions = positions + (position.to(drawn.dtype.element_ty),)
        if not CHANNELS_LAST:
            none, live, at = outputs_of_lane(
                0, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, True, ALIGNED
            )
            value, position = beside(values).to(dtype), beside(positions)
            if FLAT:
                at, source, live = side_by_side(rows, BLOCK, FLAT)
                value, position = moved(value, source), moved(position, source)
            store_draw(output, drawn, at, value, position, live)
    if QUICK:
        unsure = tl.where(most < float("inf"), unsure, -1)
        if ALIGNED < LANES:
            unsure = unsure & ((1 << tl.minimum(OW - block * LANES, NUMBER)) - 1)
        unsure = tl.where(row_live, unsure, 0)
    if not QUICK or tl.max(unsure & (2**NUMBER - 1)) > 0:
        for other in range(1 if SIDE else NUMBER):  # Seldom: a loop compiles faster.
            again = row_live & ((unsure >> other) & 1 > 0)
            if not QUICK or tl.max(again.to(tl.int32)) > 0:
                its_block = block + other // LANES
                its_numbers = uniform32(seed, image, channel, place, its_block, share, first_image, SEEDS, TIED, PACKED)
                draw_any(
                    input, output, drawn, plane_start, line_start, its_numbers, factor, other - other // LANES * LANES,
                    its_block, channel, d, d_end, h, h_end, size, step, again, OW, C, TIED, BETA, WINDOW, HIGH,
                    CHANNELS_LAST, SIDE, ALIGNED, PACKED, QUICK and not CHANNELS_LAST, like,
                )  # fmt: skip
