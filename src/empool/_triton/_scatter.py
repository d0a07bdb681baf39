"""`drawn_scatter` and `drawn_gather` for CUDA: the backward of the draws, and its adjoint."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._tile import (
    DIVISORS,
    LANES,
    after,
    before,
    bounds,
    first_window,
    index_sizes,
    lane_exists,
    lanes_of,
    of_lanes,
    offset_in,
    rows_and_channels,
)

SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "depths", "heights", "blocks"]


@triton.jit
def rounded(value, dtype: tl.constexpr, wide: tl.constexpr):
    """Round to the tensor's type, as a sum kept in it would be."""
    return value if dtype == wide else value.to(dtype).to(wide)


# Instructions for two windows at a time. `same` has all bits of a half set, or none; a position is a number from 128 or
# 1024 on, where the next is 1 more.
_ADD = (
    "{{ .reg .b32 same, one; set.eq.u32.{0} same, $2, $4; and.b32 same, same, $3; mov.b32 one, {1};"
    " fma.rn.{0} $0, same, one, $1; }}"
)
_ADD_BFLOAT16 = tl.constexpr(_ADD.format("bf16x2", "0x3f803f80"))
_ADD_FLOAT16 = tl.constexpr(_ADD.format("f16x2", "0x3c003c00"))
_WIDEN = "{{ .reg .b32 high; mov.b32 high, {0}; prmt.b32 $0, $2, high, 0x4140; prmt.b32 $1, $2, high, 0x4342; }}"
_WIDEN_BFLOAT16 = tl.constexpr(_WIDEN.format("0x43"))
_WIDEN_FLOAT16 = tl.constexpr(_WIDEN.format("0x64"))


@triton.jit
def _plus_drawn(total, draws, gradient, k: tl.constexpr):
    """Add the gradients of a half type that were drawn at position k, two windows at a time."""
    BRAIN: tl.constexpr = total.dtype == tl.bfloat16
    BASE: tl.constexpr = 0x4300 if BRAIN else 0x6400
    if draws.dtype == tl.uint8 and draws.shape[1] % 4 == 0:
        widen: tl.constexpr = _WIDEN_BFLOAT16 if BRAIN else _WIDEN_FLOAT16
        places = tl.inline_asm_elementwise(widen, "=&r,=&r,r", [draws], dtype=tl.int16, is_pure=True, pack=4)
    else:
        places = (draws.to(tl.int16) & 255) | BASE
    add: tl.constexpr = _ADD_BFLOAT16 if BRAIN else _ADD_FLOAT16
    place = tl.full(total.shape, BASE + k, tl.int16)
    return tl.inline_asm_elementwise(
        add, "=r,r,r,r,r", [total, places, gradient, place], dtype=total.dtype, is_pure=True, pack=2
    )


