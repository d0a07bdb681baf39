"""`rank_mean_backward` for CUDA."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import load_columns, window_of
from empool._triton._load import activation, corner_of, load_window
from empool._triton._rank import places, two_largest
from empool._triton._scatter import load_windows, store_cells, window_of_cell
from empool._triton._table import entry, row_of, rows_of, set_of
from empool._triton._tile import (
    DIVISORS,
    LANES,
    beside,
    bounds,
    first_window,
    index_sizes,
    moved,
    offset_in,
    outputs_of_lane,
    rows_and_channels,
    side_by_side,
)

_PLUS_IF_EQUAL = tl.constexpr(
    "{ .reg .pred equal; setp.eq.s32 equal, $3, $4; mov.b32 $0, $1; @equal add.rn.f32 $0, $1, $2; }"
)
SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "blocks"]


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _rank_places_kernel(
    input,
    codes,
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
    SECOND: tl.constexpr,
    LEAST: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    CHECKED: tl.constexpr,
    READ: tl.constexpr,
    CHUNK: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    FLAT: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Write where the largest activation of every window lies, and the SECOND largest: four bits each, 15 for none.

    If the largest is a NaN, both are where it is.
    """
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, od, oh, block, plane, row_live = rows_and_channels(
        rows, C, OD, OH, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift, height_magic, height_shift,
        channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS, WINDOW[1] > WINDOW[4],
    )  # fmt: skip
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    step = C if CHANNELS_LAST else 1
    plane_start = plane * (D * H * W) * step + (channel if CHANNELS_LAST else 0)
    line_start = (plane * (OD * OH) + place) * OW
    d, d_end = bounds(od, D, OD, WINDOW, 0)
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    size = (D, H, W)
    SIDE: tl.constexpr = not CHANNELS_LAST and READ == 0
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else (LANES if SIDE else 1)], wide)
    columns = ()
    found = ()
    for lane in tl.static_range(1 if SIDE else 4):
        ow, live, at = outputs_of_lane(lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, SIDE, ALIGNED)
        w, w_end = bounds(ow, W, OW, WINDOW, 2)
        start = (d, h, w)
        ends = (d_end, h_end, w_end)
        if READ == 0:
            values = load_window(input, plane_start, start, ends, size, step, live, WINDOW, HIGH, wide)
        else:
            if CHANNELS_LAST or lane == 0:
                more = load_columns(
                    input, plane_start, start, ends, size, block, step, row_live, WINDOW, HIGH,
                    0 if lane == 0 else (lane - 1) * WINDOW[5] + WINDOW[2],
                    lane * WINDOW[5] + WINDOW[2] if CHANNELS_LAST else READ, CHUNK, -float("inf"), ALIGNED,
                )  # fmt: skip
                columns = columns + more
            values = window_of(columns, lane, WINDOW, wide)
        first_at, second_at, tall, wide_w = places(start, ends, lane, SIDE, WINDOW, HIGH, LEAST, CHECKED)
        first, first_at, second, second_at = two_largest(values, first_at, second_at, K, SECOND, CHECKED, like)
        code = (first_at & 15) | ((second_at & 15) << 4 if SECOND else 240)
        code = tl.where(first != first, first_at * 17, code).to(codes.dtype.element_ty)
        if CHANNELS_LAST:  # A lane after another, so that registers hold few columns.
            tl.store(codes + at, code, mask=live)
        else:
            found = found + (code,)
    if not CHANNELS_LAST:
        none, live, at = outputs_of_lane(0, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, True, ALIGNED)
        code = found[0] if SIDE else beside(found)
        if FLAT:
            at, source, live = side_by_side(rows, BLOCK, FLAT)
            code = moved(code.to(tl.int32), source).to(codes.dtype.element_ty)
        tl.store(codes + at, code, mask=live)


