"""`value_mean_backward` for CUDA."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._scatter import load_cells, load_windows, store_cells, window_of_cell
from empool._triton._softmax import scale_of
from empool._triton._tile import (
    DIVISORS,
    LANES,
    first_window,
    index_sizes,
    offset_in,
    rows_and_channels,
)
from empool._triton._value import beta_of
from empool._triton._value_mean import divisor_of, weight_of

SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "blocks", "depths", "heights"]


@triton.jit
def slope_of(value, factor, mean, largest, share, BETA: tl.constexpr):
    """Return how much an activation changes a window's mean: `empool.reference.value_slopes`.

    With p the softmax and y the mean, activation a has ``p * (1 + beta * (a - y))``; by value it is
    ``(2 * a - y) / total`` of what is positive. What is the window's own, `_value_mean_kernel` has kept.
    """
    positive, weight = weight_of(value, factor, largest, BETA)
    if BETA != "none":
        weight = tl.where(share > 0, tl.exp2(tl.fma(value, scale_of(factor), largest)), weight)
    share = tl.abs(share)
    if BETA == "none":
        slope = share * (2.0 * weight - mean / divisor_of(largest))
        slope = tl.where(value > 0, slope, tl.where(value != value, value, 0.0))
    else:
        slope = weight * share * (1.0 + factor * (value - mean))
    none = (weight * share == 0) | (mean == float("inf")) | (mean == -float("inf"))
    return tl.where(none, 0.0, slope)


@triton.jit
def _slope_of_numbers(value, factor, scale, mean, shift, share, BETA: tl.constexpr):
    """Do as `slope_of` for numbers of which no square leaves the range; by value, for positive ones."""
    if BETA == "none":
        slope = share * (2.0 * value - mean)
    else:
        slope = tl.exp2(tl.fma(value, scale, shift)) * share * (1.0 + factor * (value - mean))
    return slope


@triton.jit
def _cell_gradient(
    grad_output,
    means,
    largests,
    shares,
    value,
    factor,
    plane,
    channel,
    ad,
    ah,
    block,
    outputs,
    C,
    row_live,
    like,
    rd: tl.constexpr,
    rh: tl.constexpr,
    rw: tl.constexpr,
    QUICK: tl.constexpr,
    BETA: tl.constexpr,
    WINDOW: tl.constexpr,
    COVERED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    OUT_ALIGNED: tl.constexpr,
):
    """Add up what the windows over position (rd, rh, rw) of every cell send to the values there.

    QUICK: whether to take them for numbers. Then it also returns in which cells they are not.
    """
    KD: tl.constexpr = WINDOW[0]
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    total = like
    least = like
    scale = scale_of(factor)
    for kd in tl.static_range(KD - 1, -1, -1):
        for kh in tl.static_range(KH - 1, -1, -1):
            for kw in tl.static_range(KW - 1, -1, -1):
                if (
                    (kd * WINDOW[9] - WINDOW[6] - rd) % WINDOW[3] == 0
                    and (kh * WINDOW[10] - WINDOW[7] - rh) % WINDOW[4] == 0
                    and (kw * WINDOW[11] - WINDOW[8] - rw) % WINDOW[5] == 0
                ):
                    od, oh, ow, line, exists = window_of_cell(
                        plane, ad, ah, block, outputs, row_live,
                        (kd * WINDOW[9] - WINDOW[6] - rd) // WINDOW[3],
                        (kh * WINDOW[10] - WINDOW[7] - rh) // WINDOW[4],
                        (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5], COVERED, CHANNELS_LAST,
                    )  # fmt: skip
                    mean = load_windows(
                        means, line, ow, block, channel, outputs[2], C, exists, 0.0,
                        (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5], CHANNELS_LAST, OUT_ALIGNED,
                    )  # fmt: skip
                    share = load_windows(
                        shares, line, ow, block, channel, outputs[2], C, exists, 0.0,
                        (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5], CHANNELS_LAST, OUT_ALIGNED,
                    )  # fmt: skip
                    gradient = load_windows(
                        grad_output, line, ow, block, channel, outputs[2], C, exists, 0.0,
                        (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5], CHANNELS_LAST, OUT_ALIGNED,
                    ).to(like.dtype)  # fmt: skip
                    largest = like
                    if BETA != "none" or not QUICK:
                        largest = load_windows(
                            largests, line, ow, block, channel, outputs[2], C, exists, -float("inf"),
                            (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5], CHANNELS_LAST, OUT_ALIGNED,
                        )  # fmt: skip
                    if QUICK:
                        least = tl.minimum(least, share)
                        slope = _slope_of_numbers(value, factor, scale, mean, largest, share, BETA)
                    else:
                        slope = slope_of(value, factor, mean, largest, share, BETA)
                        slope = tl.where(share == 0, 0.0, slope)  # No window.
                    total += tl.where(slope != 0, gradient * slope, 0.0)
    if QUICK and BETA == "none":
        total = tl.where(value > 0, total, tl.where(value == value, 0.0, value))
    return total, (least < 0) | (total != total)


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _value_mean_backward_kernel(
    grad_output,
    input,
    beta,
    means,
    largests,
    shares,
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
    BETA: tl.constexpr,
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
    """Send gradients to the activations; each program collects them for the cells of inputs that it writes.

    As `_drawn_scatter_kernel` does. If a window, or what a cell collects, is no number, the tile is done again.
    """
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, ad, ah, block, plane, row_live = rows_and_channels(
        rows, C, depths, heights, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift,
        height_magic, height_shift, channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS,
    )  # fmt: skip
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
    factor = beta_of(beta, channel, C, BETA, wide)
    SD: tl.constexpr = WINDOW[3]
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    values = load_cells(
        input, plane, channel, ad, ah, block, D, H, W, C, row_live, WINDOW, CHANNELS_LAST, PAIRS, ALIGNED
    )
    again = like != like
    totals = ()
    for rd in tl.static_range(SD):
        for rh in tl.static_range(SH):
            for rw in tl.static_range(SW):
                total, odd = _cell_gradient(
                    grad_output, means, largests, shares, values[(rd * SH + rh) * SW + rw].to(wide), factor, plane,
                    channel, ad, ah, block, (OD, OH, OW), C, row_live, like, rd, rh, rw, True, BETA, WINDOW, COVERED,
                    CHANNELS_LAST, OUT_ALIGNED,
                )  # fmt: skip
                totals = totals + (total.to(dtype),)
                again = again | odd
    store_cells(
        grad_input, totals, plane, channel, ad, ah, block, D, H, W, C, row_live, WINDOW, CHANNELS_LAST, PAIRS, ALIGNED
    )
    if tl.max((row_live & again).to(tl.int32)) > 0:
        totals = ()
        for rd in tl.static_range(SD):
            for rh in tl.static_range(SH):
                for rw in tl.static_range(SW):
                    total, odd = _cell_gradient(
                        grad_output, means, largests, shares, values[(rd * SH + rh) * SW + rw].to(wide), factor, plane,
                        channel, ad, ah, block, (OD, OH, OW), C, row_live, like, rd, rh, rw, False, BETA, WINDOW,
                        COVERED, CHANNELS_LAST, OUT_ALIGNED,
                    )  # fmt: skip
                    totals = totals + (total.to(dtype),)
        store_cells(
            grad_input, totals, plane, channel, ad, ah, block, D, H, W, C, row_live, WINDOW, CHANNELS_LAST, PAIRS,
            ALIGNED,
        )  # fmt: skip


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS, "depths", "heights"])
def _value_mean_backward_any_kernel(
    grad_output,
    input,
    beta,
    means,
    largests,
    shares,
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
    BETA: tl.constexpr,
    COVER: tl.constexpr,
    WINDOW: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Send gradients to the activations; each program collects them for the inputs that it writes.

    For windows that are adaptive or too large to unroll.
    """
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, id, ih, block, plane, row_live = rows_and_channels(
        rows, C, depths, heights, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift,
        height_magic, height_shift, channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS,
    )  # fmt: skip
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    if CHANNELS_LAST:
        step, iw, inner = C, block, channel
    else:
        step, iw, inner = 1, block * LANES + tl.arange(0, LANES)[None, :], 0
    live = row_live & (iw < W)
    total = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
    here = (((plane * D + id) * H + ih) * W + iw) * step + inner
    source = plane * (OD * OH * OW) * step + inner
    factor = beta_of(beta, channel, C, BETA, wide)
    value = tl.load(input + here, mask=live, other=0.0).to(wide)
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
                at = source + ((od * OH + oh) * OW + ow) * step
                mean = tl.load(means + at, mask=over, other=0.0)
                largest = tl.load(largests + at, mask=over, other=0.0)
                share = tl.load(shares + at, mask=over, other=0.0)
                slope = slope_of(value, factor, mean, largest, share, BETA)
                takes = over & (slope != 0)
                gradient = tl.load(grad_output + at, mask=takes, other=0.0).to(wide)
                total += tl.where(takes, gradient * slope, 0.0)
    tl.store(grad_input + here, total.to(dtype), mask=live)
