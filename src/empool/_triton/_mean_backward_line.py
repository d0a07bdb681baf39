"""`rank_mean_backward` for CUDA of small contiguous maps that a stride of 2 halves: a thread has a line of cells."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import apart
from empool._triton._mean_backward_once import (
    base_of,
    first_of,
    least_of,
    plus,
    products_of,
    store_any,
    total_of_cell,
    weights_by_lane,
)
from empool._triton._rank import as_pairs, in_type, places
from empool._triton._scatter_line import bits_of, store_words, words_of
from empool._triton._table import row_of, set_of
from empool._triton._tile import bounds, divide

SIZES = ["rows", "C", "H", "OH", "height_magic", "height_shift", "channels_magic", "channels_shift"]


@triton.jit
def number_of(words, e: tl.constexpr, dtype: tl.constexpr):
    """Take an element from words of 32 bits, as a float32."""
    if dtype == tl.float32:
        number = words[e].to(tl.float32, bitcast=True)
    elif dtype == tl.bfloat16:
        number = (words[e // 2] & 0xFFFF0000 if e % 2 == 1 else words[e // 2] << 16).to(tl.float32, bitcast=True)
    else:
        number = (words[e // 2] >> (e % 2 * 16)).to(tl.uint16).to(dtype, bitcast=True).to(tl.float32)
    return number


@triton.jit
def _word(low, high, dtype: tl.constexpr, PACKED: tl.constexpr):
    """Round two numbers to a half type, in one word."""
    if PACKED:
        convert: tl.constexpr = (
            "cvt.rn.bf16x2.f32 $0, $2, $1;" if dtype == tl.bfloat16 else "cvt.rn.f16x2.f32 $0, $2, $1;"
        )
        word = tl.inline_asm_elementwise(convert, "=r,f,f", [low, high], dtype=tl.uint32, is_pure=True, pack=1)
    else:
        word = bits_of(low, dtype) | (bits_of(high, dtype) << 16)
    return word


@triton.jit
def store_cells_of_line(grad_input, sums, row, row_live, PLACES: tl.constexpr, PACKED: tl.constexpr):
    """Write a row of cells of 2 by 2 inputs: one position's, then the next one's."""
    dtype: tl.constexpr = grad_input.dtype.element_ty
    OW: tl.constexpr = len(sums) // 4
    found = ()
    for rh in tl.static_range(2):
        for aw in tl.static_range(OW):
            low, high = sums[2 * rh * OW + aw], sums[(2 * rh + 1) * OW + aw]
            if dtype == tl.float32:
                found = found + (low.to(tl.uint32, bitcast=True), high.to(tl.uint32, bitcast=True))
            else:
                found = found + (_word(low, high, dtype, PACKED),)
    store_words(grad_input, found, row, row_live, PLACES)


@triton.jit
def _columns_of_line(
    input, plane_start, ah, H, OH, W: tl.constexpr, REGION: tl.constexpr, CHUNK: tl.constexpr, form: tl.constexpr
):  # fmt: skip
    """Read the region of a line of cells as a tuple: one column's rows after another's, -inf for what does not exist.

    CHUNK: so many elements, which divide a plane and a line of cells, are read as one.
    """
    RH: tl.constexpr = REGION[1]
    SH: tl.constexpr = REGION[4]
    ABOVE: tl.constexpr = REGION[7]
    BEGIN: tl.constexpr = -ABOVE * W // CHUNK
    END: tl.constexpr = ((RH - ABOVE) * W + CHUNK - 1) // CHUNK
    line = ah * (SH * W)
    start = tl.multiple_of(plane_start + line, [CHUNK, CHUNK])
    loaded = ()
    for q in tl.static_range(BEGIN, END):
        pointers = (input + start) + (tl.arange(0, CHUNK)[None, :] + q * CHUNK)
        if q < 0:
            there = (ah > 0) if ABOVE <= SH else (line + q * CHUNK >= 0)
            tile = tl.load(pointers, mask=there, other=-float("inf"))
        elif q * CHUNK >= SH * W:
            there = (ah < OH - 1) if RH - ABOVE <= 2 * SH else (line + q * CHUNK < H * W)
            tile = tl.load(pointers, mask=there, other=-float("inf"))
        else:
            tile = tl.load(pointers)
        loaded = loaded + in_type(apart(tile, CHUNK), form)
    columns = ()
    for c in tl.static_range(W):
        for r in tl.static_range(RH):
            columns = columns + (loaded[(r - ABOVE) * W + c - BEGIN * CHUNK],)
    if form.primitive_bitwidth == 16:
        columns = as_pairs(columns)
    return columns


@triton.jit(do_not_specialize=SIZES)
def _rank_mean_backward_line_kernel(
    grad_output,
    input,
    weights,
    grad_input,
    rows,
    C,
    H,
    OH,
    height_magic,
    height_shift,
    channels_magic,
    channels_shift,
    COLUMNS: tl.constexpr,
    TABLE_ROWS: tl.constexpr,
    SETS: tl.constexpr,
    ROWS: tl.constexpr,
    COUNTS: tl.constexpr,
    BY_LANE: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    REGION: tl.constexpr,
    FIRST: tl.constexpr,
    NUMBER: tl.constexpr,
    CHUNK: tl.constexpr,
    PACKED: tl.constexpr,
    PLACES: tl.constexpr,
    W: tl.constexpr,
    OW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Do as `_rank_mean_backward_once_kernel` for cells of 2 by 2 inputs; a row of the tile is a whole line of them.

    PLACES: the power of two that holds what a line of cells has, in 8 bytes each.
    """
    dtype: tl.constexpr = input.dtype.element_ty
    SIZE: tl.constexpr = dtype.primitive_bitwidth // 8
    form: tl.constexpr = dtype if SIZE == 2 and PACKED else tl.float32
    KW: tl.constexpr = WINDOW[2]
    NH: tl.constexpr = NUMBER[0]
    NW: tl.constexpr = NUMBER[1]
    # Of the windows across, from which one on, and up to which, they exist.
    BEGIN: tl.constexpr = -FIRST[1]
    END: tl.constexpr = OW - FIRST[1] if OW - FIRST[1] < OW + NW - 1 else OW + NW - 1
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]  # (BLOCK, 1)
    row_live = row < rows
    row = tl.minimum(row, rows - 1)
    plane, ah = divide(row, OH, height_magic, height_shift, False)
    image, channel = divide(plane, C, channels_magic, channels_shift, False)
    table = set_of(weights, channel, COLUMNS, TABLE_ROWS, SETS)
    like = tl.zeros([BLOCK, 1], tl.float32)
    none = tl.zeros([1, 1], tl.int32)
    by_lane = like
    odd_gradient = like
    if BY_LANE:
        by_lane = weights_by_lane(weights, like, COLUMNS, ROWS, COUNTS)
        odd_gradient = by_lane * 0
    own = _columns_of_line(input, plane * (H * W), ah, H, OH, W, REGION, CHUNK, form)
    odd = own[0]
    for i in tl.static_range(1, len(own)):
        odd = plus(odd, own[i], 1)
    # Beside the line there is nothing, which no window looks at.
    beyond = (own[0],) * (REGION[1] * REGION[8])
    columns = beyond + own + (own[0],) * (REGION[1] * KW)
    least = least_of(like.to(form), columns, 0, 0, 0, 0, REGION, 0, OW, True)
    read = words_of(
        grad_output, (row + FIRST[0]) * OW, rows * OW, row_live, NH * OW, SIZE, FIRST[0] < 0, PACKED
    )  # fmt: skip
    products = ()
    for ow in tl.static_range(OW + NW - 1):
        for i in tl.static_range(NH):
            if ow >= BEGIN and ow < END:
                oh = ah + (FIRST[0] + i)
                gradient = number_of(read, i * OW + FIRST[1] + ow, dtype)
                if FIRST[0] + i < 0:
                    gradient = tl.where(oh >= 0, gradient, 0.0)
                if FIRST[0] + i > 0:
                    gradient = tl.where(oh < OH, gradient, 0.0)
                odd_gradient = tl.fma(gradient, like, odd_gradient)
                top, top_end = bounds(oh, H, OH, WINDOW, 1)
                first_at, second_at, tall, across = places(
                    (none, top, none + ((FIRST[1] + ow) * WINDOW[5] - WINDOW[8])), (none + 1, top_end, none + W),
                    FIRST[1] + ow, False, WINDOW, HIGH, (1, 1, 2), COUNTS > 1,
                )  # fmt: skip
                if BY_LANE:
                    first = first_of(tall, across, like, form, ROWS, COUNTS)
                    its_row = table
                else:
                    first = tl.full(like.shape, base_of(form), form)
                    its_row = row_of(table, tall * across, ROWS, COUNTS, COLUMNS)
                products = products + products_of(
                    columns, gradient, first, its_row, by_lane, i, ow,
                    REGION[8] - ow * WINDOW[5] if REGION[8] > ow * WINDOW[5] else 0,
                    REGION[8] + W - ow * WINDOW[5] if REGION[8] + W < ow * WINDOW[5] + KW else KW, COLUMNS, BY_LANE,
                    WINDOW, REGION, OW, PACKED, like,
                )  # fmt: skip
            else:
                products = products + (like,) * (WINDOW[1] * KW)
    sums = ()
    for r in tl.static_range(4):
        for aw in tl.static_range(OW):
            sums = sums + (total_of_cell(products, aw, r // 2, r % 2, WINDOW, REGION, NUMBER, BEGIN, END, like),)
    store_cells_of_line(grad_input, sums, row, row_live, PLACES, PACKED)
    odd, least = odd.to(tl.float32), least.to(tl.float32)
    again = row_live & ((least == -float("inf")) | (odd != odd) | (odd_gradient != odd_gradient))
    if tl.max(again.to(tl.int32)) > 0:
        for turn in range(OW):
            store_any(
                grad_output, input, table, grad_input, plane, channel, none, ah, none, turn, 1, H, W, OH, OW, C, again,
                COLUMNS, ROWS, COUNTS, WINDOW, HIGH, FIRST, NUMBER, OW, False, like,
            )  # fmt: skip