@triton.jit
def _plus_if_equal(total, value, place, k: tl.constexpr, PACKED: tl.constexpr):
    """Add a value where a place is k: by a sum under a condition, of which a GPU has twice as many as choices."""
    if PACKED and total.dtype == tl.float32:
        result = tl.inline_asm_elementwise(
            _PLUS_IF_EQUAL, "=f,f,f,r,r", [total, value, place, tl.full([1, 1], k, tl.int32)],
            dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        result = tl.where(place == k, total + value, total)
    return result


@triton.jit
def _window_gradients(
    grad_output, codes, table, plane, channel, ad, ah, block, size, outputs, C, row_live, like, back_d: tl.constexpr,
    back_h: tl.constexpr, back: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, COUNTS: tl.constexpr,
    SIDES: tl.constexpr, WIDTHS: tl.constexpr, LEAST: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr,
    CHECKED: tl.constexpr, COVERED: tl.constexpr, CHANNELS_LAST: tl.constexpr, OUT_ALIGNED: tl.constexpr,
):  # fmt: skip
    """Return the code of the window so many places before each cell's own, and what it sends to its two activations."""
    od, oh, ow, line, exists = window_of_cell(
        plane, ad, ah, block, outputs, row_live, back_d, back_h, back, COVERED, CHANNELS_LAST
    )
    code = load_windows(
        codes, line, ow, block, channel, outputs[2], C, exists, 255, back, CHANNELS_LAST, OUT_ALIGNED
    ).to(tl.int32)  # fmt: skip
    gradient = load_windows(
        grad_output, line, ow, block, channel, outputs[2], C, exists, 0.0, back, CHANNELS_LAST, OUT_ALIGNED
    ).to(like.dtype)  # fmt: skip
    d, d_end = bounds(od, size[0], outputs[0], WINDOW, 0)
    h, h_end = bounds(oh, size[1], outputs[1], WINDOW, 1)
    w, w_end = bounds(ow, size[2], outputs[2], WINDOW, 2)
    none, none_at, tall, wide_w = places((d, h, w), (d_end, h_end, w_end), 0, True, WINDOW, HIGH, LEAST, CHECKED)
    rows = rows_of(table, tall, wide_w, ROWS, COUNTS, COLUMNS, SIDES, WIDTHS)
    weight = entry(rows, wide_w, 0, like.dtype, SIDES, COUNTS, WIDTHS)
    first = tl.where(weight != 0, gradient * weight, 0.0)
    alone = (code & 15) == (code >> 4)
    first = tl.where(alone, gradient, first)
    second = first
    if COLUMNS > 1:
        weight = entry(rows, wide_w, 1, like.dtype, SIDES, COUNTS, WIDTHS)
        second = tl.where(weight != 0, gradient * weight, 0.0)
        second = tl.where(alone, 0.0, second)
    return code, first, second


@triton.jit
def _cell_gradient(
    grad_output,
    codes,
    table,
    plane,
    channel,
    ad,
    ah,
    block,
    size,
    outputs,
    C,
    row_live,
    like,
    rd: tl.constexpr,
    rh: tl.constexpr,
    rw: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    COUNTS: tl.constexpr,
    SIDES: tl.constexpr,
    WIDTHS: tl.constexpr,
    LEAST: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    CHECKED: tl.constexpr,
    COVERED: tl.constexpr,
    PACKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    OUT_ALIGNED: tl.constexpr,
):
    """Add up what the windows over position (rd, rh, rw) of every cell send there: see `_drawn_scatter_kernel`."""
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
                    code, first, second = _window_gradients(
                        grad_output, codes, table, plane, channel, ad, ah, block, size, outputs, C, row_live, like,
                        (kd * WINDOW[9] - WINDOW[6] - rd) // WINDOW[3],
                        (kh * WINDOW[10] - WINDOW[7] - rh) // WINDOW[4],
                        (kw * WINDOW[11] - WINDOW[8] - rw) // WINDOW[5],
                        COLUMNS, ROWS, COUNTS, SIDES, WIDTHS, LEAST, WINDOW, HIGH, CHECKED, COVERED, CHANNELS_LAST,
                        OUT_ALIGNED,
                    )  # fmt: skip
                    total = _plus_if_equal(total, first, code & 15, (kd * KH + kh) * KW + kw, PACKED)
                    if COLUMNS > 1:
                        total = _plus_if_equal(total, second, code >> 4, (kd * KH + kh) * KW + kw, PACKED)
    return total


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS, "depths", "heights"])
def _rank_mean_backward_kernel(
    grad_output,
    codes,
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
    SIDES: tl.constexpr,
    WIDTHS: tl.constexpr,
    LEAST: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    CHECKED: tl.constexpr,
    COVERED: tl.constexpr,
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
    """Share gradients among the two largest activations, where `_rank_places_kernel` found them.

    Each program collects them for the cells of inputs that it writes, as `_drawn_scatter_kernel` does.
    """
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, ad, ah, block, plane, row_live = rows_and_channels(
        rows, C, depths, heights, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift,
        height_magic, height_shift, channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS,
    )  # fmt: skip
    dtype: tl.constexpr = grad_input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
    table = set_of(weights, tl.minimum(channel, C - 1), COLUMNS, TABLE_ROWS, SETS)
    totals = ()
    SD: tl.constexpr = WINDOW[3]
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    for rd in tl.static_range(SD):
        for rh in tl.static_range(SH):
            for rw in tl.static_range(SW):
                total = _cell_gradient(
                    grad_output, codes, table, plane, channel, ad, ah, block, (D, H, W), (OD, OH, OW), C, row_live,
                    like, rd, rh, rw, COLUMNS, ROWS, COUNTS, SIDES, WIDTHS, LEAST, WINDOW, HIGH, CHECKED, COVERED,
                    PACKED, CHANNELS_LAST, OUT_ALIGNED,
                )  # fmt: skip
                totals = totals + (total.to(dtype),)
    store_cells(
        grad_input, totals, plane, channel, ad, ah, block, D, H, W, C, row_live, WINDOW, CHANNELS_LAST, PAIRS, ALIGNED
    )


@triton.jit
def _share(
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
                share = _share(
                    corner, start, ends, size, step, over, value, k, table, ROWS, COUNTS, COLUMNS, WINDOW, HIGH, like
                )
                takes = over & (share != 0)
                at = source + ((od * OH + oh) * OW + ow) * step
                gradient = tl.load(grad_output + at, mask=takes, other=0.0).to(wide)
                total += tl.where(takes, gradient * share, 0.0)
    tl.store(grad_input + here, total.to(dtype), mask=live)
