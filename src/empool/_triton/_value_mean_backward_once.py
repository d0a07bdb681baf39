"""`value_mean_backward` for CUDA, of small windows in two dimensions: by one kernel."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated, unreachable"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import apart, load_columns
from empool._triton._load import corner_of, inside
from empool._triton._rank import in_type
from empool._triton._scatter import store_cells
from empool._triton._softmax import scale_of
from empool._triton._tile import DIVISORS, LANES, beside, bounds, index_sizes, lane_exists, rows_and_channels
from empool._triton._value import beta_of, positive_parts
from empool._triton._value_mean import SQUARABLE, one_over, parts_any
from empool._triton._value_mean_backward import slope_of

SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "depths", "heights", "blocks"]
_LEAST, _MOST, _FAR = tl.constexpr(2.0**-90), tl.constexpr(2.0**60), tl.constexpr(16.0)


@triton.jit
def store_odd(
    grad_output, input, grad_input, plane, channel, ad, ah, aw, factor, D, H, W, OH, OW, C, row_live,
    WINDOW: tl.constexpr, HIGH: tl.constexpr, FIRST: tl.constexpr, NUMBER: tl.constexpr, BETA: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, like,
):  # fmt: skip
    """Write the gradient of some cells, whatever their windows hold, where what was written is no number."""
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    step = C if CHANNELS_LAST else 1
    inner = channel if CHANNELS_LAST else 0
    plane_start = plane * (D * H * W) * step + inner
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
            over = live & (oh >= 0) & (oh < OH) & (ow >= 0) & (ow < OW)
            corner = corner_of(input, plane_start, (ad, h, w), (D, H, W), step)
            mean, largest, share = parts_any(
                corner, (ad, h, w), (D, h_end, w_end), (D, H, W), step, over, factor, WINDOW, HIGH, BETA, like
            )
            over = over & (ih >= h) & (ih < h + WINDOW[1]) & (iw >= w) & (iw < w + WINDOW[2])
            slope = slope_of(value, factor, mean, largest, -share, BETA)
            source = (plane * (OH * OW) + oh * OW + ow) * step + inner
            gradient = tl.load(grad_output + source, mask=over, other=0.0).to(like.dtype)
            total += tl.where(over & (slope != 0), gradient * slope, 0.0)
        live = live & ~(tl.abs(tl.load(grad_input + at, mask=live, other=0.0).to(like.dtype)) < float("inf"))
        tl.store(grad_input + at, total.to(grad_input.dtype.element_ty), mask=live)


@triton.jit
def _weights_of(
    columns, scale, shift, h, block, H, W, BEGIN: tl.constexpr, LANES: tl.constexpr, REGION: tl.constexpr,
    HIGH: tl.constexpr,
):  # fmt: skip
    """Return the softmax's weights of columns from BEGIN on, not yet divided; 0 for padding in windows that exist."""
    found = ()
    RH: tl.constexpr = REGION[1]
    for c in tl.static_range(len(columns) // RH):
        iw = block * (LANES * REGION[5]) + (BEGIN + c - REGION[8])
        for r in tl.static_range(RH):
            power = shift
            if r < REGION[7] or HIGH[1]:
                power = tl.where(inside(h + r, H, r < REGION[7], HIGH[1]), power, -float("inf"))
            if BEGIN + c < REGION[8] or HIGH[2]:
                power = tl.where(inside(iw, W, BEGIN + c < REGION[8], HIGH[2]), power, -float("inf"))
            found = found + (tl.exp2(tl.fma(columns[c * RH + r], scale, power)),)
    return found


@triton.jit
def shift_of(columns, scale, BEGIN: tl.constexpr, ROWS: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr):
    """Return what is added to powers so that weights stay in range: nothing, unless the largest one is far from 0.

    It is looked for in a cell of SH by SW positions, as far as it has been read, whose first is BEGIN, in columns of
    so many ROWS.
    """
    largest = columns[BEGIN] * scale
    for r in tl.static_range(1, SH * SW):
        if BEGIN + r // SH * ROWS + r % SH < len(columns):
            largest = tl.maximum(largest, columns[BEGIN + r // SH * ROWS + r % SH] * scale)
    far = (tl.abs(largest) >= _FAR) & (tl.abs(largest) < float("inf"))
    return tl.where(far, -largest, 0.0)


@triton.jit
def sums_of_column(weights, values, FIRST: tl.constexpr, NUMBER: tl.constexpr, STEP: tl.constexpr = 1):
    """Add up so many weights, and their products with values, from FIRST on, downwards or upwards."""
    total = weights[FIRST]
    weighted = weights[FIRST] * values[FIRST]
    for i in tl.static_range(1, NUMBER):
        total += weights[FIRST + STEP * i]
        weighted = tl.fma(weights[FIRST + STEP * i], values[FIRST + STEP * i], weighted)
    return total, weighted


@triton.jit
def terms_of_window(
    total, weighted, gradient, factor, K: tl.constexpr, BETA: tl.constexpr, EXACT: tl.constexpr, PACKED: tl.constexpr
):  # fmt: skip
    """Return what a window sends: to a value v of weight w, the first times v plus the second, by softmax times w.

    Where the sum of the weights may be wrong, or too large, both are NaN; by value, they may be where it is 0.

    EXACT: to return, by softmax, the gradient's share and the mean.
    """
    LEAST: tl.constexpr = 2 * K / SQUARABLE if BETA == "none" else _LEAST
    odd = total < LEAST
    if BETA != "none":  # By value, what is too large is an infinity, and then NaN.
        odd = odd | (total > _MOST)
    share = one_over(tl.where(odd, float("nan"), total), PACKED)
    mean = weighted * share
    if EXACT:
        mean = tl.fma(tl.fma(-mean, total, weighted), share, mean)
    share = gradient * share
    if BETA == "none":
        one = share * 2.0
        other = -(share * mean)
    elif EXACT:
        one = share
        other = mean
    else:
        one = share * factor
        other = tl.fma(-one, mean, share)
    return one, other


@triton.jit
def sent_to(
    value, weight, ones, others, factor, CELL: tl.constexpr, rh: tl.constexpr, rw: tl.constexpr, HEIGHT: tl.constexpr,
    FIRST: tl.constexpr, NUMBER: tl.constexpr, WINDOW: tl.constexpr, BETA: tl.constexpr, EXACT: tl.constexpr, like,
):  # fmt: skip
    """Return the gradient of a value at position (rh, rw) of a cell, by the terms of the windows over it.

    CELL: the row and the column of the first of NUMBER windows, in a tuple of columns of HEIGHT windows.
    """
    one = ()
    other = ()
    NH: tl.constexpr = NUMBER[0]
    NW: tl.constexpr = NUMBER[1]
    for j in tl.static_range(NW):
        column = ()
        its_other = ()
        for i in tl.static_range(NH):
            if (
                rh + WINDOW[7] - (FIRST[0] + i) * WINDOW[4] >= 0
                and rh + WINDOW[7] - (FIRST[0] + i) * WINDOW[4] < WINDOW[1]
                and rw + WINDOW[8] - (FIRST[1] + j) * WINDOW[5] >= 0
                and rw + WINDOW[8] - (FIRST[1] + j) * WINDOW[5] < WINDOW[2]
                and CELL[1] + j >= 0
                and (CELL[1] + j) * HEIGHT < len(ones)
            ):
                its = ones[(CELL[1] + j) * HEIGHT + CELL[0] + i]
                mean = others[(CELL[1] + j) * HEIGHT + CELL[0] + i]
                if EXACT:
                    mean = its * tl.fma(value - mean, factor + like, 1.0 + like)
                column = (its,) if len(column) == 0 else (column[0] + its,)
                its_other = (mean,) if len(its_other) == 0 else (its_other[0] + mean,)
        if len(column) > 0:  # Sums of columns serve neighbours, too.
            one = (column[0],) if len(one) == 0 else (one[0] + column[0],)
            other = (its_other[0],) if len(other) == 0 else (other[0] + its_other[0],)
    total = other[0]
    if not EXACT:
        total = tl.fma(value, one[0], total)
    if BETA == "none":
        total = tl.where(value <= 0, 0.0, total)
    else:
        total *= weight
    return total


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _value_mean_backward_once_kernel(
    grad_output,
    input,
    beta,
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
    HIGH: tl.constexpr,
    REGION: tl.constexpr,
    TALL: tl.constexpr,
    CELLS: tl.constexpr,
    FULL: tl.constexpr,
    FIRST: tl.constexpr,
    NUMBER: tl.constexpr,
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
    """Send gradients to the activations; each program collects them for the cells of inputs that it writes.

    A row of the tile has TALL rows of CELLS, of stride by stride positions. The windows over a cell are NUMBER
    (height, width), from FIRST on, counted from the cell's own. All positions of all windows over a row's cells are
    its REGION, given as a window. It is read once, and sums of its columns serve all windows; by softmax, one shift of
    the powers serves all of them. Where a window holds a NaN or an infinity, or its sum may have left the range, what
    it sends is no number; positions that get this are done again.
    """
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, ad, ah, block, plane, row_live = rows_and_channels(
        rows, C, depths, heights, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift, height_magic,
        height_shift, channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS, NUMBER[0] > 1,
    )  # fmt: skip
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else 1], wide)
    factor = beta_of(beta, channel, C, BETA, wide)
    scale = scale_of(factor)
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    RH: tl.constexpr = REGION[1]
    NW: tl.constexpr = NUMBER[1]
    EXACT: tl.constexpr = BETA != "none" and dtype.primitive_bitwidth > 16
    FULL_H: tl.constexpr = FULL[0]
    FULL_W: tl.constexpr = FULL[1]
    HEIGHT: tl.constexpr = TALL + NUMBER[0] - 1  # Of windows.
    WIDTH: tl.constexpr = CELLS + NUMBER[1] - 1
    step = C if CHANNELS_LAST else 1
    inner = channel if CHANNELS_LAST else 0
    plane_start = plane * (D * H * W) * step + inner
    h, h_end = bounds(ah, H, OH, REGION, 1)
    ah = ah * TALL
    odd = like
    shift = like
    columns = ()
    weights = ()
    sums = ()
    gradients = ()
    ones = ()
    others = ()
    totals = ()
    for ow in tl.static_range(WIDTH):  # The next windows, from the left to the right.
        if CHANNELS_LAST or ow == 0:
            more = in_type(load_columns(
                input, plane_start, (ad, h), (D, h_end), (D, H, W), block, step, row_live, REGION, (False, True, True),
                0 if ow == 0 else (ow - 1) * SW + KW, ow * SW + KW if CHANNELS_LAST else REGION[2], CHUNK, 0.0, ALIGNED,
                PACKED, CELLS, FULL_H, FULL_W,
            ), wide)  # fmt: skip
            if BETA == "none":
                more = positive_parts(more)
                ready = more
            else:
                if ow == 0:
                    shift = shift_of(more, scale, RH * REGION[8] + REGION[7], RH, SH, SW)
                ready = _weights_of(
                    more, scale, shift, h, block, H, W, 0 if ow == 0 else (ow - 1) * SW + KW, CELLS, REGION, HIGH
                )
            columns = columns + more
            weights = weights + ready
            for c in tl.static_range(len(more) // RH):
                for i in tl.static_range(HEIGHT):  # Up and down, so that the product at the turn serves two windows.
                    sums = sums + sums_of_column(
                        ready, more, c * RH + i * SH + (KH - 1 if i % 2 == 0 else 0), KH, -1 if i % 2 == 0 else 1
                    )
        for i in tl.static_range(HEIGHT):
            oh = ah + (FIRST[0] + i)
            exists = row_live & inside(oh, OH, FIRST[0] + i < 0, FULL_H == 0 or FIRST[0] + i >= TALL)
            at = (plane * OH + oh) * OW + (block * CELLS + FIRST[1])
            within = exists & inside(
                block * CELLS + (FIRST[1] + ow), OW, FIRST[1] + ow < 0, FULL_W == 0 or FIRST[1] + ow >= CELLS
            )
            if CHANNELS_LAST:
                gradient = tl.load(grad_output + ((at + ow) * C + channel), mask=within, other=0.0).to(wide)
            elif FIRST[1] != 0 or ow >= LANES:
                gradient = tl.load(grad_output + (at + ow), mask=within, other=0.0).to(wide)
            else:
                if ow == 0:
                    four = tl.multiple_of(at, [OUT_ALIGNED, OUT_ALIGNED]) + tl.arange(0, LANES)[None, :]
                    their = tl.load(grad_output + four, mask=exists & lane_exists(block, OW, OUT_ALIGNED), other=0.0)
                    gradients = gradients + apart(their.to(wide), LANES)
                gradient = gradients[i * LANES + ow]
            total = sums[2 * (ow * SW * HEIGHT + i)]
            weighted = sums[2 * (ow * SW * HEIGHT + i) + 1]
            for c in tl.static_range(1, KW):
                total += sums[2 * ((ow * SW + c) * HEIGHT + i)]
                weighted += sums[2 * ((ow * SW + c) * HEIGHT + i) + 1]
            if BETA != "none" and (
                FULL_H * FULL_W == 0
                or FIRST[0] + i < 0
                or FIRST[0] + i >= TALL
                or FIRST[1] + ow < 0
                or FIRST[1] + ow >= CELLS
            ):
                total = tl.where(within, total, 1.0)
            one, other = terms_of_window(total, weighted, gradient, factor, KH * KW, BETA, EXACT, PACKED)
            ones = ones + (one,)
            others = others + (other,)
        if ow >= NW - 1:  # All windows over a column of cells are known.
            for r in tl.static_range(TALL * SH):
                for rw in tl.static_range(SW):
                    total = sent_to(
                        columns[((ow - (NW - 1)) * SW + rw + REGION[8]) * RH + r + REGION[7]],
                        weights[((ow - (NW - 1)) * SW + rw + REGION[8]) * RH + r + REGION[7]], ones, others, factor,
                        (r // SH, ow - (NW - 1)), r % SH, rw, HEIGHT, FIRST, NUMBER, WINDOW, BETA, EXACT, like,
                    )  # fmt: skip
                    odd = tl.fma(total, like, odd)
                    totals = totals + (total.to(dtype),)
                    if CHANNELS_LAST:
                        ih = ah * SH + r
                        iw = block * (CELLS * SW) + ((ow - (NW - 1)) * SW + rw)
                        at = plane_start + ((ad * H + ih) * W + iw) * step
                        live = row_live & inside(ih, H, False, FULL_H == 0) & inside(iw, W, False, FULL_W == 0)
                        tl.store(grad_input + at, total.to(dtype), mask=live)
    if not CHANNELS_LAST:
        for y in tl.static_range(TALL):
            cells = ()
            for r in tl.static_range(SH * SW):
                lanes = ()
                for lane in tl.static_range(LANES):
                    lanes = lanes + (totals[(lane * TALL + y) * SH * SW + r],)
                cells = cells + (beside(lanes),)
            live = row_live & inside((ah + y) * SH, H, False, y > 0 and FULL_H == 0)
            store_cells(
                grad_input, cells, plane, channel, ad, ah + y, block, D, H, W, C, live, WINDOW, CHANNELS_LAST, PAIRS,
                ALIGNED,
            )  # fmt: skip
    again = row_live & (odd != odd)
    if tl.max(again.to(tl.int32)) > 0:
        tl.debug_barrier()  # What other threads have written is read.
        for each in range(TALL * CELLS):
            store_odd(
                grad_output, input, grad_input, plane, channel, ad, ah + each // CELLS,
                block * CELLS + each % CELLS, factor, D, H, W, OH, OW, C, again, WINDOW, HIGH, FIRST, NUMBER,
                BETA, CHANNELS_LAST, like,
            )  # fmt: skip
