"""`value_mean_backward` for CUDA, of small windows in two dimensions: by one kernel."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import apart, load_columns
from empool._triton._load import activation, corner_of, inside
from empool._triton._rank import in_type
from empool._triton._scatter import store_cells
from empool._triton._softmax import scale_of
from empool._triton._tile import DIVISORS, LANES, beside, bounds, index_sizes, lane_exists, rows_and_channels
from empool._triton._value import beta_of, largest_score, positive_parts
from empool._triton._value_mean import one_over, weight_of
from empool._triton._value_mean_backward import slope_of

SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "depths", "heights", "blocks"]
_SQUARABLE, _TINY = tl.constexpr(2.0**50), tl.constexpr(2.0**-90)


@triton.jit
def _parts_any(
    input, plane_start, start, ends, size, step, live, factor, WINDOW: tl.constexpr, HIGH: tl.constexpr,
    BETA: tl.constexpr, like,
):  # fmt: skip
    """Return the mean of every window, its largest score and one over the sum of its weights, whatever it holds."""
    corner = corner_of(input, plane_start, start, size, step)
    largest, nan_at = largest_score(corner, start, ends, size, step, live, factor, WINDOW, HIGH, like, BETA)
    largest = tl.where(nan_at >= 0, float("nan"), largest)
    total = like
    weighted = like
    scale = like + 512.0
    if BETA == "none":
        extreme = (largest > _SQUARABLE) | ((largest > 0) & (largest < 1 / _SQUARABLE))
        scale = tl.where(extreme, largest, 1.0)
    for kh in range(WINDOW[1]):
        for kw in range(WINDOW[2]):
            value, valid = activation(corner, start, ends, size, step, live, 0, kh, kw, WINDOW, HIGH)
            value, weight = weight_of(value.to(like.dtype), factor, largest, BETA)
            weight = tl.where(valid, weight, 0.0)
            total += weight
            weighted += tl.where(weight == 0, 0.0, weight * (weight if BETA == "none" else value / scale))
    share = 1.0 / tl.where(total == 0, 1.0, total)
    return weighted * share * scale, largest, share


@triton.jit
def _store_any(
    grad_output, input, grad_input, plane, channel, ad, ah, block, lane, factor, D, H, W, OH, OW, C, row_live,
    WINDOW: tl.constexpr, HIGH: tl.constexpr, FIRST: tl.constexpr, NUMBER: tl.constexpr, BETA: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, like,
):  # fmt: skip
    """Write the gradient of a lane's cells, whatever their windows hold: seldom."""
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    step = C if CHANNELS_LAST else 1
    inner = channel if CHANNELS_LAST else 0
    plane_start = plane * (D * H * W) * step + inner
    aw = block * LANES + lane
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
            mean, largest, share = _parts_any(
                input, plane_start, (ad, h, w), (D, h_end, w_end), (D, H, W), step, over, factor, WINDOW, HIGH, BETA,
                like,
            )  # fmt: skip
            over = over & (ih >= h) & (ih < h + WINDOW[1]) & (iw >= w) & (iw < w + WINDOW[2])
            slope = slope_of(value, factor, mean, largest, -share, BETA)
            source = (plane * (OH * OW) + oh * OW + ow) * step + inner
            gradient = tl.load(grad_output + source, mask=over, other=0.0).to(like.dtype)
            total += tl.where(over & (slope != 0), gradient * slope, 0.0)
        tl.store(grad_input + at, total.to(grad_input.dtype.element_ty), mask=live)


@triton.jit
def _apart_from(values, origin):
    """Return how far values are from one of them: means of such numbers are more exact."""
    found = ()
    for k in tl.static_range(len(values)):
        found = found + (values[k] - origin,)
    return found


