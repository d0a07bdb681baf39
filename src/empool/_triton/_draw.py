"""`rank_draw` and `value_draw` for CUDA."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: SIM108

import triton
import triton.language as tl

from empool._triton._rank import largest, ranked_after, two_largest
from empool._triton._tile import (
    DIVISORS,
    LANES,
    activation,
    index_sizes,
    load_window,
    outputs_of_lane,
    rows_and_channels,
    uniform32,
)

SIZES = ["rows", "share", "D", "H", "W", "OD", "OH", "OW", "blocks"]


@triton.jit
def _lane(numbers, lane: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Take one lane's numbers, or, contiguous, lay the four lanes along the tile's second dimension."""
    if CHANNELS_LAST:
        number = numbers[lane]
    else:
        even = tl.join(numbers[0], numbers[2])
        odd = tl.join(numbers[1], numbers[3])
        number = tl.reshape(tl.join(even, odd), [even.shape[0], LANES])
    return number


@triton.jit
def _store_draw(output, drawn, at, value, position, nan_at, live):
    """Write the draw, or the last NaN. Position -1, "zero", is 255 as a byte."""
    dtype = output.dtype.element_ty
    nan = tl.full([1, 1], float("nan"), tl.float32).to(dtype)
    value = tl.where(nan_at >= 0, nan, value.to(dtype))
    tl.store(output + at, value, mask=live)
    tl.store(drawn + at, tl.where(nan_at >= 0, nan_at, position).to(drawn.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=["threshold", "columns", *SIZES, *DIVISORS])
def _rank_draw_kernel(
    input,
    seed,
    thresholds,
    table_rows,
    output,
    drawn,
    threshold,
    columns,
    rows,
    share,
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
    METHOD: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    CHECKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    PAIRS: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Draw a rank for every window, and output that activation.

    METHOD "first": the maximum, no random number. "second": the second largest where the number reaches the one
    threshold and the window holds two; both found in one pass over registers. "any": the rank is the number of
    thresholds of the table's row reached; the activations up to that rank are selected one after another, each in
    a pass over the window (the first from memory, the others from the cache), as many as the tile's highest rank.
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
    d = od * WINDOW[3] - WINDOW[6]
    h = oh * WINDOW[4] - WINDOW[7]
    if METHOD != "first":
        numbers = uniform32(seed, image, channel, place, block, share, SEEDS)
    for lane in tl.static_range(4 if CHANNELS_LAST else 1):
        ow, live, at = outputs_of_lane(lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, ALIGNED)
        w = ow * WINDOW[5] - WINDOW[8]
        like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
        if METHOD == "any":
            corner = input + (plane_start + ((d * H + h) * W + w) * step)
            value, position, count, nan_at = largest(corner, d, h, w, D, H, W, step, live, WINDOW, HIGH, like)
            number = _lane(numbers, lane, CHANNELS_LAST).to(tl.int64)
            table_row = thresholds + tl.load(table_rows + count) * columns
            rank = like.to(tl.int32)
            column = 0
            while column < columns:  # Not a range: with a NumPy of today the interpreter cannot take its end.
                rank += (number >= tl.load(table_row + column)).to(tl.int32)
                column += 1
            zero = (rank >= count) & (count > 0)
            wanted = tl.where(live & (nan_at < 0) & (rank < count), rank, 0)
            last = tl.max(wanted)
            current = value
            current_at = position
            done = last * 0
            while done < last:
                done += 1
                current, current_at = ranked_after(
                    corner, d, h, w, D, H, W, step, live, current, current_at, WINDOW, HIGH, like
                )
                value = tl.where(wanted >= done, current, value)
                position = tl.where(wanted >= done, current_at, position)
            value = tl.where(zero, 0.0, value)
            position = tl.where(zero, -1, position)
        else:
            values, valids = load_window(
                input, plane_start, d, h, w, block, D, H, W, step, row_live, live, WINDOW, HIGH, PAIRS, wide
            )
            value, position, second, second_at, nan_at = two_largest(
                values, valids, WINDOW[0] * WINDOW[1] * WINDOW[2], METHOD == "second", CHECKED, like
            )
            if METHOD == "second":
                reached = _lane(numbers, lane, CHANNELS_LAST) >= tl.cast(threshold, tl.uint32, bitcast=True)
                drop = reached & (second_at >= 0)
                value = tl.where(drop, second, value)
                position = tl.where(drop, second_at, position)
        _store_draw(output, drawn, at, value, position, nan_at, live)


@triton.jit
def _running_sums(
    corner,
    d,
    h,
    w,
    D,
    H,
    W,
    step,
    live,
    target,
    total,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    like,
    FIND: tl.constexpr,
):
    """Add up the positive parts of every window, in window order.

    Returns:
        The sum and the last NaN's position; or, to FIND a draw, the value and position of the first activation at
        which the running sum exceeds the target or reaches the total.
    """
    KD: tl.constexpr = WINDOW[0]
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    running = like
    value = like
    at = like.to(tl.int32) - 1
    for kd in range(KD):
        for kh in range(KH):
            for kw in range(KW):
                k = (kd * KH + kh) * KW + kw
                here, valid = activation(corner, d, h, w, kd, kh, kw, D, H, W, step, live, WINDOW, HIGH)
                here = here.to(like.dtype)
                running += tl.where(here > 0, here, 0.0)
                if FIND:
                    found = valid & (at < 0) & ((running > target) | (running >= total))
                    value = tl.where(found, here, value)
                    at = tl.where(found, k, at)
                else:
                    at = tl.where(here != here, k, at)
    if FIND:
        result = value
    else:
        result = running
    return result, at


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _value_draw_kernel(
    input,
    seed,
    output,
    drawn,
    rows,
    share,
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
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Draw an activation of every window with a probability proportional to its positive part.

    One pass over the window for the total (from memory) and one to find the draw (from the cache).
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
    d = od * WINDOW[3] - WINDOW[6]
    h = oh * WINDOW[4] - WINDOW[7]
    numbers = uniform32(seed, image, channel, place, block, share, SEEDS)
    for lane in tl.static_range(4 if CHANNELS_LAST else 1):
        ow, live, at = outputs_of_lane(lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, ALIGNED)
        w = ow * WINDOW[5] - WINDOW[8]
        like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
        corner = input + (plane_start + ((d * H + h) * W + w) * step)
        total, nan_at = _running_sums(corner, d, h, w, D, H, W, step, live, like, like, WINDOW, HIGH, like, False)
        target = _lane(numbers, lane, CHANNELS_LAST).to(wide) * 2.3283064365386963e-10 * total  # number / 2^32
        value, position = _running_sums(corner, d, h, w, D, H, W, step, live, target, total, WINDOW, HIGH, like, True)
        zero = total == 0
        value = tl.where(zero, 0.0, value)
        position = tl.where(zero, -1, position)
        _store_draw(output, drawn, at, value, position, nan_at, live)
