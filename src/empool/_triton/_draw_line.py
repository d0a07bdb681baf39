"""`rank_draw` for CUDA of small contiguous maps: a thread draws for a whole line of windows.

The rows that a line's windows cover are one stretch of memory. So it is read in few pieces, and where a window ends in
the padding is known when the kernel is compiled, but above the first line and below the last.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import apart, columns_of_window, float32_of, sorted_columns
from empool._triton._draw import draw_any, sign_zeros, store_draw
from empool._triton._rank import (
    as_pairs,
    larger,
    lowest_bits,
    magnitude,
    not_finite,
    one_of_two,
    places,
    smaller,
)
from empool._triton._select import first_thresholds, ranks_of, select, within
from empool._triton._table import row_of, set_of, threshold_of, thresholds_of
from empool._triton._tile import LANES, bounds, divide, moved, number_of_lane, side_by_side, uniform32

SIZES = ["rows", "share", "first_image", "C", "H", "OH"]
SIZES += ["height_magic", "height_shift", "channels_magic", "channels_shift"]


@triton.jit
def load_line(
    input, plane_start, oh, H, W: tl.constexpr, COLUMNS: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr,
    CHUNK: tl.constexpr, OTHER: tl.constexpr, kind: tl.constexpr, APART: tl.constexpr = False,
):  # fmt: skip
    """Load COLUMNS columns of the rows that a line's windows cover: one column's rows after another's.

    Column 0 is where the line's first window begins.

    Args:
        CHUNK: so many elements, which divide a plane and what lies between two lines' windows, are read as one.
        OTHER: what stands for padding.
        APART: as `load_columns` takes it.
    """
    KH: tl.constexpr = WINDOW[1]
    PH: tl.constexpr = WINDOW[7]
    BEGIN: tl.constexpr = -PH * W // CHUNK
    END: tl.constexpr = ((KH - PH) * W + CHUNK - 1) // CHUNK
    line = oh * (WINDOW[4] * W)
    start = tl.multiple_of(plane_start + line, [CHUNK, CHUNK])
    loaded = ()
    for q in tl.static_range(BEGIN, END):
        pointers = (input + start) + (tl.arange(0, CHUNK)[None, :] + q * CHUNK)
        if HIGH[1]:
            tile = tl.load(pointers, mask=(line + q * CHUNK >= 0) & (line + q * CHUNK < H * W), other=OTHER)
        elif q < 0:
            tile = tl.load(pointers, mask=(oh > 0) if WINDOW[4] >= PH else (line + q * CHUNK >= 0), other=OTHER)
        else:
            tile = tl.load(pointers)
        loaded = loaded + apart(float32_of(tile) if APART else tile, CHUNK)
    columns = ()
    for c in tl.static_range(COLUMNS):
        for row in tl.static_range(KH):
            if c >= WINDOW[8] and c < W + WINDOW[8]:
                columns = columns + (loaded[(row - PH) * W + (c - WINDOW[8]) - BEGIN * CHUNK].to(kind),)
            else:
                columns = columns + (tl.full(start.shape, OTHER, kind),)
    return columns


@triton.jit
def tops_of_columns_of_line(columns, W: tl.constexpr, COLUMNS: tl.constexpr, WINDOW: tl.constexpr, LOW: tl.constexpr):
    """Return the two largest of each column, as two tuples; of padding LOW, which is less than all."""
    firsts = ()
    seconds = ()
    KH: tl.constexpr = WINDOW[1]
    for c in tl.static_range(COLUMNS):
        first = columns[c * KH]
        second = tl.full(first.shape, LOW, first.dtype)
        if c >= WINDOW[8] and c < W + WINDOW[8]:
            for row in tl.static_range(1, KH):
                low = smaller(first, columns[c * KH + row])
                second = low if row == 1 else larger(second, low)
                first = larger(first, columns[c * KH + row])
        firsts = firsts + (first,)
        seconds = seconds + (second,)
    return firsts, seconds


@triton.jit
def tops_of_window_of_line(firsts, seconds, lane: tl.constexpr, W: tl.constexpr, WINDOW: tl.constexpr):
    """Return the two largest of a window, by those of its columns; columns of padding are left out."""
    BEGIN: tl.constexpr = lane * WINDOW[5] if lane * WINDOW[5] > WINDOW[8] else WINDOW[8]
    LAST: tl.constexpr = lane * WINDOW[5] + WINDOW[2]
    END: tl.constexpr = LAST if W + WINDOW[8] > LAST else W + WINDOW[8]
    first = firsts[BEGIN]
    second = seconds[BEGIN]
    for c in tl.static_range(BEGIN + 1, END):
        if WINDOW[1] > 1:
            second = larger(larger(second, seconds[c]), smaller(first, firsts[c]))
        else:
            second = larger(second, smaller(first, firsts[c]))
        first = larger(first, firsts[c])
    return first, second


@triton.jit
def line_of(lanes, NUMBER: tl.constexpr, PLACES: tl.constexpr):
    """Lay a line's outputs side by side, with gaps at its end."""
    if PLACES == 1:
        line = lanes[0]
    else:
        evens = ()
        odds = ()
        for i in tl.static_range(0, PLACES, 2):
            evens = evens + (lanes[i if i < NUMBER else 0],)
            odds = odds + (lanes[i + 1 if i + 1 < NUMBER else 0],)
        even = line_of(evens, PLACES // 2, PLACES // 2)
        odd = line_of(odds, PLACES // 2, PLACES // 2)
        line = tl.reshape(tl.join(even, odd), [even.shape[0], PLACES])
    return line


@triton.jit(do_not_specialize=SIZES)
def _rank_draw_line_kernel(
    input,
    seed,
    thresholds,
    output,
    drawn,
    rows,
    share,
    first_image,
    C,
    H,
    OH,
    height_magic,
    height_shift,
    channels_magic,
    channels_shift,
    SEEDS: tl.constexpr,
    TIED: tl.constexpr,
    METHOD: tl.constexpr,
    COLUMNS: tl.constexpr,
    NETWORK: tl.constexpr,
    EXCHANGES: tl.constexpr,
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
    W: tl.constexpr,
    OW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Draw a rank for every window, and output that activation, as `_rank_draw_kernel` does.

    A row of the tile is a line of OW windows, of which READ columns are covered.
    """
    K: tl.constexpr = WINDOW[1] * WINDOW[2]
    BLOCKS: tl.constexpr = (OW + LANES - 1) // LANES
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    kind: tl.constexpr = dtype if PACKED and dtype.primitive_bitwidth == 16 else wide
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]  # (BLOCK, 1)
    row_live = row < rows
    row = tl.minimum(row, rows - 1)
    plane, oh = divide(row, OH, height_magic, height_shift, False)
    image, channel = divide(plane, C, channels_magic, channels_shift, False)
    plane_start = plane * (H * W)
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    none = tl.zeros([1, 1], tl.int32)
    like = tl.zeros([BLOCK, 1], wide)
    RANKED: tl.constexpr = METHOD == "ranks"
    OTHER: tl.constexpr = -float("inf") if RANKED else LOWEST
    columns = load_line(input, plane_start, oh, H, W, READ, WINDOW, HIGH, CHUNK, OTHER, kind)
    if kind.primitive_bitwidth == 16:
        columns = as_pairs(columns)
    if RANKED:
        ordered = ()
    else:
        firsts, seconds = tops_of_columns_of_line(columns, W, READ, WINDOW, LOWEST)
    void = like.to(kind)
    least = void + 1.0
    smallest = least
    most = tl.zeros([1, 1], tl.uint32)
    negative = lowest_bits(
        columns,
        void.to(tl.int16 if kind.primitive_bitwidth == 16 else tl.int32 if kind.primitive_bitwidth == 32 else tl.int64),
    )
    table = set_of(thresholds, channel, COLUMNS, TABLE_ROWS, SETS)
    values = ()
    positions = ()
    for lane in tl.static_range(OW):
        block = none + lane // LANES
        if lane - lane // LANES * LANES == 0:
            numbers = uniform32(seed, image, channel, oh, block, share, first_image, SEEDS, TIED, PACKED and not RANKED)
        number = number_of_lane(numbers, lane - lane // LANES * LANES, False, TIED)
        start = (none, h, none + (lane * WINDOW[5] - WINDOW[8]))
        ends = (none + 1, h_end, none + W)
        first_at, second_at, tall, wide_w = places(start, ends, 0, True, WINDOW, HIGH, LEAST, CHECKED)
        most = tl.maximum(most, number)
        window = ()
        for k in tl.static_range(K):
            window = window + (columns[(lane * WINDOW[5] + k % WINDOW[2]) * WINDOW[1] + k // WINDOW[2]],)
        if RANKED:
            count = tall * wide_w
            # Neighbours whose windows end in no padding share a row of thresholds.
            if lane == 0 or (
                COUNTS > 1 and ((lane - 1) * WINDOW[5] < WINDOW[8] or lane * WINDOW[5] - WINDOW[8] + WINDOW[2] > W)
            ):
                pointer = row_of(table, count, ROWS, COUNTS, COLUMNS)
                thresholds_of_lane = first_thresholds(pointer, COLUMNS)
            more = ()  # Column by column, so that registers hold few of those that are sorted.
            for k in tl.static_range(len(ordered), (lane * WINDOW[5] + WINDOW[2]) * WINDOW[1]):
                more = more + (columns[k],)
            ordered = ordered + sorted_columns(more, WINDOW[1])
            values_by_rank, lower = ranks_of(
                columns_of_window(ordered, lane, WINDOW, kind), K, NETWORK, EXCHANGES, PACKED
            )
            first = values_by_rank[0]
            chosen, position, rank = select(
                values_by_rank,
                lower,
                window,
                number,
                pointer,
                thresholds_of_lane,
                tl.minimum(rows, 0),
                K,
                COLUMNS,
                PACKED,
            )
            value, position, chosen = within(chosen, position, rank, count, like, PACKED)
            void = not_finite(chosen, void, like)
        else:
            if lane == 0:
                own = thresholds_of(table, tall, wide_w, ROWS, COUNTS, 1, SIDES, WIDTHS, not SETS)
            threshold = threshold_of(own, wide_w, SIDES, COUNTS, WIDTHS)
            number, threshold = tl.broadcast_to(number, like.shape), tl.broadcast_to(threshold, like.shape)
            first, second = tops_of_window_of_line(firsts, seconds, lane, W, WINDOW)
            value, position = one_of_two(window, first, second, number, threshold, K, like)
            chosen = value
            least = smaller(least, chosen)
        void = not_finite(first, void, like)
        smallest = smaller(smallest, magnitude(chosen))
        values = values + (value.to(dtype),)
        positions = positions + (position.to(drawn.dtype.element_ty),)
    at, source, live = side_by_side(rows * BLOCKS, BLOCK * BLOCKS, OW)
    value, position = line_of(values, OW, BLOCKS * LANES), line_of(positions, OW, BLOCKS * LANES)
    if dtype.primitive_bitwidth == 16:  # Both in one word.
        word = (value.to(tl.int16, bitcast=True).to(tl.int32) << 8) | position.to(tl.int32)
        word = moved(word, source)
        value, position = (word >> 8).to(tl.int16).to(dtype, bitcast=True), word & 255
    else:
        value, position = moved(value, source), moved(position, source)
    store_draw(output, drawn, at, value, position, live)
    void, least, smallest = void.to(wide), least.to(wide), smallest.to(wide)
    again = (void != void) | (least <= LOWEST) | (most == 4294967295)
    negative_zero: tl.constexpr = -(2 ** (negative.dtype.primitive_bitwidth - 1))
    zeros = (smallest == 0) & (negative == negative_zero)
    unsure = tl.max(tl.where(row_live, tl.where(again, 2, zeros.to(tl.int32)), 0))
    line_start = row * OW
    size = (none + 1, H, W)
    if unsure == 1:
        tl.debug_barrier()  # What other threads have written is read.
        for each in range(OW):
            sign_zeros(
                input, output, drawn, plane_start, line_start, each, none, channel, none, h, size, 1, row_live, OW, C,
                WINDOW, False, False, 1,
            )  # fmt: skip
    if unsure > 1:
        for each in range(OW):
            its_block = none + each // LANES
            its_lane = each - each // LANES * LANES
            its_numbers = uniform32(
                seed, image, channel, oh, its_block, share, first_image, SEEDS, TIED, PACKED and not RANKED
            )
            draw_any(
                input, output, drawn, plane_start, line_start, table, its_numbers, its_lane, its_block, channel, none,
                none + 1, h, h_end, size, 1, row_live, OW, C, TIED, METHOD, COLUMNS, SIDES, ROWS, COUNTS, WIDTHS,
                LEAST, WINDOW, HIGH, CHECKED, False, False, 1, like,
            )  # fmt: skip
