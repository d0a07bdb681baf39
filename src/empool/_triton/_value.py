"""`value_draw` for CUDA, and what `value_mean` has in common with it."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"

import triton
import triton.language as tl

from empool._triton._draw import SIZES, store_draw
from empool._triton._load import activation, corner_of
from empool._triton._tile import (
    DIVISORS,
    LANES,
    bounds,
    index_sizes,
    number_of_lane,
    outputs_of_lane,
    rows_and_channels,
    uniform32,
)
from empool.reference import EXP2, LEAST, LOG2E

_LOG2E, _LEAST = tl.constexpr(LOG2E), tl.constexpr(LEAST)
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
def _power(score, largest):
    """Return e to the score below the largest one, computed alike on every device, bit for bit."""
    power = tl.where(score == largest, 0.0, (score - largest) * _number(_LOG2E, score))
    whole = tl.floor(power)
    fraction = power - whole
    mantissa = _number(_EXP2[_DEGREE], score) + tl.zeros_like(score)
    for i in tl.static_range(_DEGREE - 1, -1, -1):
        mantissa = mantissa * fraction + _number(_EXP2[i], score)
    whole = tl.minimum(tl.maximum(whole, _LEAST), 0.0)
    if score.dtype == tl.float64:
        scale = ((whole.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    else:
        scale = ((whole.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(power >= _LEAST, mantissa * scale, 0.0)


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
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Draw an activation of every window in proportion to its positive part, or to the exponential of beta times it.

    One pass over the window for the total (from memory) and one to find the draw (from the cache); before them, with
    beta, one for the largest.
    """
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, od, oh, block, plane, row_live = rows_and_channels(
        rows, C, OD, OH, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift, height_magic, height_shift,
        channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS,
    )  # fmt: skip
    dtype = input.dtype.element_ty
    wide = tl.float64 if dtype == tl.float64 else tl.float32
    step = C if CHANNELS_LAST else 1
    plane_start = plane * (D * H * W) * step + (channel if CHANNELS_LAST else 0)
    line_start = (plane * (OD * OH) + place) * OW
    d, d_end = bounds(od, D, OD, WINDOW, 0)
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    size = (D, H, W)
    factor = beta_of(beta, channel, C, BETA, wide)
    numbers = uniform32(seed, image, channel, place, block, share, first_image, SEEDS, TIED)
    for lane in tl.static_range(4 if CHANNELS_LAST else 1):
        ow, live, at = outputs_of_lane(
            lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, not CHANNELS_LAST, ALIGNED
        )
        w, w_end = bounds(ow, W, OW, WINDOW, 2)
        start = (d, h, w)
        ends = (d_end, h_end, w_end)
        like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
        corner = corner_of(input, plane_start, start, size, step)
        largest = like
        if BETA != "none":
            largest, nan_at = largest_score(corner, start, ends, size, step, live, factor, WINDOW, HIGH, like, BETA)
        total, nan_at = _running_sums(
            corner, start, ends, size, step, live, factor, largest, like, like, WINDOW, HIGH, like, BETA, False
        )
        number = number_of_lane(numbers, lane, not CHANNELS_LAST, TIED)
        target = number.to(wide) * 2.3283064365386963e-10 * total  # number / 2^32
        value, position = _running_sums(
            corner, start, ends, size, step, live, factor, largest, target, total, WINDOW, HIGH, like, BETA, True
        )
        zero = total == 0
        value = tl.where(zero, 0.0, value)
        position = tl.where(zero, -1, position)
        value = tl.where(nan_at >= 0, float("nan"), value)
        position = tl.where(nan_at >= 0, nan_at, position)
        store_draw(output, drawn, at, value, position, live)
