"""`rank_draw` for CUDA."""

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
from empool._triton._load import corner_of, load_window, valid_of_window
from empool._triton._rank import (
    as_pairs,
    in_type,
    larger,
    largest,
    last_nan,
    lowest_bits,
    magnitude,
    not_finite,
    one_of_two,
    places,
    rank_by_pairs,
    ranked_after,
    smaller,
    two_largest,
    two_numbers,
)
from empool._triton._select import first_thresholds, ranks_of, select, within
from empool._triton._table import FEW, rank_of, row_of, set_of, threshold_of, thresholds_of
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

SIZES = ["rows", "share", "first_image", "D", "H", "W", "OD", "OH", "OW", "blocks"]


@triton.jit
def store_draw(output, drawn, at, value, position, live):
    """Write a draw. Position -1, "zero", is 255 as a byte."""
    tl.store(output + at, value.to(output.dtype.element_ty), mask=live)
    tl.store(drawn + at, position.to(drawn.dtype.element_ty), mask=live)


@triton.jit
def _any_first_or_second(
    values, reached, first_at, second_at, K: tl.constexpr, LEAST: tl.constexpr, CHECKED: tl.constexpr, like
):
    """Find the largest of every window, or where `reached` the second largest, of whatever there is."""
    first, first_at, second, second_at = two_largest(values, first_at, second_at, K, True, CHECKED, like)
    drop = reached & (first == first)
    if LEAST[0] * LEAST[1] * LEAST[2] <= 1:
        second = tl.where(second_at >= 0, second, 0.0)
        drop = drop & (first_at >= 0)
    return tl.where(drop, second, first), tl.where(drop, second_at, first_at)


@triton.jit
def _any_of_rank(values, valids, rank, count, K: tl.constexpr, LEAST: tl.constexpr, CHECKED: tl.constexpr, like):
    """Find the activation of a rank in every window, of whatever there is; of a rank of `count` or more, zero."""
    nan_at = last_nan(values, K, like)
    if CHECKED:
        rank = tl.where(rank < count, rank, K)
    value = like
    if LEAST[0] * LEAST[1] * LEAST[2] == 0:
        value = tl.where(count > 0, value, -float("inf"))
    position = like.to(tl.int32) - 1
    found = rank_by_pairs(values, valids, K, like)
    for k in tl.static_range(K):
        value = tl.where(found[k] == rank, values[k], value)
        position = tl.where(found[k] == rank, k, position)
    return tl.where(nan_at >= 0, float("nan"), value), tl.where(nan_at >= 0, nan_at, position)


@triton.jit
def draw_any(
    input, output, drawn, plane_start, line_start, table, numbers, lane, block, channel, d, d_end, h, h_end, size, step,
    row_live, OW, C, TIED: tl.constexpr, METHOD: tl.constexpr, COLUMNS: tl.constexpr, SIDES: tl.constexpr,
    ROWS: tl.constexpr, COUNTS: tl.constexpr, WIDTHS: tl.constexpr, LEAST: tl.constexpr, WINDOW: tl.constexpr,
    HIGH: tl.constexpr, CHECKED: tl.constexpr, CHANNELS_LAST: tl.constexpr, SIDE: tl.constexpr, ALIGNED: tl.constexpr,
    like,
):  # fmt: skip
    """Draw from a lane's windows, whatever they hold."""
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
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
    first_at, second_at, tall, wide = places(start, ends, 0, True, WINDOW, HIGH, LEAST, CHECKED)
    own = thresholds_of(table, tall, wide, ROWS, COUNTS, COLUMNS, SIDES, WIDTHS, False)
    rank = like.to(tl.int32) + rank_of(number, own, wide, COLUMNS, SIDES, COUNTS, WIDTHS)
    values = load_window(input, plane_start, start, ends, size, step, live, WINDOW, HIGH, like.dtype)
    if METHOD == "second":
        value, position = _any_first_or_second(values, rank > 0, first_at, second_at, K, LEAST, CHECKED, like)
    else:
        valids = valid_of_window(start, ends, live, WINDOW, HIGH)
        value, position = _any_of_rank(values, valids, rank, tall * wide, K, LEAST, CHECKED, like)
    store_draw(output, drawn, at, value, position, live)


