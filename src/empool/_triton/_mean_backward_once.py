"""`rank_mean_backward` for CUDA in one kernel, which gathers gradients by cells of stride by stride inputs.

For each input, and each window over it, the program counts how many of the window's activations come before the input:
its rank, whose weight times the window's gradient is the input's part. No rank is counted twice, and a comparison that
neighbouring windows share is made once. Counting starts from a number so large that its lowest bits are the count, and
that is at once the number of the thread that keeps the rank's weight: to look it up is one exchange between threads.

Numbers alone are ranked so. Where a window holds a NaN, an input is -inf, which padding is too, or a gradient is not
finite, the cells concerned are done again.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import apart
from empool._triton._load import corner_of
from empool._triton._mean_backward import SIZES, share_of
from empool._triton._rank import as_pairs, in_type, places, smaller
from empool._triton._scatter import store_cells
from empool._triton._table import row_of, set_of
from empool._triton._tile import DIVISORS, beside, bounds, index_sizes, lane_exists, offset_in, rows_and_channels

_SETS = tl.constexpr(tuple(f"set.gt.{kind}.{kind} $0, $1, $2;" for kind in ("bf16x2", "f16x2")))
_ADDS = tl.constexpr(tuple(f"add.{kind} $0, $1, $2;" for kind in ("bf16x2", "f16x2")))
_SUBS = tl.constexpr(tuple(f"sub.{kind} $0, $1, $2;" for kind in ("bf16x2", "f16x2")))
_LANE = tl.constexpr("mov.u32 $0, %tid.x; and.b32 $0, $0, 31;")
_LOAD = tl.constexpr("ld.global.nc.f32 $0, [$1];")
_LOAD_WIDE = tl.constexpr("{ .reg .f64 wide; ld.global.nc.f64 wide, [$1]; cvt.rn.f32.f64 $0, wide; }")
_FROM_LANE = tl.constexpr("shfl.sync.idx.b32 $0, $1, $2, 31, 0xffffffff;")
_FROM_LANES = tl.constexpr(
    "{ .reg .b32 high; shr.u32 high, $4, 16; shfl.sync.idx.b32 $0, $2, $4, 31, 0xffffffff;"
    " shfl.sync.idx.b32 $1, $3, high, 31, 0xffffffff; }"
)


@triton.jit
def _step(one, other, PACKED: tl.constexpr):
    """Return 1 where one number is larger than another, else 0; of a half type two by two."""
    if one.dtype.primitive_bitwidth == 16:
        which: tl.constexpr = _SETS[0 if one.dtype == tl.bfloat16 else 1]
        step = tl.inline_asm_elementwise(which, "=r,r,r", [one, other], dtype=one.dtype, is_pure=True, pack=2)
    elif PACKED and one.dtype == tl.float32:
        step = tl.inline_asm_elementwise(
            "set.gt.f32.f32 $0, $1, $2;", "=f,f,f", [one, other], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        step = tl.where(one > other, 1.0, 0.0).to(one.dtype)
    return step


@triton.jit
def plus(one, other, SIGN: tl.constexpr):
    """Add a number, or subtract it; of a half type two by two."""
    if one.dtype.primitive_bitwidth == 16:
        kind: tl.constexpr = 0 if one.dtype == tl.bfloat16 else 1
        which: tl.constexpr = _ADDS[kind] if SIGN > 0 else _SUBS[kind]
        total = tl.inline_asm_elementwise(which, "=r,r,r", [one, other], dtype=one.dtype, is_pure=True, pack=2)
    elif SIGN > 0:
        total = one + other
    else:
        total = one - other
    return total


@triton.jit
def base_of(dtype: tl.constexpr):
    """Return a number from which on the next is 1 more, up to 32 of them, which its lowest bits count."""
    return 128.0 if dtype == tl.bfloat16 else 1024.0 if dtype == tl.float16 else 8388608.0


@triton.jit
def _rank_of(values, k: tl.constexpr, first, PACKED: tl.constexpr):
    """Count which numbers of every window come before its k-th, from `first` on: of those before it, none smaller."""
    rank = first
    if k > 0:
        rank = plus(first, tl.full(first.shape, k, first.dtype), 1)
    for j in tl.static_range(len(values)):
        if j < k:
            rank = plus(rank, _step(values[k], values[j], PACKED), -1)
        elif j > k:
            rank = plus(rank, _step(values[j], values[k], PACKED), 1)
    return rank


@triton.jit
def weights_by_lane(weights, like, COLUMNS: tl.constexpr, ROWS: tl.constexpr, COUNTS: tl.constexpr):
    """Give every thread of a warp one weight: a row of the table after another, of each as many as windows have."""
    lane = tl.inline_asm_elementwise(
        _LANE, "=r,r", [tl.zeros(like.shape, tl.int32)], dtype=tl.int32, is_pure=True, pack=1
    )
    column = lane
    row = lane * 0 + ROWS[1]
    end = 0
    for i in tl.static_range(COUNTS):
        if i > 0:
            row = tl.where(lane >= end, ROWS[2 * i + 1], row)
            column = tl.where(lane >= end, lane - end, column)
        end += ROWS[2 * i]
    some = (column < COLUMNS) & (lane < end)
    at = weights + tl.where(some, row * COLUMNS + column, 0)
    load: tl.constexpr = _LOAD_WIDE if weights.dtype.element_ty == tl.float64 else _LOAD
    weight = tl.inline_asm_elementwise(load, "=f,l", [at.to(tl.int64)], dtype=tl.float32, is_pure=True, pack=1)
    return tl.where(some, weight, 0.0)


@triton.jit
def _weight_of(rank, by_lane, row, COLUMNS: tl.constexpr, K: tl.constexpr, BY_LANE: tl.constexpr, wide: tl.constexpr):
    """Return the weight of every rank: from the thread that has it, or from the window's row."""
    if BY_LANE and rank.dtype == tl.float32:
        weight = tl.inline_asm_elementwise(
            _FROM_LANE, "=f,f,r", [by_lane, rank.to(tl.int32, bitcast=True)], dtype=tl.float32, is_pure=True, pack=1
        )
    elif BY_LANE:
        weight = tl.inline_asm_elementwise(
            _FROM_LANES, "=&f,=&f,f,f,r", [by_lane, rank], dtype=tl.float32, is_pure=True, pack=2
        )
    else:
        if rank.dtype == tl.float64:
            number = rank.to(tl.int64) & 31
        elif rank.dtype == tl.float32:
            number = rank.to(tl.int32, bitcast=True) & 31
        else:
            number = rank.to(tl.int16, bitcast=True) & 31
        number = number.to(tl.int32)
        if COLUMNS < K:
            weight = tl.load(row + number, mask=number < COLUMNS, other=0.0).to(wide)
        else:
            weight = tl.load(row + number).to(wide)
    return weight


