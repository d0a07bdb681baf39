"""`rank_mean` for CUDA."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import (
    columns_of_window,
    load_columns,
    sorted_columns,
    tops_of_columns,
    tops_of_window,
    window_of,
)
from empool._triton._load import corner_of, load_window
from empool._triton._rank import (
    as_pairs,
    descending,
    in_type,
    largest,
    magnitude,
    not_finite,
    places,
    ranked_after,
    sign_of,
    smaller,
    two_largest,
)
from empool._triton._table import entry, row_of, rows_of, set_of, start_of_mean
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

SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "blocks"]


@triton.jit
def _plus(total, weight, value):
    """Add a weighted activation; one of weight 0 takes no part, so that an infinity there does no harm."""
    return tl.where(weight != 0, total + weight * value, total)


@triton.jit
def _weighted(
    ranked, begin, rows, wide_w, COLUMNS: tl.constexpr, SIDES: tl.constexpr, COUNTS: tl.constexpr, WIDTHS: tl.constexpr,
):  # fmt: skip
    """Add up the weighted activations of every window, a tuple by rank."""
    mean = begin
    for column in tl.static_range(COLUMNS):
        mean = _plus(mean, entry(rows, wide_w, column, ranked[0].dtype, SIDES, COUNTS, WIDTHS), ranked[column])
    return mean


@triton.jit
def _weighted_numbers(
    ranked, begin, rows, wide_w, COLUMNS: tl.constexpr, SIDES: tl.constexpr, COUNTS: tl.constexpr, WIDTHS: tl.constexpr,
):  # fmt: skip
    """Do as `_weighted` for numbers alone, of which one of weight 0 does no harm, unless the sum is -0."""
    mean = begin
    for column in tl.static_range(COLUMNS):
        mean = mean + entry(rows, wide_w, column, ranked[0].dtype, SIDES, COUNTS, WIDTHS) * ranked[column]
    return mean


@triton.jit
def _any_mean(
    values, begin, rows, tall, wide_w, METHOD: tl.constexpr, NETWORK: tl.constexpr, EXCHANGES: tl.constexpr,
    COLUMNS: tl.constexpr, SIDES: tl.constexpr, COUNTS: tl.constexpr, WIDTHS: tl.constexpr, LEAST: tl.constexpr,
    WINDOW: tl.constexpr, like,
):  # fmt: skip
    """Average the activations of every window, whatever they are."""
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    none = tl.zeros([1, 1], tl.int32)
    first, first_at, second, second_at = two_largest(values, none, none, K, METHOD == "second", False, like)
    ranked = (first, second)
    if METHOD == "sorted":
        others = descending(sorted_columns(values, WINDOW[0] * WINDOW[1]), K, NETWORK, EXCHANGES)
        ranked = (first,)
        for k in tl.static_range(1, K):
            ranked = ranked + (others[k],)
    mean = _weighted(ranked, begin, rows, wide_w, COLUMNS, SIDES, COUNTS, WIDTHS)
    if LEAST[0] * LEAST[1] * LEAST[2] == 0:
        mean = tl.where(tall * wide_w > 0, mean, -float("inf"))
    return tl.where(first == first, mean, first)


@triton.jit
def mean_any(
    input, output, plane_start, line_start, table, lane: tl.constexpr, block, channel, d, d_end, h, h_end, size, step,
    row_live, OW, C, METHOD: tl.constexpr, NETWORK: tl.constexpr, EXCHANGES: tl.constexpr, COLUMNS: tl.constexpr,
    SIDES: tl.constexpr, ROWS: tl.constexpr, COUNTS: tl.constexpr, WIDTHS: tl.constexpr, LEAST: tl.constexpr,
    WINDOW: tl.constexpr, HIGH: tl.constexpr, CHECKED: tl.constexpr, CHANNELS_LAST: tl.constexpr, SIDE: tl.constexpr,
    ALIGNED: tl.constexpr, always, like,
):  # fmt: skip
    """Average a lane's windows, whatever they hold; if not `always`, only where weights keep a zero's sign."""
    ow, live, at = outputs_of_lane(lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, SIDE, ALIGNED)
    w, w_end = bounds(ow, size[2], OW, WINDOW, 2)
    start = (d, h, w)
    ends = (d_end, h_end, w_end)
    first_at, second_at, tall, wide_w = places(start, ends, lane, SIDE, WINDOW, HIGH, LEAST, CHECKED)
    rows = rows_of(table, tall, wide_w, ROWS, COUNTS, COLUMNS, SIDES, WIDTHS)
    begin = start_of_mean(rows, wide_w, like.dtype, COLUMNS, SIDES, COUNTS, WIDTHS)
    if (tl.min(sign_of(begin) | like.to(tl.int32)) < 0) | always:
        values = load_window(input, plane_start, start, ends, size, step, live, WINDOW, HIGH, like.dtype)
        mean = _any_mean(
            values, begin, rows, tall, wide_w, METHOD, NETWORK, EXCHANGES, COLUMNS, SIDES, COUNTS, WIDTHS, LEAST,
            WINDOW, like,
        )  # fmt: skip
        tl.store(output + at, mean.to(output.dtype.element_ty), mask=live)


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _rank_mean_kernel(
    input,
    weights,
    output,
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
    METHOD: tl.constexpr,
    NETWORK: tl.constexpr,
    EXCHANGES: tl.constexpr,
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
    """Average the ranked activations of every window with the weights of the table's row.

    METHOD "first" and "second": one weight or two, for activations found in one pass over registers. "sorted": the
    window is in registers, and sorted there by a network. Of more than four activations, numbers are found by maxima
    and minima, and all else seldom. "any": the activations are selected one after another, each in a pass over the
    window (the first from memory, the others from the cache).
    """
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, od, oh, block, plane, row_live = rows_and_channels(
        rows, C, OD, OH, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift, height_magic, height_shift,
        channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS,
        WINDOW[1] > WINDOW[4] and (METHOD == "second" or input.dtype.element_ty.primitive_bitwidth == 16),
    )  # fmt: skip
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    step = C if CHANNELS_LAST else 1
    plane_start = plane * (D * H * W) * step + (channel if CHANNELS_LAST else 0)
    line_start = (plane * (OD * OH) + place) * OW
    d, d_end = bounds(od, D, OD, WINDOW, 0)
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    size = (D, H, W)
    table = set_of(weights, tl.minimum(channel, C - 1), COLUMNS, TABLE_ROWS, SETS)
    # What a block's windows cover is read together, channels last a lane's new columns after another's. Else every
    # window is read for itself; contiguous, those of a block lie side by side in a tile.
    TOGETHER: tl.constexpr = READ > 0 and METHOD != "any"
    HEIGHT: tl.constexpr = WINDOW[0] * WINDOW[1]
    SIDE: tl.constexpr = not CHANNELS_LAST and not TOGETHER
    # Of numbers, maxima and minima do; what is none is seldom, and then all of the tile is done again.
    HALF: tl.constexpr = dtype.primitive_bitwidth == 16 and TOGETHER
    QUICK: tl.constexpr = METHOD == "sorted" or (METHOD == "second" and K > 4)
    TWO: tl.constexpr = LEAST[0] * LEAST[1] * LEAST[2] > 1
    OTHER: tl.constexpr = LOWEST if QUICK else -float("inf")
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else (LANES if SIDE else 1)], wide)
    kind: tl.constexpr = dtype if PACKED and QUICK and HALF else wide
    odd = like.to(kind)
    least = like + 1.0
    smallest = odd + 1.0
    means = ()
    columns = ()
    firsts = ()
    seconds = ()
    shared = ()
    for lane in tl.static_range(1 if SIDE else 4):
        ow, live, at = outputs_of_lane(lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, SIDE, ALIGNED)
        w, w_end = bounds(ow, W, OW, WINDOW, 2)
        start = (d, h, w)
        ends = (d_end, h_end, w_end)
        if TOGETHER and (CHANNELS_LAST or lane == 0):
            loaded = load_columns(
                input, plane_start, start, ends, size, block, step, row_live, WINDOW, HIGH,
                0 if lane == 0 else (lane - 1) * WINDOW[5] + WINDOW[2],
                lane * WINDOW[5] + WINDOW[2] if CHANNELS_LAST else READ, CHUNK, OTHER, ALIGNED,
            )  # fmt: skip
            more = in_type(loaded, kind)
            if kind.primitive_bitwidth == 16 and not CHANNELS_LAST:
                more = as_pairs(more)
            if QUICK:
                if METHOD == "second":
                    tops, nexts = tops_of_columns(more, HEIGHT, len(more) // HEIGHT, LOWEST)
                    firsts = firsts + tops
                    seconds = seconds + nexts
                else:
                    more = sorted_columns(more, HEIGHT)
            columns = columns + more
        if METHOD == "any":
            corner = corner_of(input, plane_start, start, size, step)
            value, position, count, nan_at = largest(corner, start, ends, size, step, live, WINDOW, HIGH, like)
            row = row_of(table, count, ROWS, COUNTS, COLUMNS)
            mean = start_of_mean((row,), count, wide, COLUMNS, SIDES, 1, 1)
            mean = _plus(mean, tl.load(row).to(wide), value)
            column = 1
            while column < COLUMNS:  # Not a range: with a NumPy of today the interpreter cannot take its end.
                value, position = ranked_after(
                    corner, start, ends, size, step, live, value, position, WINDOW, HIGH, like
                )
                mean = _plus(mean, tl.load(row + column).to(wide), value)
                column += 1
            mean = tl.where(count > 0, mean, -float("inf"))
            mean = tl.where(nan_at >= 0, float("nan"), mean)
        else:
            first_at, second_at, tall, wide_w = places(start, ends, lane, SIDE, WINDOW, HIGH, LEAST, CHECKED)
            # Rows that a block's windows have in common are read once, the others for each lane.
            if COUNTS > 1 and (SIDE or HIGH[2] or lane * WINDOW[5] < WINDOW[8]):
                own = (row_of(table, tall * wide_w, ROWS, COUNTS, COLUMNS),)
            else:
                if len(shared) == 0:
                    shared = (row_of(table, tall * wide_w, ROWS, COUNTS, COLUMNS),)
                own = shared
            if not TOGETHER:
                values = load_window(input, plane_start, start, ends, size, step, live, WINDOW, HIGH, wide, OTHER)
                if QUICK and METHOD == "second":
                    firsts, seconds = tops_of_columns(values, K, 1, LOWEST)
            if QUICK:
                if METHOD == "sorted":
                    if TOGETHER:
                        values = columns_of_window(columns, lane, WINDOW, kind)
                    else:
                        values = sorted_columns(values, HEIGHT)
                    ranked = descending(values, K, NETWORK, EXCHANGES)
                elif TOGETHER:
                    ranked = tops_of_window(firsts, seconds, lane, WINDOW)
                else:
                    ranked = (firsts[0], seconds[0])
                odd = not_finite(ranked[0], odd, like)
                if METHOD == "sorted":
                    odd = not_finite(ranked[K - 1], odd, like)
                smallest = smaller(smallest, magnitude(ranked[0]))
                ranked = in_type(ranked, wide)
                mean = _weighted_numbers(ranked, like, own, wide_w, COLUMNS, SIDES, 1, 1)
                if METHOD == "second" or LEAST[0] * LEAST[1] * LEAST[2] == 0:
                    low = ranked[0]
                    if METHOD == "second":  # Padding counts as more than -inf.
                        low = ranked[1] if TWO else tl.where(tall * wide_w > 1, ranked[1], low)
                    if ALIGNED != LANES:
                        low = tl.where(live, low, 1.0)
                    least = tl.minimum(least, low)
            else:
                if TOGETHER:
                    values = window_of(columns, lane, WINDOW, wide)
                begin = start_of_mean(own, wide_w, wide, COLUMNS, SIDES, 1, 1)
                mean = _any_mean(
                    values, begin, own, tall, wide_w, METHOD, NETWORK, EXCHANGES, COLUMNS, SIDES, 1, 1,
                    LEAST, WINDOW, like,
                )  # fmt: skip
        means = means + (mean.to(dtype),)
    if SIDE or not CHANNELS_LAST:
        none, live, at = outputs_of_lane(0, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, True, ALIGNED)
        value = means[0] if SIDE else beside(means)
        if FLAT:
            at, source, live = side_by_side(rows, BLOCK, FLAT)
            value = moved(value, source)
        tl.store(output + at, value, mask=live)
    else:  # At the end, so that what is read can be read before.
        for lane in tl.static_range(4):
            none, live, at = outputs_of_lane(
                lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, False, ALIGNED
            )
            tl.store(output + at, means[lane], mask=live)
    if QUICK:
        odd, smallest = odd.to(wide), smallest.to(wide)
        unsure = tl.where((odd != odd) | (least <= LOWEST), 2, (smallest == 0).to(tl.int32))
        unsure = tl.max(tl.where(row_live, unsure, 0))
        if unsure > 0:  # Infinities, NaN and the sign of a largest zero.
            for lane in tl.static_range(1 if SIDE else 4):
                mean_any(
                    input, output, plane_start, line_start, table, lane, block, channel, d, d_end, h, h_end, size,
                    step, row_live, OW, C, METHOD, NETWORK, EXCHANGES, COLUMNS, SIDES, ROWS, COUNTS, WIDTHS, LEAST,
                    WINDOW, HIGH, CHECKED, CHANNELS_LAST, SIDE, ALIGNED, unsure > 1, like,
                )  # fmt: skip
