"""`rank_mean_backward` for CUDA, of whatever windows there are: each input counts what comes before it in each."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF059

import triton
import triton.language as tl

from empool._triton._load import activation, corner_of
from empool._triton._table import row_of, set_of
from empool._triton._tile import (
    DIVISORS,
    LANES,
    bounds,
    first_window,
    index_sizes,
    offset_in,
    rows_and_channels,
)

SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "blocks"]


@triton.jit
def share_of(
    corner, start, ends, size, step, live, value, k, table, ROWS: tl.constexpr, COUNTS: tl.constexpr,
    COLUMNS: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr, like,
):  # fmt: skip
    """Return the weight that the activation at position k of every window has in the window's mean."""
    rank = like.to(tl.int32)
    count = rank
    nan_at = rank - 1
    for kd in range(WINDOW[0]):
        for kh in range(WINDOW[1]):
            for kw in range(WINDOW[2]):
                other, valid = activation(corner, start, ends, size, step, live, kd, kh, kw, WINDOW, HIGH)
                other = other.to(like.dtype)
                other_at = (kd * WINDOW[1] + kh) * WINDOW[2] + kw
                ahead = valid & ((other > value) | ((other == value) & (other_at < k)))
                rank += ahead.to(tl.int32)
                count += valid.to(tl.int32)
                nan_at = tl.where(other != other, other_at, nan_at)
    row = row_of(table, count, ROWS, COUNTS, COLUMNS)
    weight = tl.load(row + rank, mask=rank < COLUMNS, other=0.0).to(like.dtype)
    return tl.where(nan_at < 0, weight, tl.where(nan_at == k, 1.0, 0.0).to(like.dtype))


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS, "depths", "heights"])
def _rank_mean_backward_any_kernel(
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
    COVER: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Share gradients among all ranked activations; each program collects them for the inputs that it writes.

    Every input looks up its rank in each of the windows over it by counting what comes before it.
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
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
    total = like
    size = (D, H, W)
    plane_start = plane * (D * H * W) * step + inner
    source = plane * (OD * OH * OW) * step + inner
    here = plane_start + ((id * H + ih) * W + iw) * step
    table = set_of(weights, tl.minimum(channel, C - 1), COLUMNS, TABLE_ROWS, SETS)
    value = tl.load(input + here, mask=live, other=0.0).to(wide)
    for i in range(COVER[0]):
        od = first_window(id, D, OD, WINDOW, 0) + i
        kd, over_d = offset_in(od, id, D, OD, WINDOW, 0)
        d, d_end = bounds(od, D, OD, WINDOW, 0)
        for j in range(COVER[1]):
            oh = first_window(ih, H, OH, WINDOW, 1) + j
            kh, over_h = offset_in(oh, ih, H, OH, WINDOW, 1)
            h, h_end = bounds(oh, H, OH, WINDOW, 1)
            for m in range(COVER[2]):
                ow = first_window(iw, W, OW, WINDOW, 2) + m
                kw, over_w = offset_in(ow, iw, W, OW, WINDOW, 2)
                w, w_end = bounds(ow, W, OW, WINDOW, 2)
                start = (d, h, w)
                ends = (d_end, h_end, w_end)
                over = live & over_d & over_h & over_w
                k = (kd * WINDOW[1] + kh) * WINDOW[2] + kw
                corner = corner_of(input, plane_start, start, size, step)
                share = share_of(
                    corner, start, ends, size, step, over, value, k, table, ROWS, COUNTS, COLUMNS, WINDOW, HIGH, like
                )
                takes = over & (share != 0)
                at = source + ((od * OH + oh) * OW + ow) * step
                gradient = tl.load(grad_output + at, mask=takes, other=0.0).to(wide)
                total += tl.where(takes, gradient * share, 0.0)
    tl.store(grad_input + here, total.to(dtype), mask=live)
