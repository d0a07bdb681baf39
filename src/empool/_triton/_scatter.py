"""`drawn_scatter` and `drawn_gather` for CUDA: the backward of the draws, and its adjoint."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._tile import DIVISORS, LANES, index_sizes, lane_exists, rows_and_channels

SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "depths", "heights", "blocks"]


@triton.jit
def _rounded(value, dtype: tl.constexpr, wide: tl.constexpr):
    """Round to the tensor's type, as a sum kept in it would be."""
    return value if dtype == wide else value.to(dtype).to(wide)


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
                    od = ad - (kd * WINDOW[9] - WINDOW[6] - rd) // WINDOW[3]
                    oh = ah - (kh * WINDOW[10] - WINDOW[7] - rh) // WINDOW[4]
                    exists = row_live
                    if kd * WINDOW[9] - WINDOW[6] - rd > 0:
                        exists = exists & (od >= 0)
                    if kh * WINDOW[10] - WINDOW[7] - rh > 0:
                        exists = exists & (oh >= 0)
                    if kd * WINDOW[9] - WINDOW[6] - rd < 0 or not COVERED[0]:
                        exists = exists & (od < OD)
                    if kh * WINDOW[10] - WINDOW[7] - rh < 0 or not COVERED[1]:
                        exists = exists & (oh < OH)
                    line = ((plane * OD + od) * OH + oh) * OW
                    if CHANNELS_LAST:
                        ow = block - (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5]
                        at = (line + ow) * C + channel
                        if kw * WINDOW[11] - WINDOW[8] - rw < 0 or not COVERED[2]:
                            exists = exists & (ow < OW)
                    else:
                        start = tl.multiple_of(line + block * LANES, [OUT_ALIGNED, OUT_ALIGNED])
                        ow = block * LANES + tl.arange(0, LANES)[None, :]
                        if (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5] == 0:
                            exists = exists & lane_exists(block, OW, OUT_ALIGNED)
                            at = start + tl.arange(0, LANES)[None, :]
                        else:
                            ow -= (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5]
                            exists = exists & (ow < OW)
                            at = line + ow
                    if kw * WINDOW[11] - WINDOW[8] - rw > 0:
                        exists = exists & (ow >= 0)
                    where = tl.load(drawn + at, mask=exists, other=0).to(tl.int32)
                    gradient = tl.load(grad_output + at, mask=exists, other=0.0).to(like.dtype)
                    hit = exists & (where == (kd * KH + kh) * KW + kw)
                    total = _rounded(total + tl.where(hit, gradient, 0.0), grad_output.dtype.element_ty, like.dtype)
    return total


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
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
    totals = ()
    for rd in tl.static_range(SD):
        for rh in tl.static_range(SH):
            for rw in tl.static_range(SW):
                total = _cell_gradient(
                    grad_output, drawn, plane, channel, ad, ah, block, OD, OH, OW, C, row_live, like, rd, rh, rw,
                    WINDOW, COVERED, CHANNELS_LAST, OUT_ALIGNED,
                )  # fmt: skip
                totals = totals + (total.to(dtype),)
    for rd in tl.static_range(SD):
        for rh in tl.static_range(SH):
            id = ad * SD + rd
            ih = ah * SH + rh
            row = row_live
            if SD > 1:
                row = row & (id < D)
            if SH > 1:
                row = row & (ih < H)
            line = ((plane * D + id) * H + ih) * W  # `plane` counts images, channels last.
            if PAIRS > 0:
                both = tl.interleave(totals[(rd * SH + rh) * SW], totals[(rd * SH + rh) * SW + 1])
                columns = tl.arange(0, 2 * LANES)[None, :]
                start = tl.multiple_of(line + block * (2 * LANES), [PAIRS, PAIRS])
                within = row & (block * (2 * LANES) + columns // PAIRS * PAIRS < W)
                tl.store(grad_input + (start + columns), both, mask=within)
            else:
                for rw in tl.static_range(SW):
                    if CHANNELS_LAST:
                        iw = block * SW + rw
                        at = (line + iw) * C + channel
                        within = row & (iw < W)
                    elif SW == 1:
                        at = tl.multiple_of(line + block * LANES, [ALIGNED, ALIGNED]) + tl.arange(0, LANES)[None, :]
                        within = row & lane_exists(block, W, ALIGNED)
                    else:
                        iw = (block * LANES + tl.arange(0, LANES)[None, :]) * SW + rw
                        at = line + iw
                        within = row & (iw < W)
                    tl.store(grad_input + at, totals[(rd * SH + rh) * SW + rw], mask=within)


@triton.jit
def first_window(position, KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr, DILATION: tl.constexpr):
    """Return the first window that can reach a position."""
    start = position + PADDING - (KERNEL - 1) * DILATION
    return (tl.maximum(start, 0) + STRIDE - 1) // STRIDE


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
    WINDOW: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Do as `_drawn_scatter_kernel`, with loops over the windows: for windows and strides too large to unroll."""
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
    for i in range((WINDOW[0] - 1) * WINDOW[9] // WINDOW[3] + 1):
        od = first_window(id, WINDOW[0], WINDOW[3], WINDOW[6], WINDOW[9]) + i
        kd = id + WINDOW[6] - od * WINDOW[3]
        over_d = (kd >= 0) & (kd % WINDOW[9] == 0) & (od < OD)
        for j in range((WINDOW[1] - 1) * WINDOW[10] // WINDOW[4] + 1):
            oh = first_window(ih, WINDOW[1], WINDOW[4], WINDOW[7], WINDOW[10]) + j
            kh = ih + WINDOW[7] - oh * WINDOW[4]
            over_h = (kh >= 0) & (kh % WINDOW[10] == 0) & (oh < OH) & over_d
            for m in range((WINDOW[2] - 1) * WINDOW[11] // WINDOW[5] + 1):
                ow = first_window(iw, WINDOW[2], WINDOW[5], WINDOW[8], WINDOW[11]) + m
                kw = iw + WINDOW[8] - ow * WINDOW[5]
                over = live & (kw >= 0) & (kw % WINDOW[11] == 0) & (ow < OW) & over_h
                k = (kd // WINDOW[9] * WINDOW[1] + kh // WINDOW[10]) * WINDOW[2] + kw // WINDOW[11]
                at = source + ((od * OH + oh) * OW + ow) * step
                hit = over & (tl.load(drawn + at, mask=over, other=0).to(tl.int32) == k)
                gradient = tl.load(grad_output + at, mask=hit, other=0.0).to(wide)
                total = _rounded(total + gradient, dtype, wide)
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
    id = od * WINDOW[3] - WINDOW[6] + kd * WINDOW[9]
    ih = oh * WINDOW[4] - WINDOW[7] + kh * WINDOW[10]
    iw = ow * WINDOW[5] - WINDOW[8] + kw * WINDOW[11]
    hit = live & (k >= 0) & (k < WINDOW[0] * WINDOW[1] * WINDOW[2])
    hit = hit & (id >= 0) & (id < D) & (ih >= 0) & (ih < H) & (iw >= 0) & (iw < W)
    source = (((plane * D + id) * H + ih) * W + iw) * step + inner
    tl.store(output + at, tl.load(input + source, mask=hit, other=0.0), mask=live)
