"""`rank_mean` and its backward for CUDA."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF059

import triton
import triton.language as tl

from empool._triton._rank import largest, ranked_after, two_largest
from empool._triton._scatter import first_window
from empool._triton._tile import (
    DIVISORS,
    LANES,
    activation,
    index_sizes,
    load_window,
    outputs_of_lane,
    rows_and_channels,
)

SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "blocks"]


@triton.jit(do_not_specialize=["columns", *SIZES, *DIVISORS])
def _rank_mean_kernel(
    input,
    weights,
    table_rows,
    output,
    columns,
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
    """Average the ranked activations of every window with the weights of the table's row.

    METHOD "first": the maximum, copied. "second": two weights, both activations found in one pass.
    "any": the activations are selected one after another, each in a pass over the window.
    """
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
    d = od * WINDOW[3] - WINDOW[6]
    h = oh * WINDOW[4] - WINDOW[7]
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    for lane in tl.static_range(4 if CHANNELS_LAST else 1):
        ow, live, at = outputs_of_lane(lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, ALIGNED)
        w = ow * WINDOW[5] - WINDOW[8]
        like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
        if METHOD == "any":
            corner = input + (plane_start + ((d * H + h) * W + w) * step)
            value, position, count, nan_at = largest(corner, d, h, w, D, H, W, step, live, WINDOW, HIGH, like)
            table_row = weights + tl.load(table_rows + count) * columns
            weight = tl.load(table_row)
            mean = like + tl.where(weight > 0, weight * value, 0.0)
            column = 1
            while column < columns:  # Not a range: with a NumPy of today the interpreter cannot take its end.
                value, position = ranked_after(
                    corner, d, h, w, D, H, W, step, live, value, position, WINDOW, HIGH, like
                )
                weight = tl.load(table_row + column)
                mean += tl.where(weight > 0, weight * value, 0.0)
                column += 1
            mean = tl.where(count > 0, mean, -float("inf"))
        else:
            values, valids = load_window(
                input, plane_start, d, h, w, block, D, H, W, step, row_live, live, WINDOW, HIGH, PAIRS, wide
            )
            mean, first_at, second, second_at, nan_at = two_largest(
                values, valids, K, METHOD == "second", CHECKED, like
            )
            if METHOD == "second":
                if CHECKED:
                    count = like.to(tl.int32)
                    for k in tl.static_range(K):
                        count += valids[k].to(tl.int32)
                    table_row = weights + tl.load(table_rows + count) * columns
                else:
                    table_row = weights
                weight = tl.load(table_row)
                first = mean
                mean = like + tl.where(weight > 0, weight * first, 0.0)
                weight = tl.load(table_row + 1)
                mean += tl.where(weight > 0, weight * second, 0.0)
                mean = tl.where(first_at >= 0, mean, -float("inf"))
        nan = tl.full([1, 1], float("nan"), tl.float32).to(dtype)
        tl.store(output + at, tl.where(nan_at >= 0, nan, mean.to(dtype)), mask=live)


@triton.jit
def _share(
    corner,
    d,
    h,
    w,
    D,
    H,
    W,
    step,
    live,
    value,
    k,
    weights,
    table_rows,
    columns,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    like,
):
    """Return the weight that the activation at position k of every window has in the window's mean."""
    KD: tl.constexpr = WINDOW[0]
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    rank = like.to(tl.int32)
    count = rank
    nan_at = rank - 1
    for kd in range(KD):
        for kh in range(KH):
            for kw in range(KW):
                other, valid = activation(corner, d, h, w, kd, kh, kw, D, H, W, step, live, WINDOW, HIGH)
                other = other.to(like.dtype)
                other_at = (kd * KH + kh) * KW + kw
                before = valid & ((other > value) | ((other == value) & (other_at < k)))
                rank += before.to(tl.int32)
                count += valid.to(tl.int32)
                nan_at = tl.where(other != other, other_at, nan_at)
    row = tl.load(table_rows + count)
    weight = tl.load(weights + row * columns + rank, mask=rank < columns, other=0.0)
    return tl.where(nan_at < 0, weight, tl.where(nan_at == k, 1.0, 0.0).to(like.dtype))


@triton.jit(do_not_specialize=["columns", *SIZES, *DIVISORS, "depths", "heights"])
def _rank_mean_backward_kernel(
    grad_output,
    input,
    weights,
    table_rows,
    grad_input,
    columns,
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
    MAXIMUM: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Share gradients among the ranked activations; each program collects them for the inputs that it writes.

    Every input looks up its rank in each of the windows over it by counting what comes before it. For the MAXIMUM
    the sum is rounded to the tensor's type after every addition.
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
    plane_start = plane * (D * H * W) * step + inner
    here = plane_start + ((id * H + ih) * W + iw) * step
    value = tl.load(input + here, mask=live, other=0.0).to(wide)
    for i in range((WINDOW[0] - 1) * WINDOW[9] // WINDOW[3] + 1):
        od = first_window(id, WINDOW[0], WINDOW[3], WINDOW[6], WINDOW[9]) + i
        d = od * WINDOW[3] - WINDOW[6]
        over_d = (id >= d) & ((id - d) % WINDOW[9] == 0) & (od < OD)
        for j in range((WINDOW[1] - 1) * WINDOW[10] // WINDOW[4] + 1):
            oh = first_window(ih, WINDOW[1], WINDOW[4], WINDOW[7], WINDOW[10]) + j
            h = oh * WINDOW[4] - WINDOW[7]
            over_h = (ih >= h) & ((ih - h) % WINDOW[10] == 0) & (oh < OH) & over_d
            for m in range((WINDOW[2] - 1) * WINDOW[11] // WINDOW[5] + 1):
                ow = first_window(iw, WINDOW[2], WINDOW[5], WINDOW[8], WINDOW[11]) + m
                w = ow * WINDOW[5] - WINDOW[8]
                over = live & (iw >= w) & ((iw - w) % WINDOW[11] == 0) & (ow < OW) & over_h
                k = ((id - d) // WINDOW[9] * WINDOW[1] + (ih - h) // WINDOW[10]) * WINDOW[2] + (iw - w) // WINDOW[11]
                corner = input + (plane_start + ((d * H + h) * W + w) * step)
                share = _share(
                    corner, d, h, w, D, H, W, step, over, value, k, weights, table_rows, columns, WINDOW, HIGH, like
                )
                at = (((plane * OD + od) * OH + oh) * OW + ow) * step + inner
                takes = over & (share > 0)
                gradient = tl.load(grad_output + at, mask=takes, other=0.0).to(wide)
                total += tl.where(takes, gradient * share, 0.0)
                if MAXIMUM:
                    total = total.to(dtype).to(wide)
    tl.store(grad_input + here, total.to(dtype), mask=live)