@triton.jit
def sign_zeros(
    input, output, drawn, plane_start, line_start, lane, block, channel, d, h, size, step, row_live, OW, C,
    WINDOW: tl.constexpr, CHANNELS_LAST: tl.constexpr, SIDE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Copy every zero that a lane's windows have drawn once more, with its sign: sorting takes equal zeros for one."""
    if SIDE:
        ow, live, at = outputs_of_lane(0, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, True, ALIGNED)
    else:
        ow = block * LANES + lane
        live = row_live & (ow < OW)
        at = (line_start + ow) * C + channel if CHANNELS_LAST else line_start + ow
    w, w_end = bounds(ow, size[2], OW, WINDOW, 2)
    value = tl.load(output + at, mask=live, other=1.0)
    place = tl.load(drawn + at, mask=live, other=0).to(tl.int32)
    live = live & (value == 0) & (place < WINDOW[0] * WINDOW[1] * WINDOW[2])
    id = d + place // (WINDOW[1] * WINDOW[2]) * WINDOW[9]
    ih = h + place // WINDOW[2] % WINDOW[1] * WINDOW[10]
    iw = w + place % WINDOW[2] * WINDOW[11]
    source = plane_start + ((id * size[1] + ih) * size[2] + iw) * step
    tl.store(output + at, tl.load(input + source, mask=live), mask=live)


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
    NETWORK: tl.constexpr,
    EXCHANGES: tl.constexpr,
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
    NUMBER: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Draw a rank for every window, and output that activation.

    The rank is the number of thresholds reached; the table's values are read here alone, so a new p compiles nothing.
    METHOD "first": no thresholds, the maximum, no random number. "second": one threshold; the two largest are found in
    one pass over registers. "ranks": the window is in registers and sorted, and the position of a rank's value is
    counted (see `empool._triton._select`). "any": the activations up to the rank are selected one after another, each
    in a pass over the window (the first from memory, the others from the cache), as many as the tile's highest rank.

    LEAST: the fewest valid positions along each dimension. READ: how many columns a block's windows cover, CHUNK: so
    many are one access; 0 where every window is read for itself. NUMBER: how many outputs a row of the tile has: a
    block, or channels last all of a short line, so that no lane idles. NETWORK: as `_plan.merging_network` gives, of
    EXCHANGES. (ROWS and SIDES: see `empool._triton._table`.)
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
    if METHOD != "first":
        table = set_of(thresholds, tl.minimum(channel, C - 1), COLUMNS, TABLE_ROWS, SETS)
    # What a block's windows cover is read together, but channels last, where registers hold few columns at a time, for
    # half types alone. Else every window is read for itself; contiguous, those of a block lie side by side in a tile.
    # Numbers are found by maxima and minima, of a half type two at a time; what is no number is seldom, and then all of
    # the tile is done again.
    HEIGHT: tl.constexpr = WINDOW[0] * WINDOW[1]
    HALF: tl.constexpr = dtype.primitive_bitwidth == 16 and READ > 0
    # (Four 4-byte activations, channels last, are compared one after another: that takes fewer registers.)
    MANY: tl.constexpr = METHOD == "second" and (K > 4 or (K > 1 and (HALF or not CHANNELS_LAST)))
    RANKED: tl.constexpr = METHOD == "ranks"
    TOPS: tl.constexpr = MANY and READ > 0 and (HALF or not CHANNELS_LAST)
    QUICK: tl.constexpr = RANKED or MANY
    TOGETHER: tl.constexpr = TOPS or (READ > 0 and METHOD != "any" and (RANKED or not CHANNELS_LAST))
    OTHER: tl.constexpr = LOWEST if MANY else -float("inf")
    kind: tl.constexpr = dtype if HALF and PACKED and K <= 9 else wide
    SIDE: tl.constexpr = not CHANNELS_LAST and not TOGETHER
    # Both words of a product at once take registers, which there are too few of for ranks, and channels last.
    ONCE: tl.constexpr = PACKED and not RANKED and (HALF or not CHANNELS_LAST)
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else (LANES if SIDE else 1)], wide)
    again = tl.zeros(like.shape, tl.int1)
    most = tl.zeros([1, 1], tl.uint32)
    drawn_values = ()
    positions = ()
    columns = ()
    firsts = ()
    seconds = ()
    ordered = ()
    void = like.to(kind)
    least = void + 1.0
    smallest = least
    negative = void.to(
        tl.int16 if kind.primitive_bitwidth == 16 else tl.int32 if kind.primitive_bitwidth == 32 else tl.int64
    )
    for lane in tl.static_range(1 if SIDE else NUMBER):
        ow, live, at = outputs_of_lane(lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, SIDE, ALIGNED)
        w, w_end = bounds(ow, W, OW, WINDOW, 2)
        start = (d, h, w)
        ends = (d_end, h_end, w_end)
        if TOGETHER and (CHANNELS_LAST or lane == 0):
            more = load_columns(
                input, plane_start, start, ends, size, block, step, row_live, WINDOW, HIGH,
                0 if lane == 0 else (lane - 1) * WINDOW[5] + WINDOW[2],
                lane * WINDOW[5] + WINDOW[2] if CHANNELS_LAST else READ, CHUNK,
                OTHER, ALIGNED,
            )  # fmt: skip
            if QUICK:
                more = in_type(more, kind)
                if kind.primitive_bitwidth == 16 and not CHANNELS_LAST:
                    more = as_pairs(more)
                negative = lowest_bits(more, negative)
            if RANKED:
                ordered = ordered + sorted_columns(more, HEIGHT)
            if TOPS:
                tops, nexts = tops_of_columns(more, HEIGHT, len(more) // HEIGHT, LOWEST)
                firsts = firsts + tops
                seconds = seconds + nexts
            columns = columns + more
        if METHOD != "first":
            if lane - lane // LANES * LANES == 0:
                numbers = uniform32(
                    seed, image, channel, place, block + lane // LANES, share, first_image, SEEDS, TIED, ONCE
                )
            number = number_of_lane(numbers, lane - lane // LANES * LANES, SIDE, TIED)
        if METHOD == "any":
            corner = corner_of(input, plane_start, start, size, step)
            value, position, count, nan_at = largest(corner, start, ends, size, step, live, WINDOW, HIGH, like)
            own = thresholds_of(table, count, count, ROWS, COUNTS, COLUMNS, (1,), 1, False)
            rank = like.to(tl.int32) + rank_of(tl.broadcast_to(number, like.shape), own, count, COLUMNS, SIDES, 1, 1)
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
            first_at, second_at, tall, wide_w = places(start, ends, lane, SIDE, WINDOW, HIGH, LEAST, CHECKED)
            count = tall * wide_w
            if METHOD != "first":
                if RANKED:  # What follows windows that can end in padding shares a row of thresholds.
                    if lane == 0 or (COUNTS > 1 and (HIGH[2] or (lane - 1) * WINDOW[5] < WINDOW[8])):
                        row = row_of(table, count, ROWS, COUNTS, COLUMNS)
                        thresholds_of_lane = first_thresholds(row, COLUMNS)
                elif lane == 0 or (COUNTS > 1 and WIDTHS > FEW):
                    own = thresholds_of(
                        table, tall, wide_w, ROWS, COUNTS, COLUMNS, SIDES, WIDTHS, CHANNELS_LAST and not SETS
                    )
                if QUICK:
                    most = tl.maximum(most, number)
                if MANY:
                    threshold = threshold_of(own, wide_w, SIDES, COUNTS, WIDTHS)
                elif not RANKED:
                    rank = rank_of(number, own, wide_w, COLUMNS, SIDES, COUNTS, WIDTHS)
            if TOGETHER:
                values = window_of(columns, lane, WINDOW, kind if QUICK else wide)
            else:
                values = load_window(input, plane_start, start, ends, size, step, live, WINDOW, HIGH, wide, OTHER)
                if QUICK:
                    negative = lowest_bits(values, negative)
            if MANY:
                if TOPS:
                    first, second = tops_of_window(firsts, seconds, lane, WINDOW)
                else:
                    first, second = two_numbers(values, K)
                void = not_finite(first, void, like)
                number, threshold = tl.broadcast_to(number, like.shape), tl.broadcast_to(threshold, like.shape)
                value, position = one_of_two(values, first, second, number, threshold, K, like)
                chosen = value
            elif RANKED:
                if TOGETHER:
                    values_by_rank = columns_of_window(ordered, lane, WINDOW, kind)
                else:
                    values_by_rank = sorted_columns(values, HEIGHT)
                values_by_rank, lower = ranks_of(values_by_rank, K, NETWORK, EXCHANGES, PACKED)
                top = values_by_rank[0]
                if ALIGNED != LANES:
                    exists = live if SIDE else ow < OW
                    top = larger(top, tl.broadcast_to(tl.where(exists, -float("inf"), 1.0).to(kind), like.shape))
                    count = tl.where(exists, count, 0)
                void = not_finite(top, void, like)
                chosen, position, rank = select(
                    values_by_rank,
                    lower,
                    values,
                    number,
                    row,
                    thresholds_of_lane,
                    tl.minimum(rows, 0),
                    K,
                    COLUMNS,
                    PACKED,
                )
                value, position, chosen = within(chosen, position, rank, count, like, PACKED)
                void = not_finite(chosen, void, like)
            elif METHOD == "second":
                value, position = _any_first_or_second(values, rank > 0, first_at, second_at, K, LEAST, CHECKED, like)
            else:
                value, position, second, second_at = two_largest(values, first_at, second_at, K, False, CHECKED, like)
        if MANY:
            if SIDE:
                chosen = tl.where(live, chosen, 1.0)
            elif ALIGNED != LANES:
                chosen = larger(chosen, tl.broadcast_to(tl.where(ow < OW, -float("inf"), 1.0).to(kind), like.shape))
            least = smaller(least, chosen)
        if QUICK:
            smallest = smaller(smallest, magnitude(chosen))
        if CHANNELS_LAST and not TOGETHER:  # A lane after another, so that registers hold one's windows alone.
            store_draw(output, drawn, at, value, position, live)
        else:
            drawn_values = drawn_values + (value.to(dtype),)
            positions = positions + (position.to(drawn.dtype.element_ty),)
    if not CHANNELS_LAST:
        none, live, at = outputs_of_lane(0, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, True, ALIGNED)
        value, position = drawn_values[0], positions[0]
        if not SIDE:
            value, position = beside(drawn_values), beside(positions)
        if FLAT:
            at, source, live = side_by_side(rows, BLOCK, FLAT)
            if dtype.primitive_bitwidth == 16 and drawn.dtype.element_ty == tl.uint8:  # Both in one word.
                word = (value.to(tl.int16, bitcast=True).to(tl.int32) << 8) | position.to(tl.int32)
                word = moved(word, source)
                value, position = (word >> 8).to(tl.int16).to(dtype, bitcast=True), word & 255
            else:
                value, position = moved(value, source), moved(position, source)
        store_draw(output, drawn, at, value, position, live)
    elif TOGETHER:  # At the end, so that what is read can be read before.
        for lane in tl.static_range(NUMBER):
            none, live, at = outputs_of_lane(
                lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, False, ALIGNED
            )
            store_draw(output, drawn, at, drawn_values[lane], positions[lane], live)
    if QUICK:
        void, least, smallest = void.to(wide), least.to(wide), smallest.to(wide)
        again = again | (void != void) | (least <= LOWEST) | (most == 4294967295)
        negative_zero: tl.constexpr = -(2 ** (negative.dtype.primitive_bitwidth - 1))
        zeros = (smallest == 0) & (negative == negative_zero)
        unsure = tl.where(again, 2, zeros.to(tl.int32))
        unsure = tl.max(tl.where(row_live, unsure, 0))
        if unsure == 1:
            tl.debug_barrier()  # What other threads have written is read.
            for other in range(1 if SIDE else NUMBER):
                sign_zeros(
                    input, output, drawn, plane_start, line_start, other, block, channel, d, h, size, step,
                    row_live, OW, C, WINDOW, CHANNELS_LAST, SIDE, ALIGNED,
                )  # fmt: skip
        if unsure > 1:
            for other in range(1 if SIDE else NUMBER):  # Seldom: a loop compiles faster.
                its_block = block + other // LANES
                its_numbers = numbers
                if NUMBER > LANES:
                    its_numbers = uniform32(
                        seed, image, channel, place, its_block, share, first_image, SEEDS, TIED, ONCE
                    )
                its_lane = other - other // LANES * LANES
                draw_any(
                    input, output, drawn, plane_start, line_start, table, its_numbers, its_lane, its_block, channel, d,
                    d_end, h, h_end, size, step, row_live, OW, C, TIED, METHOD, COLUMNS, SIDES, ROWS, COUNTS, WIDTHS,
                    LEAST, WINDOW, HIGH, CHECKED, CHANNELS_LAST, SIDE, ALIGNED, like,
                )  # fmt: skip