@triton.jit
def _weights_of(
    columns, scale, shift, h, block, H, W, BEGIN: tl.constexpr, REGION: tl.constexpr, HIGH: tl.constexpr
):  # fmt: skip
    """Return the softmax's weights of columns from BEGIN on, not yet divided; 0 for padding in windows that exist."""
    found = ()
    RH: tl.constexpr = REGION[1]
    for c in tl.static_range(len(columns) // RH):
        iw = block * (LANES * REGION[5]) + (BEGIN + c - REGION[8])
        for r in tl.static_range(RH):
            weight = tl.exp2(tl.fma(columns[c * RH + r], scale, shift))
            if r < REGION[7]:
                weight = tl.where(h + r >= 0, weight, 0.0)
            if HIGH[1]:
                weight = tl.where(h + r < H, weight, 0.0)
            if BEGIN + c < REGION[8]:
                weight = tl.where(iw >= 0, weight, 0.0)
            if HIGH[2]:
                weight = tl.where(iw < W, weight, 0.0)
            found = found + (weight,)
    return found


@triton.jit
def _sums(ones, others, FIRST: tl.constexpr, NUMBER: tl.constexpr):
    """Add up so many of `ones`, and of their products with `others`, from FIRST on."""
    total = ones[FIRST]
    weighted = ones[FIRST] * others[FIRST]
    for k in tl.static_range(1, NUMBER):
        total += ones[FIRST + k]
        weighted = tl.fma(ones[FIRST + k], others[FIRST + k], weighted)
    return total, weighted


@triton.jit
def _cell_gradient(
    value, factor, shares, means, lane: tl.constexpr, rh: tl.constexpr, rw: tl.constexpr, WINDOW: tl.constexpr,
    FIRST: tl.constexpr, NUMBER: tl.constexpr, BETA: tl.constexpr, ROUGH: tl.constexpr, like,
):  # fmt: skip
    """Add up what the windows over position (rh, rw) of a lane's cell send to the value there, for a weight of 1.

    ROUGH: by softmax, `means` are 1 minus beta times the mean, which suffices for a half type.
    """
    total = like
    NH: tl.constexpr = NUMBER[0]
    NW: tl.constexpr = NUMBER[1]
    for j in tl.static_range(NW):
        for i in tl.static_range(NH):
            if (
                rh + WINDOW[7] - (FIRST[0] + i) * WINDOW[4] >= 0
                and rh + WINDOW[7] - (FIRST[0] + i) * WINDOW[4] < WINDOW[1]
                and rw + WINDOW[8] - (FIRST[1] + j) * WINDOW[5] >= 0
                and rw + WINDOW[8] - (FIRST[1] + j) * WINDOW[5] < WINDOW[2]
            ):
                mean = means[(lane + j) * NH + i]
                if BETA == "none":
                    slope = tl.fma(value, 2.0 + like, -mean)
                elif ROUGH:
                    slope = tl.fma(value, factor + like, mean)
                else:
                    slope = tl.fma(value - mean, factor + like, 1.0 + like)
                total = tl.fma(shares[(lane + j) * NH + i], slope, total)
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

    A row of the tile has `LANES` neighbouring cells of stride by stride positions. The windows over a cell are NUMBER
    (height, width), from FIRST on, counted from the cell's own. All positions of all windows over a row's cells are
    its REGION, given as a window. It is read once, and sums of its columns serve all windows; by softmax, one shift of
    the powers serves all of them. Where a window holds a NaN or an infinity, or its sum may have left the range, the
    rows concerned are done again.
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
    K: tl.constexpr = WINDOW[1] * WINDOW[2]
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    RH: tl.constexpr = REGION[1]
    NH: tl.constexpr = NUMBER[0]
    NW: tl.constexpr = NUMBER[1]
    ROUGH: tl.constexpr = dtype.primitive_bitwidth == 16
    step = C if CHANNELS_LAST else 1
    inner = channel if CHANNELS_LAST else 0
    plane_start = plane * (D * H * W) * step + inner
    h, h_end = bounds(ah, H, OH, REGION, 1)
    odd = like
    lowest = like + 1.0
    origin = like
    shift = like
    columns = ()
    weights = ()
    sums = ()
    gradients = ()
    means = ()
    shares = ()
    totals = ()
    for ow in tl.static_range(LANES + NW - 1):  # The next windows, from the left to the right.
        if CHANNELS_LAST or ow == 0:
            more = in_type(load_columns(
                input, plane_start, (ad, h), (D, h_end), (D, H, W), block, step, row_live, REGION, (False, True, True),
                0 if ow == 0 else (ow - 1) * SW + KW, ow * SW + KW if CHANNELS_LAST else REGION[2], CHUNK, 0.0, ALIGNED,
                PACKED,
            ), wide)  # fmt: skip
            if BETA == "none":
                more = positive_parts(more)
                ready = more
            else:
                if ow == 0:  # Where powers begin: so a weight of the region is 1, and others are not far away.
                    origin = more[RH * REGION[8] + REGION[7]]
                    for lane in tl.static_range(1, LANES):
                        if CHANNELS_LAST:
                            iw = block * (LANES * SW) + lane * SW
                            at = plane_start + ((ad * H + ah * SH) * W + iw) * step
                            one = tl.load(input + at, mask=row_live & (iw < W), other=0.0).to(wide)
                        else:
                            one = more[RH * (REGION[8] + lane * SW) + REGION[7]]
                        origin = tl.where((one - origin) * scale > 0, one, origin)
                    shift = like
                    if ROUGH:
                        shift = -(origin * scale)
                if not ROUGH:
                    more = _apart_from(more, origin)
                ready = _weights_of(
                    more, scale, shift, h, block, H, W, 0 if ow == 0 else (ow - 1) * SW + KW, REGION, HIGH
                )
            columns = columns + more
            weights = weights + ready
            for c in tl.static_range(len(more) // RH):
                for i in tl.static_range(NH):
                    sums = sums + _sums(ready, more, c * RH + i * SH, KH)
        for i in tl.static_range(NH):
            oh = ah + (FIRST[0] + i)
            exists = row_live & inside(oh, OH, FIRST[0] + i < 0, True)
            at = (plane * OH + oh) * OW + (block * LANES + FIRST[1])
            within = exists & inside(block * LANES + (FIRST[1] + ow), OW, FIRST[1] + ow < 0, True)
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
            total = sums[2 * (ow * SW * NH + i)]
            weighted = sums[2 * (ow * SW * NH + i) + 1]
            for c in tl.static_range(1, KW):
                total += sums[2 * ((ow * SW + c) * NH + i)]
                weighted += sums[2 * ((ow * SW + c) * NH + i) + 1]
            total = tl.where(total != 0 if BETA == "none" else within, total, 1.0)
            lowest = tl.minimum(lowest, total)
            share = one_over(total, PACKED)
            mean = weighted * share
            if not ROUGH:
                mean = tl.fma(tl.fma(-mean, total, weighted), share, mean)
            elif BETA != "none":
                mean = tl.fma(mean, -factor + like, 1.0 + like)
            means = means + (mean,)
            shares = shares + (gradient * share,)
        if ow >= NW - 1:  # All windows over a lane's cells are known.
            for rh in tl.static_range(SH):
                for rw in tl.static_range(SW):
                    value = columns[((ow - (NW - 1)) * SW + rw + REGION[8]) * RH + rh + REGION[7]]
                    total = _cell_gradient(
                        value, factor, shares, means, ow - (NW - 1), rh, rw, WINDOW, FIRST, NUMBER, BETA, ROUGH, like
                    )
                    if BETA != "none":
                        total *= weights[((ow - (NW - 1)) * SW + rw + REGION[8]) * RH + rh + REGION[7]]
                    odd = tl.fma(total, like, odd)
                    if BETA == "none":
                        total = tl.where(value > 0, total, 0.0)
                    totals = totals + (total.to(dtype),)
                    if CHANNELS_LAST:
                        ih = ah * SH + rh
                        iw = block * (LANES * SW) + ((ow - (NW - 1)) * SW + rw)
                        at = plane_start + ((ad * H + ih) * W + iw) * step
                        tl.store(grad_input + at, total.to(dtype), mask=row_live & (ih < H) & (iw < W))
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
    # What leaves the range above is an infinity, and then NaN.
    again = row_live & ((odd != odd) | (lowest < (2 * K / _SQUARABLE if BETA == "none" else _TINY)))
    if tl.max(again.to(tl.int32)) > 0:
        for turn in range(LANES):
            _store_any(
                grad_output, input, grad_input, plane, channel, ad, ah, block, turn, factor, D, H, W, OH, OW, C,
                again, WINDOW, HIGH, FIRST, NUMBER, BETA, CHANNELS_LAST, like,
            )  # fmt: skip