@triton.jit
def window_of_cell(
    plane, ad, ah, block, outputs, row_live, back_d: tl.constexpr, back_h: tl.constexpr, back: tl.constexpr,
    COVERED: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Return the window so many places before each cell's own along every dimension, and which exist.

    Along the width of contiguous tensors, `load_windows` looks itself whether they exist.
    """
    od = ad - back_d
    oh = ah - back_h
    exists = row_live
    if back_d > 0:
        exists = exists & (od >= 0)
    if back_h > 0:
        exists = exists & (oh >= 0)
    if back_d < 0 or not COVERED[0]:
        exists = exists & (od < outputs[0])
    if back_h < 0 or not COVERED[1]:
        exists = exists & (oh < outputs[1])
    if CHANNELS_LAST:
        ow = block - back
        if back < 0 or not COVERED[2]:
            exists = exists & (ow < outputs[2])
        if back > 0:
            exists = exists & (ow >= 0)
    else:
        ow = block * LANES + tl.arange(0, LANES)[None, :] - back
    return od, oh, ow, ((plane * outputs[0] + od) * outputs[1] + oh) * outputs[2], exists


@triton.jit
def load_windows(
    tensor, line, ow, block, channel, OW, C, exists, other, back: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    OUT_ALIGNED: tl.constexpr,
):  # fmt: skip
    """Load what the windows `back` places before every cell's own have in a tensor; `other` where there is none.

    Contiguous, the window next to a lane's is taken from the lane beside.
    """
    if CHANNELS_LAST:
        value = tl.load(tensor + ((line + ow) * C + channel), mask=exists, other=other)
    elif back == 1 or back == -1:
        value = load_windows(
            tensor, line, ow, block, channel, OW, C, exists, other, 0, CHANNELS_LAST, OUT_ALIGNED
        )  # fmt: skip
        beyond = block * LANES - 1 if back == 1 else (block + 1) * LANES
        new = tl.load(tensor + (line + beyond), mask=exists & (beyond >= 0) & (beyond < OW), other=other)
        value = before(value, new) if back == 1 else after(value, new)
    elif back == 0:
        at = tl.multiple_of(line + block * LANES, [OUT_ALIGNED, OUT_ALIGNED]) + tl.arange(0, LANES)[None, :]
        value = tl.load(tensor + at, mask=exists & lane_exists(block, OW, OUT_ALIGNED), other=other)
    else:
        value = tl.load(tensor + (line + ow), mask=exists & (ow >= 0) & (ow < OW), other=other)
    return value


@triton.jit
def _cell_gradient(
    grad_output,
    drawn,
    plane,
    channel,
    ad,
    ah,
    block,
    OD,
    OH,
    OW,
    C,
    row_live,
    like,
    rd: tl.constexpr,
    rh: tl.constexpr,
    rw: tl.constexpr,
    WINDOW: tl.constexpr,
    COVERED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    OUT_ALIGNED: tl.constexpr,
):
    """Add up what the windows over position (rd, rh, rw) of every cell send there, first window first.

    Window position k meets it in the window that lies `(k * dilation - padding - r) / stride` before the cell's own.
    Loads and their masks depend on the window alone, so that the compiler reads each once for all of the cell.
    """
    KD: tl.constexpr = WINDOW[0]
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    total = like
    for kd in tl.static_range(KD - 1, -1, -1):
        for kh in tl.static_range(KH - 1, -1, -1):
            for kw in tl.static_range(KW - 1, -1, -1):
                if (
                    (kd * WINDOW[9] - WINDOW[6] - rd) % WINDOW[3] == 0
                    and (kh * WINDOW[10] - WINDOW[7] - rh) % WINDOW[4] == 0
                    and (kw * WINDOW[11] - WINDOW[8] - rw) % WINDOW[5] == 0
                ):
                    od, oh, ow, line, exists = window_of_cell(
                        plane, ad, ah, block, (OD, OH, OW), row_live,
                        (kd * WINDOW[9] - WINDOW[6] - rd) // WINDOW[3],
                        (kh * WINDOW[10] - WINDOW[7] - rh) // WINDOW[4],
                        (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5], COVERED, CHANNELS_LAST,
                    )  # fmt: skip
                    draws = load_windows(
                        drawn, line, ow, block, channel, OW, C, exists, 255,
                        (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5], CHANNELS_LAST, OUT_ALIGNED,
                    )  # fmt: skip
                    gradient = load_windows(
                        grad_output, line, ow, block, channel, OW, C, exists, 0.0,
                        (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5], CHANNELS_LAST, OUT_ALIGNED,
                    ).to(like.dtype)  # fmt: skip
                    if like.dtype.primitive_bitwidth == 16:
                        total = _plus_drawn(total, draws, gradient, (kd * KH + kh) * KW + kw)
                    else:
                        hit = draws.to(tl.int32) == (kd * KH + kh) * KW + kw
                        total = rounded(total + tl.where(hit, gradient, 0.0), grad_output.dtype.element_ty, like.dtype)
    return total


@triton.jit
def _places_in_cells(
    plane, channel, ad, ah, block, D, H, W, C, row_live, rd: tl.constexpr, rh: tl.constexpr, rw: tl.constexpr,
    WINDOW: tl.constexpr, CHANNELS_LAST: tl.constexpr, PAIRS: tl.constexpr, ALIGNED: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Return where position (rd, rh, rw) of every cell is in memory, and which exist.

    Of PAIRS, where a row's positions are, all of them, or its first or second HALF.
    """
    id = ad * WINDOW[3] + rd
    ih = ah * WINDOW[4] + rh
    row = row_live
    if WINDOW[3] > 1:
        row = row & (id < D)
    if WINDOW[4] > 1:
        row = row & (ih < H)
    line = ((plane * D + id) * H + ih) * W  # `plane` counts images, channels last.
    if PAIRS > 0:
        NUMBER: tl.constexpr = 2 * LANES if HALF < 0 else LANES
        first = block * (2 * LANES) + (0 if HALF < 0 else HALF * LANES)
        columns = tl.arange(0, NUMBER)[None, :]
        DIVIDES: tl.constexpr = PAIRS if PAIRS < NUMBER else NUMBER
        at = tl.multiple_of(line + first, [DIVIDES, DIVIDES]) + columns
        within = row & (first + columns // DIVIDES * DIVIDES < W)
    elif CHANNELS_LAST:
        iw = block * WINDOW[5] + rw
        at = (line + iw) * C + channel
        within = row & (iw < W)
    elif WINDOW[5] == 1:
        at = tl.multiple_of(line + block * LANES, [ALIGNED, ALIGNED]) + tl.arange(0, LANES)[None, :]
        within = row & lane_exists(block, W, ALIGNED)
    else:
        iw = (block * LANES + tl.arange(0, LANES)[None, :]) * WINDOW[5] + rw
        at = line + iw
        within = row & (iw < W)
    return at, within


@triton.jit
def load_cells(
    input, plane, channel, ad, ah, block, D, H, W, C, row_live, WINDOW: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    PAIRS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Read a tile of cells: a tuple, one tile for every position in a cell; 0 where there is none."""
    values = ()
    SD: tl.constexpr = WINDOW[3]
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = 1 if PAIRS > 0 else WINDOW[5]
    for rd in tl.static_range(SD):
        for rh in tl.static_range(SH):
            for rw in tl.static_range(SW):
                at, within = _places_in_cells(
                    plane, channel, ad, ah, block, D, H, W, C, row_live, rd, rh, rw, WINDOW, CHANNELS_LAST, PAIRS,
                    ALIGNED, 0,
                )  # fmt: skip
                value = tl.load(input + at, mask=within, other=0.0)
                if PAIRS > 0:  # In halves, so that a thread has all of a row.
                    at, within = _places_in_cells(
                        plane, channel, ad, ah, block, D, H, W, C, row_live, rd, rh, rw, WINDOW, CHANNELS_LAST, PAIRS,
                        ALIGNED, 1,
                    )  # fmt: skip
                    a, b, c, d = lanes_of(value)
                    e, f, g, h = lanes_of(tl.load(input + at, mask=within, other=0.0))
                    values = values + (of_lanes(a, c, e, g), of_lanes(b, d, f, h))
                else:
                    values = values + (value,)
    return values


@triton.jit
def store_cells(
    grad_input, totals, plane, channel, ad, ah, block, D, H, W, C, row_live, WINDOW: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, PAIRS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Write a tile of cells: a tuple, one tile for every position in a cell."""
    SD: tl.constexpr = WINDOW[3]
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = 1 if PAIRS > 0 else WINDOW[5]
    for rd in tl.static_range(SD):
        for rh in tl.static_range(SH):
            for rw in tl.static_range(SW):
                at, within = _places_in_cells(
                    plane, channel, ad, ah, block, D, H, W, C, row_live, rd, rh, rw, WINDOW, CHANNELS_LAST, PAIRS,
                    ALIGNED, -1,
                )  # fmt: skip
                if PAIRS > 0:
                    # In two halves of 16 bytes for each thread, as float32 would fit, it took nearly twice as long.
                    both = tl.interleave(totals[2 * (rd * SH + rh)], totals[2 * (rd * SH + rh) + 1])
                    tl.store(grad_input + at, both, mask=within)
                else:
                    tl.store(grad_input + at, totals[(rd * SH + rh) * SW + rw], mask=within)


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _drawn_scatter_kernel(
    grad_output,
    drawn,
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
    WINDOW: tl.constexpr,
    COVERED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    PAIRS: tl.constexpr,
    ALIGNED: tl.constexpr,
    OUT_ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
    PACKED: tl.constexpr,
):
    """Send gradients to where the draws were; each program collects them for the inputs that it writes.

    So nothing is added atomically, and a repeat gives the same bits: under `torch.use_deterministic_algorithms` too.
    The input is cut in cells of stride by stride positions. A tile is over cells, and the positions in a cell are
    unrolled, so that which window positions meet one is known when compiling, and windows over a cell are read once.

    PAIRS: 0, or, for stride 2, the power of two that divides the width: two neighbours are then stored together.
    """
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, ad, ah, block, plane, row_live = rows_and_channels(
        rows, C, depths, heights, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift,
        height_magic, height_shift, channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS,
    )  # fmt: skip
    dtype: tl.constexpr = grad_output.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    SD: tl.constexpr = WINDOW[3]
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    pairs: tl.constexpr = PACKED and dtype.primitive_bitwidth == 16 and (CHANNELS > 1 or not CHANNELS_LAST)
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], dtype if pairs else wide)
    totals = ()
    for rd in tl.static_range(SD):
        for rh in tl.static_range(SH):
            for rw in tl.static_range(SW):
                total = _cell_gradient(
                    grad_output, drawn, plane, channel, ad, ah, block, OD, OH, OW, C, row_live, like, rd, rh, rw,
                    WINDOW, COVERED, CHANNELS_LAST, OUT_ALIGNED,
                )  # fmt: skip
                totals = totals + (total.to(dtype),)
    store_cells(
        grad_input, totals, plane, channel, ad, ah, block, D, H, W, C, row_live, WINDOW, CHANNELS_LAST, PAIRS, ALIGNED
    )


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _drawn_scatter_any_kernel(
    grad_output,
    drawn,
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
    COVER: tl.constexpr,
    WINDOW: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Do as `_drawn_scatter_kernel`, with loops over the windows: for those too large to unroll, and adaptive ones."""
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, id, ih, block, plane, row_live = rows_and_channels(
        rows, C, depths, heights, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift,
        height_magic, height_shift, channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS,
    )  # fmt: skip
    dtype: tl.constexpr = grad_output.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    if CHANNELS_LAST:
        step, iw, inner = C, block, channel
    else:
        step, iw, inner = 1, block * LANES + tl.arange(0, LANES)[None, :], 0
    live = row_live & (iw < W)
    total = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
    source = plane * (OD * OH * OW) * step + inner
    for i in range(COVER[0]):
        od = first_window(id, D, OD, WINDOW, 0) + i
        kd, over_d = offset_in(od, id, D, OD, WINDOW, 0)
        for j in range(COVER[1]):
            oh = first_window(ih, H, OH, WINDOW, 1) + j
            kh, over_h = offset_in(oh, ih, H, OH, WINDOW, 1)
            for m in range(COVER[2]):
                ow = first_window(iw, W, OW, WINDOW, 2) + m
                kw, over_w = offset_in(ow, iw, W, OW, WINDOW, 2)
                over = live & over_d & over_h & over_w
                k = (kd * WINDOW[1] + kh) * WINDOW[2] + kw
                at = source + ((od * OH + oh) * OW + ow) * step
                hit = over & (tl.load(drawn + at, mask=over, other=0).to(tl.int32) == k)
                gradient = tl.load(grad_output + at, mask=hit, other=0.0).to(wide)
                total = rounded(total + gradient, dtype, wide)
    at = (((plane * D + id) * H + ih) * W + iw) * step + inner
    tl.store(grad_input + at, total.to(dtype), mask=live)


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _drawn_gather_kernel(
    input,
    drawn,
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
    WINDOW: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Read the input where the draws were."""
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, od, oh, block, plane, row_live = rows_and_channels(
        rows, C, OD, OH, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift, height_magic, height_shift,
        channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS,
    )  # fmt: skip
    line_start = (plane * (OD * OH) + place) * OW
    if CHANNELS_LAST:
        step, ow, inner = C, block, channel
        at = (line_start + block) * C + channel
    else:
        step, ow, inner = 1, block * LANES + tl.arange(0, LANES)[None, :], 0
        at = tl.multiple_of(line_start + block * 4, [ALIGNED, ALIGNED]) + tl.arange(0, LANES)[None, :]
    live = row_live & (ow < OW)
    k = tl.load(drawn + at, mask=live, other=0).to(tl.int32)
    kd = k // (WINDOW[1] * WINDOW[2])
    kh = k // WINDOW[2] % WINDOW[1]
    kw = k % WINDOW[2]
    d, d_end = bounds(od, D, OD, WINDOW, 0)
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    w, w_end = bounds(ow, W, OW, WINDOW, 2)
    id = d + kd * WINDOW[9]
    ih = h + kh * WINDOW[10]
    iw = w + kw * WINDOW[11]
    hit = live & (k >= 0) & (k < WINDOW[0] * WINDOW[1] * WINDOW[2])
    hit = hit & (id >= 0) & (id < D) & (ih >= 0) & (ih < H) & (iw >= 0) & (iw < W)
    source = (((plane * D + id) * H + ih) * W + iw) * step + inner
    tl.store(output + at, tl.load(input + source, mask=hit, other=0.0), mask=live)
