"""`rank_draw` for CUDA."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF059

import triton
import triton.language as tl

from empool._triton._load import corner_of, load_window
from empool._triton._rank import (
    first_or_second,
    largest,
    last_nan,
    ranked_after,
    ranks,
    two_largest,
    valid_positions,
)
from empool._triton._table import rank_of, row_of, rows_of, set_of
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

SIZES = ["rows", "share", "first_image", "D", "H", "W", "OD", "OH", "OW", "blocks"]


@triton.jit
def store_draw(output, drawn, at, value, position, live):
    """Write a draw. Position -1, "zero", is 255 as a byte."""
    tl.store(output + at, value.to(output.dtype.element_ty), mask=live)
    tl.store(drawn + at, position.to(drawn.dtype.element_ty), mask=live)


@triton.jit
def _any_first_or_second(
    input, plane_start, start, ends, size, block, step, row_live, live, reached, first_at, second_at,
    WINDOW: tl.constexpr, HIGH: tl.constexpr, PAIRS: tl.constexpr, LEAST: tl.constexpr, CHECKED: tl.constexpr, like,
):  # fmt: skip
    """Find the largest of every window, or where `reached` the second largest, of whatever there is."""
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    values, valids = load_window(
        input, plane_start, start, ends, size, block, step, row_live, live, WINDOW, HIGH, PAIRS, like.dtype
    )
    first, first_at, second, second_at = two_largest(values, first_at, second_at, K, True, CHECKED, like)
    drop = reached & (first == first)
    if LEAST[0] * LEAST[1] * LEAST[2] <= 1:
        second = tl.where(second_at >= 0, second, 0.0)
        drop = drop & (first_at >= 0)
    return tl.where(drop, second, first), tl.where(drop, second_at, first_at)


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _rank_draw_kernel(
    input,
    seed,
    thresholds,
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
    METHOD: tl.constexpr,
    COLUMNS: tl.constexpr,
    TABLE_ROWS: tl.constexpr,
    SETS: tl.constexpr,
    ROWS: tl.constexpr,
    COUNTS: tl.constexpr,
    LOWEST: tl.constexpr,
    SIDES: tl.constexpr,
    WIDTHS: tl.constexpr,
    LEAST: tl.constexpr,
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

    The rank is the number of thresholds reached; the table's values are read here alone, so a new p compiles nothing.
    METHOD "first": no thresholds, the maximum, no random number. "second": one threshold; the two largest are found in
    one pass over registers. "ranks": the window is in registers, and every activation's rank is counted. "any": the
    activations up to the rank are selected one after another, each in a pass over the window (the first from memory,
    the others from the cache), as many as the tile's highest rank.

    LEAST: the fewest valid positions along each dimension. (ROWS and SIDES: see `empool._triton._table`.)
    """
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
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
    if METHOD != "first":
        numbers = uniform32(seed, image, channel, place, block, share, first_image, SEEDS, TIED)
        table = set_of(thresholds, tl.minimum(channel, C - 1), COLUMNS, TABLE_ROWS, SETS)
    for lane in tl.static_range(4 if CHANNELS_LAST else 1):
        ow, live, at = outputs_of_lane(lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, ALIGNED)
        w, w_end = bounds(ow, W, OW, WINDOW, 2)
        start = (d, h, w)
        ends = (d_end, h_end, w_end)
        like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
        if METHOD == "any":
            corner = corner_of(input, plane_start, start, size, step)
            value, position, count, nan_at = largest(corner, start, ends, size, step, live, WINDOW, HIGH, like)
            number = number_of_lane(numbers, lane, CHANNELS_LAST, TIED)
            own = (row_of(table, count, ROWS, COUNTS, COLUMNS),)
            rank = like.to(tl.int32) + rank_of(number, own, count, COLUMNS, SIDES, 1, 1)
            zero = (rank >= count) & (count > 0)
            wanted = tl.where(live & (nan_at < 0) & (rank < count), rank, 0)
            last = tl.max(wanted)
            current = value
            current_at = position
            done = last * 0
            while done < last:
                done += 1
                current, current_at = ranked_after(
                    corner, start, ends, size, step, live, current, current_at, WINDOW, HIGH, like
                )
                value = tl.where(wanted >= done, current, value)
                position = tl.where(wanted >= done, current_at, position)
            value = tl.where(zero, 0.0, value)
            position = tl.where(zero, -1, position)
            value = tl.where(nan_at >= 0, float("nan"), value)
            position = tl.where(nan_at >= 0, nan_at, position)
        else:
            if METHOD != "second":
                values, valids = load_window(
                    input, plane_start, start, ends, size, block, step, row_live, live, WINDOW, HIGH, PAIRS, wide
                )
            if CHECKED:
                first_at, second_at, tall, wide_w = valid_positions(start, ends, WINDOW, HIGH, LEAST)
            else:
                first_at = tl.zeros([1, 1], tl.int32)
                second_at = first_at + (1 if K > 1 else -1)
                tall = first_at + WINDOW[0] * WINDOW[1]
                wide_w = first_at + WINDOW[2]
            count = tall * wide_w
            if METHOD != "first":
                rows_of_table = rows_of(table, tall, wide_w, ROWS, COUNTS, COLUMNS, SIDES, WIDTHS)
            if METHOD == "ranks":
                number = number_of_lane(numbers, lane, CHANNELS_LAST, TIED)
                rank = rank_of(number, rows_of_table, wide_w, COLUMNS, SIDES, COUNTS, WIDTHS) + like.to(tl.int32)
                nan_at = last_nan(values, K, like)
                if CHECKED:
                    rank = tl.where(rank < count, rank, K)
                value = like
                if LEAST[0] * LEAST[1] * LEAST[2] == 0:
                    value = tl.where(count > 0, value, -float("inf"))
                position = like.to(tl.int32) - 1
                found = ranks(values, valids, K, like)
                for k in tl.static_range(K):
                    value = tl.where(found[k] == rank, values[k], value)
                    position = tl.where(found[k] == rank, k, position)
                value = tl.where(nan_at >= 0, float("nan"), value)
                position = tl.where(nan_at >= 0, nan_at, position)
            elif METHOD == "first":
                value, position, second, second_at = two_largest(values, first_at, second_at, K, False, CHECKED, like)
            else:
                number = number_of_lane(numbers, lane, CHANNELS_LAST, TIED)
                reached = rank_of(number, rows_of_table, wide_w, COLUMNS, SIDES, COUNTS, WIDTHS) > 0
                if K > 4:
                    values, valids = load_window(
                        input, plane_start, start, ends, size, block, step, row_live, live, WINDOW, HIGH, PAIRS, wide,
                        LOWEST,
                    )  # fmt: skip
                    value, position, void = first_or_second(values, reached, K, LOWEST, like)
                    again = tl.max((void & live).to(tl.int32)) > 0
                    if again:  # Seldom: all of the tile once more, with infinities and NaN.
                        value, position = _any_first_or_second(
                            input, plane_start, start, ends, size, block, step, row_live, live, reached, first_at,
                            second_at, WINDOW, HIGH, PAIRS, LEAST, CHECKED, like,
                        )  # fmt: skip
                else:
                    value, position = _any_first_or_second(
                        input, plane_start, start, ends, size, block, step, row_live, live, reached, first_at,
                        second_at, WINDOW, HIGH, PAIRS, LEAST, CHECKED, like,
                    )  # fmt: skip
        store_draw(output, drawn, at, value, position, live)