@triton.jit
def _read(
    input, start, h, w, H, W, step, live, r: tl.constexpr, c: tl.constexpr, NUMBER: tl.constexpr, CHUNK: tl.constexpr,
    REGION: tl.constexpr, CELLS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Read NUMBER neighbours of the region, from row r and column c on, as a tuple; -inf for what does not exist."""
    BELOW: tl.constexpr = not WHOLE or r >= REGION[7] + REGION[4]
    RIGHT: tl.constexpr = not WHOLE or c >= REGION[8] + CELLS * REGION[5]
    there = live
    if r < REGION[7]:
        there = there & (h + r >= 0)
    if c < REGION[8]:
        there = there & (w + c >= 0)
    if BELOW:
        there = there & (h + r < H)
    if RIGHT:
        there = there & (w + c < W)
    line = (start + r * (W * step)) + (w + REGION[8]) * step
    if NUMBER > 1:
        line = tl.multiple_of(line, [CHUNK, CHUNK])
        pointers = (input + line) + (tl.arange(0, NUMBER)[None, :] + (c - REGION[8]))
    else:
        pointers = (input + line) + (c - REGION[8]) * step
    if BELOW or RIGHT or r < REGION[7] or c < REGION[8]:
        values = tl.load(pointers, mask=there, other=-float("inf"))
    else:
        values = tl.load(pointers)
    return apart(values, NUMBER)


@triton.jit
def _columns_of(
    input, start, h, w, H, W, step, live, REGION: tl.constexpr, BEGIN: tl.constexpr, END: tl.constexpr,
    CELLS: tl.constexpr, CHUNK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Load columns of the region as a tuple: one column's rows after another's.

    Args:
        start: where the region's first row begins in memory.
        h, w: where the region begins, which may be in padding.
        CHUNK: so many columns of the cells are read as one.
        WHOLE: whether all positions of all cells exist, and windows of the cells' numbers.
    """
    RH: tl.constexpr = REGION[1]
    LEFT: tl.constexpr = REGION[8]
    RIGHT: tl.constexpr = LEFT + CELLS * REGION[5]
    WIDTH: tl.constexpr = REGION[2]
    TWO: tl.constexpr = 2 if CHUNK > 1 and (WIDTH - RIGHT) % 2 == 0 else 1
    loaded = ()
    for r in tl.static_range(RH):
        if CHUNK == 1:
            for c in tl.static_range(BEGIN, END):
                loaded = loaded + _read(input, start, h, w, H, W, step, live, r, c, 1, CHUNK, REGION, CELLS, WHOLE)
        else:
            for c in tl.static_range(LEFT):
                loaded = loaded + _read(input, start, h, w, H, W, step, live, r, c, 1, CHUNK, REGION, CELLS, WHOLE)
            for c in tl.static_range(LEFT, RIGHT, CHUNK):
                loaded = loaded + _read(input, start, h, w, H, W, step, live, r, c, CHUNK, CHUNK, REGION, CELLS, WHOLE)
            for c in tl.static_range(RIGHT, WIDTH, TWO):
                loaded = loaded + _read(input, start, h, w, H, W, step, live, r, c, TWO, CHUNK, REGION, CELLS, WHOLE)
    columns = ()
    for c in tl.static_range(END - BEGIN):
        for r in tl.static_range(RH):
            columns = columns + (loaded[r * (END - BEGIN) + c],)
    return columns


@triton.jit
def least_of(
    least, columns, h, w, H, W, REGION: tl.constexpr, BEGIN: tl.constexpr, CELLS: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    """Return the least of a number and those of the cells in columns from BEGIN on, but for what does not exist."""
    RH: tl.constexpr = REGION[1]
    for i in tl.static_range(len(columns)):
        if (
            i % RH >= REGION[7] and i % RH < REGION[7] + REGION[4]
            and BEGIN + i // RH >= REGION[8] and BEGIN + i // RH < REGION[8] + CELLS * REGION[5]
        ):  # fmt: skip
            value = columns[i]
            if not WHOLE:
                value = tl.where((h + i % RH < H) & (w + (BEGIN + i // RH) < W), value, 0.0)
            least = smaller(least, value)
    return least


@triton.jit
def first_of(tall, wide, like, form: tl.constexpr, ROWS: tl.constexpr, COUNTS: tl.constexpr):
    """Return the number of rank 0 of every window: where its row begins among what `weights_by_lane` gives."""
    BASE: tl.constexpr = base_of(form)
    first = tl.full(like.shape, BASE, form)
    if COUNTS > 1:
        count = tall * wide
        begin = tl.zeros_like(count).to(tl.float32) + BASE
        at = ROWS[0]
        for i in tl.static_range(1, COUNTS):
            begin = tl.where(count >= ROWS[2 * i], BASE + at, begin)
            at += ROWS[2 * i]
        first = tl.broadcast_to(begin.to(form), like.shape)
    return first


@triton.jit
def store_any(
    grad_output, input, table, grad_input, plane, channel, ad, ah, block, lane, D, H, W, OH, OW, C, row_live,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, COUNTS: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr,
    FIRST: tl.constexpr, NUMBER: tl.constexpr, CELLS: tl.constexpr, CHANNELS_LAST: tl.constexpr, like,
):  # fmt: skip
    """Write the gradient of a lane's cells, whatever their windows hold: seldom."""
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    step = C if CHANNELS_LAST else 1
    inner = channel if CHANNELS_LAST else 0
    plane_start = plane * (D * H * W) * step + inner
    aw = block * CELLS + lane
    for r in range(SH * SW):
        ih = ah * SH + r // SW
        iw = aw * SW + r % SW
        live = row_live & (ih < H) & (iw < W)
        at = plane_start + (ih * W + iw) * step
        value = tl.load(input + at, mask=live, other=0.0).to(like.dtype)
        total = like
        for i in range(NUMBER[0] * NUMBER[1]):
            oh = ah + (FIRST[0] + i // NUMBER[1])
            ow = aw + (FIRST[1] + i % NUMBER[1])
            h, h_end = bounds(oh, H, OH, WINDOW, 1)
            w, w_end = bounds(ow, W, OW, WINDOW, 2)
            kh, over_h = offset_in(oh, ih, H, OH, WINDOW, 1)
            kw, over_w = offset_in(ow, iw, W, OW, WINDOW, 2)
            over = live & over_h & over_w & (oh >= 0) & (ow >= 0)
            start = (ad, h, w)
            corner = corner_of(input, plane_start, start, (D, H, W), step)
            share = share_of(
                corner, start, (D, h_end, w_end), (D, H, W), step, over, value, kh * WINDOW[2] + kw, table, ROWS,
                COUNTS, COLUMNS, WINDOW, HIGH, like,
            )  # fmt: skip
            over = over & (share != 0)
            source = (plane * (OH * OW) + oh * OW + ow) * step + inner
            gradient = tl.load(grad_output + source, mask=over, other=0.0).to(like.dtype)
            total += tl.where(over, gradient * share, 0.0)
        tl.store(grad_input + at, total.to(grad_input.dtype.element_ty), mask=live)


@triton.jit
def products_of(
    columns, gradient, first, row, by_lane, i: tl.constexpr, ow: tl.constexpr, LEFT: tl.constexpr,
    RIGHT: tl.constexpr, COLUMNS: tl.constexpr, BY_LANE: tl.constexpr, WINDOW: tl.constexpr, REGION: tl.constexpr,
    CELLS: tl.constexpr, PACKED: tl.constexpr, like,
):  # fmt: skip
    """Return what a window sends to each of its positions that lies in the cells, in window order.

    Args:
        first: the number of rank 0.
        row, by_lane: where its weights are.
        i, ow: which of the windows over the cells.
        LEFT, RIGHT: from which of its columns on, and up to which, a position may exist.
    """
    values = ()
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    DH: tl.constexpr = WINDOW[10]
    DW: tl.constexpr = WINDOW[11]
    for kh in tl.static_range(KH):
        for kw in tl.static_range(LEFT, RIGHT):
            values = values + (columns[(ow * SW + kw * DW) * REGION[1] + i * SH + kh * DH],)
    products = ()
    for kh in tl.static_range(KH):
        for kw in tl.static_range(KW):
            product = like
            if (
                i * SH + kh * DH >= REGION[7] and i * SH + kh * DH < REGION[7] + SH
                and ow * SW + kw * DW >= REGION[8] and ow * SW + kw * DW < REGION[8] + CELLS * SW
                and kw >= LEFT and kw < RIGHT
            ):  # fmt: skip
                rank = _rank_of(values, kh * (RIGHT - LEFT) + kw - LEFT, first, PACKED)
                product = gradient * _weight_of(rank, by_lane, row, COLUMNS, KH * KW, BY_LANE, like.dtype)
            products = products + (product,)
    return products


@triton.jit
def total_of_cell(
    products, lane: tl.constexpr, rh: tl.constexpr, rw: tl.constexpr, WINDOW: tl.constexpr, REGION: tl.constexpr,
    NUMBER: tl.constexpr, BEGIN: tl.constexpr, END: tl.constexpr, like,
):  # fmt: skip
    """Add up what the windows over position (rh, rw) of a lane's cell send there, the first window first.

    Of the windows across, those from BEGIN on and up to END exist.
    """
    total = like
    NH: tl.constexpr = NUMBER[0]
    NW: tl.constexpr = NUMBER[1]
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    DH: tl.constexpr = WINDOW[10]
    DW: tl.constexpr = WINDOW[11]
    for i in tl.static_range(NH):
        for j in tl.static_range(NW):
            if (
                rh + REGION[7] - i * SH >= 0 and (rh + REGION[7] - i * SH) % DH == 0
                and rw + REGION[8] - j * SW >= 0 and (rw + REGION[8] - j * SW) % DW == 0
                and (rh + REGION[7] - i * SH) // DH < KH and (rw + REGION[8] - j * SW) // DW < KW
                and lane + j >= BEGIN and lane + j < END
            ):  # fmt: skip
                total += products[
                    (((lane + j) * NH + i) * KH + (rh + REGION[7] - i * SH) // DH) * KW
                    + (rw + REGION[8] - j * SW) // DW
                ]
    return total


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS, "depths", "heights"])
def _rank_mean_backward_once_kernel(
    grad_output,
    input,
    weights,
    grad_input,
    rows,
    C,
    D,
    H,
    W,
    OD,
    OH,
    OW,
    depths,
    heights,
    blocks,
    blocks_magic,
    blocks_shift,
    plane_magic,
    plane_shift,
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
    CELLS: tl.constexpr,
    WHOLE: tl.constexpr,
    CHUNK: tl.constexpr,
    PACKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    PAIRS: tl.constexpr,
    ALIGNED: tl.constexpr,
    OUT_ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Share gradients among the ranked activations; each program collects them for the cells that it writes.

    Cells, windows over them and the region are those of `_value_mean_backward_once_kernel`.
    """
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, ad, ah, block, plane, row_live = rows_and_channels(
        rows, C, depths, heights, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift, height_magic,
        height_shift, channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS, NUMBER[0] > 1,
    )  # fmt: skip
    plane, ad, D = plane * D + ad, tl.zeros_like(ah), 1  # No window has more than one depth.
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    form: tl.constexpr = dtype if dtype.primitive_bitwidth == 16 and PACKED else wide
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else 1], wide)
    KW: tl.constexpr = WINDOW[2]
    SPAN: tl.constexpr = (WINDOW[2] - 1) * WINDOW[11] + 1
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    NH: tl.constexpr = NUMBER[0]
    NW: tl.constexpr = NUMBER[1]
    step = C if CHANNELS_LAST else 1
    plane_start = plane * (D * H * W) * step + (channel if CHANNELS_LAST else 0)
    table = set_of(weights, tl.minimum(channel, C - 1), COLUMNS, TABLE_ROWS, SETS)
    by_lane = like
    odd_gradient = like
    if BY_LANE:
        by_lane = weights_by_lane(weights, like, COLUMNS, ROWS, COUNTS)
        odd_gradient = by_lane * 0
    h = ah * SH - REGION[7]
    w = block * (CELLS * SW) - REGION[8]
    start = plane_start + h * W * step
    odd = like.to(form)
    least = odd
    columns = ()
    gradients = ()
    products = ()
    totals = ()
    for ow in tl.static_range(CELLS + NW - 1):  # The next windows, from the left to the right.
        if CHANNELS_LAST or ow == 0:
            more = in_type(
                _columns_of(
                    input, start, h, w, H, W, step, row_live, REGION, 0 if ow == 0 else (ow - 1) * SW + SPAN,
                    ow * SW + SPAN if CHANNELS_LAST else REGION[2], CELLS, CHUNK, WHOLE,
                ),
                form,
            )  # fmt: skip
            if form.primitive_bitwidth == 16 and not CHANNELS_LAST:
                more = as_pairs(more)
            columns = columns + more
            for i in tl.static_range(len(more)):
                odd = plus(odd, more[i], 1)
            least = least_of(
                least, more, h, w, H, W, REGION, 0 if ow == 0 else (ow - 1) * SW + SPAN, CELLS, WHOLE
            )  # fmt: skip
        for i in tl.static_range(NH):
            oh = ah + (FIRST[0] + i)
            exists = row_live
            if FIRST[0] + i < 0:
                exists = exists & (oh >= 0)
            if FIRST[0] + i > 0 or not WHOLE:
                exists = exists & (oh < OH)
            line = (plane * OH + oh) * OW + (block * CELLS + FIRST[1])
            within = exists
            if FIRST[1] + ow < 0:
                within = within & (block * CELLS + (FIRST[1] + ow) >= 0)
            if FIRST[1] + ow >= CELLS or not WHOLE:
                within = within & (block * CELLS + (FIRST[1] + ow) < OW)
            if CHANNELS_LAST:
                gradient = tl.load((grad_output + (line * C + channel)) + ow * C, mask=within, other=0.0).to(wide)
            elif FIRST[1] != 0 or ow >= CELLS:
                gradient = tl.load((grad_output + line) + ow, mask=within, other=0.0).to(wide)
            else:
                if ow == 0:
                    four = tl.multiple_of(line, [OUT_ALIGNED, OUT_ALIGNED]) + tl.arange(0, CELLS)[None, :]
                    their = tl.load(grad_output + four, mask=exists & lane_exists(block, OW, OUT_ALIGNED), other=0.0)
                    gradients = gradients + apart(their.to(wide), CELLS)
                gradient = gradients[i * CELLS + ow]
            odd_gradient = tl.fma(gradient, like, odd_gradient)
            top, top_end = bounds(oh, H, OH, WINDOW, 1)
            left, left_end = bounds(block * CELLS + (FIRST[1] + ow), W, OW, WINDOW, 2)
            none, none_at, tall, across = places(
                (ad, top, left), (D, top_end, left_end), FIRST[1] + ow, FIRST[1] + ow < 0, WINDOW, HIGH, (1, 1, 2),
                COUNTS > 1,
            )  # fmt: skip
            if BY_LANE:
                first = first_of(tall, across, like, form, ROWS, COUNTS)
                row = table
            else:
                first = tl.full(like.shape, base_of(form), form)
                row = row_of(table, tall * across, ROWS, COUNTS, COLUMNS)
            products = products + products_of(
                columns, gradient, first, row, by_lane, i, ow, 0, KW, COLUMNS, BY_LANE, WINDOW, REGION, CELLS, PACKED,
                like,
            )  # fmt: skip
        if ow >= NW - 1:  # All windows over a lane's cells are known.
            for rh in tl.static_range(SH):
                for rw in tl.static_range(SW):
                    total = total_of_cell(
                        products, ow - (NW - 1), rh, rw, WINDOW, REGION, NUMBER, 0, CELLS + NW - 1, like
                    ).to(dtype)  # fmt: skip
                    totals = totals + (total,)
                    if CHANNELS_LAST:
                        r = REGION[7] + rh
                        c = (ow - (NW - 1)) * SW + rw
                        there = row_live
                        if not WHOLE:
                            there = there & (h + r < H) & (block * (CELLS * SW) + c < W)
                        line = start + (r * W + block * (CELLS * SW)) * step
                        tl.store((grad_input + line) + c * step, total, mask=there)
    if not CHANNELS_LAST:
        cells = ()
        for r in tl.static_range(SH * SW):
            cells = cells + (
                beside((totals[r], totals[SH * SW + r], totals[2 * SH * SW + r], totals[3 * SH * SW + r])),
            )
        store_cells(
            grad_input, cells, plane, channel, ad, ah, block, D, H, W, C, row_live, WINDOW, CHANNELS_LAST, PAIRS,
            ALIGNED,
        )  # fmt: skip
    odd, least = odd.to(wide), least.to(wide)
    again = row_live & ((least == -float("inf")) | (odd != odd) | (odd_gradient != odd_gradient))
    if tl.max(again.to(tl.int32)) > 0:
        for turn in range(CELLS):
            store_any(
                grad_output, input, table, grad_input, plane, channel, ad, ah, block, turn, D, H, W, OH, OW, C, again,
                COLUMNS, ROWS, COUNTS, WINDOW, HIGH, FIRST, NUMBER, CELLS, CHANNELS_LAST, like,
            )  # fmt: skip
