"""`rank_mean_backward` for CUDA, from what `empool._triton._places` found."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._load import activation, corner_of
from empool._triton._places import SIZES, with_last_rank
from empool._triton._rank import places
from empool._triton._scatter import load_windows, store_cells, window_of_cell
from empool._triton._sent import plus_sent, sent
from empool._triton._table import entry, row_of, rows_of, set_of
from empool._triton._tile import (
    DIVISORS,
    LANES,
    after,
    before,
    beside,
    bounds,
    first_window,
    index_sizes,
    offset_in,
    rows_and_channels,
)

_PLUS = tl.constexpr(
    "{ .reg .pred some; .reg .b32 rank; .reg .b64 at; .reg .f32 weight, part; mul.lo.u32 rank, $2, $3;"
    " shr.u32 rank, rank, 28; mad.wide.u32 at, rank, 4, $4; ld.global.nc.f32 weight, [at]; mul.rn.f32 part, $5, weight;"
    " mov.f32 $0, $1; setp.neu.f32 some, weight, 0f00000000; @some add.rn.f32 $0, $0, part; }"
)


@triton.jit
def _plus_sent_to_rank(total, code, row, gradient, k: tl.constexpr, PACKED: tl.constexpr):
    """Add what windows send to whose rank is the code's k-th; a weight of 0 takes no part."""
    if PACKED and total.dtype == tl.float32:  # Its loads go through no other threads, as Triton's of a tile might.
        total = tl.inline_asm_elementwise(
            _PLUS, "=&f,f,r,r,l,f",
            [total, code.to(tl.int32), tl.full([1, 1], 1 << (28 - 4 * k), tl.int32), row.to(tl.int64), gradient],
            dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        weight = tl.load(row + ((code >> (4 * k)) & 15).to(tl.int32))
        total += tl.where(weight != 0, gradient * weight, 0.0)
    return total


@triton.jit
def weights_of_windows(
    table, od, oh, ow, size, outputs, lane: tl.constexpr, SIDE: tl.constexpr, METHOD: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, COUNTS: tl.constexpr, SIDES: tl.constexpr, WIDTHS: tl.constexpr,
    LEAST: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr, CHECKED: tl.constexpr, to: tl.constexpr,
):  # fmt: skip
    """Return the weights of each window's row of the table, as a tuple. (`lane` and SIDE: see `valid_positions`.)"""
    d, d_end = bounds(od, size[0], outputs[0], WINDOW, 0)
    h, h_end = bounds(oh, size[1], outputs[1], WINDOW, 1)
    w, w_end = bounds(ow, size[2], outputs[2], WINDOW, 2)
    none, none_at, tall, wide = places((d, h, w), (d_end, h_end, w_end), lane, SIDE, WINDOW, HIGH, LEAST, CHECKED)
    rows = rows_of(table, tall, wide, ROWS, COUNTS, COLUMNS, SIDES, WIDTHS)
    weights = (entry(rows, wide, 0, to, SIDES, COUNTS, WIDTHS),)
    if METHOD == "second":
        weights = weights + (entry(rows, wide, 1, to, SIDES, COUNTS, WIDTHS),)
    return weights


@triton.jit
def _sent_by_windows(
    grad_output, codes, table, plane, channel, ad, ah, block, size, outputs, C, row_live, like, back_d: tl.constexpr,
    back_h: tl.constexpr, back: tl.constexpr, METHOD: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    COUNTS: tl.constexpr, SIDES: tl.constexpr, WIDTHS: tl.constexpr, LEAST: tl.constexpr, WINDOW: tl.constexpr,
    HIGH: tl.constexpr, CHECKED: tl.constexpr, COVERED: tl.constexpr, PACKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, OUT_ALIGNED: tl.constexpr,
):  # fmt: skip
    """Return the codes of the windows so many places before each cell's own, and what each sends, as `_sent.sent`.

    Contiguous, those next to a cell's own are taken from the lane beside. METHOD "all": the code, the gradient, the
    row of weights, and of nine activations `with_last_rank`.
    """
    od, oh, ow, line, exists = window_of_cell(
        plane, ad, ah, block, outputs, row_live, back_d, back_h, back, COVERED, CHANNELS_LAST
    )
    if METHOD != "all" and not CHANNELS_LAST and (back == 1 or back == -1):
        code, parts = _sent_by_windows(
            grad_output, codes, table, plane, channel, ad, ah, block, size, outputs, C, row_live, like, back_d, back_h,
            0, METHOD, COLUMNS, ROWS, COUNTS, SIDES, WIDTHS, LEAST, WINDOW, HIGH, CHECKED, COVERED, PACKED,
            CHANNELS_LAST, OUT_ALIGNED,
        )  # fmt: skip
        ow = block * LANES - 1 if back == 1 else (block + 1) * LANES
        exists = exists & (ow >= 0) & (ow < outputs[2])
        new_code = tl.load(codes + (line + ow), mask=exists, other=255)
        gradient = tl.load(grad_output + (line + ow), mask=exists, other=0.0).to(like.dtype)
        weights = weights_of_windows(
            table, od, oh, ow, size, outputs, -1 if back == 1 else LANES, False, METHOD, COLUMNS, ROWS, COUNTS, SIDES,
            WIDTHS, LEAST, WINDOW, HIGH, CHECKED, like.dtype,
        )  # fmt: skip
        new = sent(new_code, gradient, weights, PACKED)
        moved = ()
        for i in tl.static_range(len(parts)):
            moved = moved + (before(parts[i], new[i]) if back == 1 else after(parts[i], new[i]),)
        code = before(code, new_code) if back == 1 else after(code, new_code)
        parts = moved
    else:
        code = load_windows(
            codes, line, ow, block, channel, outputs[2], C, exists, -1 if METHOD == "all" else 255, back,
            CHANNELS_LAST, OUT_ALIGNED,
        )  # fmt: skip
        gradient = load_windows(
            grad_output, line, ow, block, channel, outputs[2], C, exists, 0.0, back, CHANNELS_LAST, OUT_ALIGNED
        ).to(like.dtype)  # fmt: skip
        if METHOD == "all":
            d, d_end = bounds(od, size[0], outputs[0], WINDOW, 0)
            h, h_end = bounds(oh, size[1], outputs[1], WINDOW, 1)
            w, w_end = bounds(ow, size[2], outputs[2], WINDOW, 2)
            none, none_at, tall, wide = places(
                (d, h, w), (d_end, h_end, w_end), 0, True, WINDOW, HIGH, LEAST, CHECKED
            )  # fmt: skip
            parts = (gradient, row_of(table, tall * wide, ROWS, COUNTS, COLUMNS))
            if WINDOW[0] * WINDOW[1] * WINDOW[2] == 9:
                parts = parts + (with_last_rank(code),)
        else:
            LANED: tl.constexpr = not CHANNELS_LAST and back == 0 and COUNTS > 1
            lanes = ()
            for lane in tl.static_range(LANES if LANED else 1):
                lanes = lanes + (
                    weights_of_windows(
                        table, od, oh, block * LANES + lane if LANED else ow, size, outputs, lane, not LANED, METHOD,
                        COLUMNS, ROWS, COUNTS, SIDES, WIDTHS, LEAST, WINDOW, HIGH, CHECKED, like.dtype,
                    ),
                )  # fmt: skip
            weights = lanes[0]
            if LANED:
                weights = ()
                for i in tl.static_range(len(lanes[0])):
                    weights = weights + (beside((lanes[0][i], lanes[1][i], lanes[2][i], lanes[3][i])),)
            parts = sent(code, gradient, weights, PACKED)
    return code, parts


@triton.jit
def _plus_sent_to(
    total, code, parts, kd: tl.constexpr, kh: tl.constexpr, kw: tl.constexpr, COLUMNS: tl.constexpr,
    METHOD: tl.constexpr, WINDOW: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Add what windows send from where dilated positions lie so many places behind their beginning, if any does."""
    if (
        kd >= 0 and kd % WINDOW[9] == 0 and kd // WINDOW[9] < WINDOW[0]
        and kh >= 0 and kh % WINDOW[10] == 0 and kh // WINDOW[10] < WINDOW[1]
        and kw >= 0 and kw % WINDOW[11] == 0 and kw // WINDOW[11] < WINDOW[2]
    ):  # fmt: skip
        k: tl.constexpr = (kd // WINDOW[9] * WINDOW[1] + kh // WINDOW[10]) * WINDOW[2] + kw // WINDOW[11]
        if METHOD == "all":
            total = _plus_sent_to_rank(
                total, code if k < 8 else parts[2], parts[1], parts[0], k if k < 8 else 7, PACKED
            )
        else:
            total = plus_sent(total, code, parts, k, PACKED)
    return total


@triton.jit
def _plus_sent_to_cells(
    sums, code, parts, back_d: tl.constexpr, back_h: tl.constexpr, back: tl.constexpr, COLUMNS: tl.constexpr,
    METHOD: tl.constexpr, WINDOW: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Add what the windows so many places before each cell's own send to each position of the cells."""
    found = ()
    SD: tl.constexpr = WINDOW[3]
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    for rd in tl.static_range(SD):
        for rh in tl.static_range(SH):
            for rw in tl.static_range(SW):
                found = found + (
                    _plus_sent_to(
                        sums[(rd * SH + rh) * SW + rw], code, parts, rd + back_d * SD + WINDOW[6],
                        rh + back_h * SH + WINDOW[7], rw + back * SW + WINDOW[8], COLUMNS, METHOD, WINDOW, PACKED,
                    ),
                )  # fmt: skip
    return found


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
    METHOD: tl.constexpr,
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
    """Share gradients among the activations, as `_rank_places_kernel` found their ranks.

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
    sums = (like,) * (WINDOW[3] * WINDOW[4] * WINDOW[5])
    # The first window first: from so many places before the cell's own to so many behind it.
    BEFORE_D: tl.constexpr = ((WINDOW[0] - 1) * WINDOW[9] - WINDOW[6]) // WINDOW[3]
    BEFORE_H: tl.constexpr = ((WINDOW[1] - 1) * WINDOW[10] - WINDOW[7]) // WINDOW[4]
    BEFORE: tl.constexpr = ((WINDOW[2] - 1) * WINDOW[11] - WINDOW[8]) // WINDOW[5]
    DEPTHS: tl.constexpr = BEFORE_D + 1 + (WINDOW[6] + WINDOW[3] - 1) // WINDOW[3]
    HEIGHTS: tl.constexpr = BEFORE_H + 1 + (WINDOW[7] + WINDOW[4] - 1) // WINDOW[4]
    ACROSS: tl.constexpr = BEFORE + 1 + (WINDOW[8] + WINDOW[5] - 1) // WINDOW[5]
    kept = ()
    for i in tl.static_range(DEPTHS * HEIGHTS * ACROSS):
        code, parts = _sent_by_windows(
            grad_output, codes, table, plane, channel, ad, ah, block, (D, H, W), (OD, OH, OW), C, row_live, like,
            BEFORE_D - i // (HEIGHTS * ACROSS), BEFORE_H - i // ACROSS % HEIGHTS, BEFORE - i % ACROSS, METHOD, COLUMNS,
            ROWS, COUNTS, SIDES, WIDTHS, LEAST, WINDOW, HIGH, CHECKED, COVERED, PACKED, CHANNELS_LAST, OUT_ALIGNED,
        )  # fmt: skip
        if CHANNELS_LAST:  # A window after another, so that registers hold few.
            sums = _plus_sent_to_cells(
                sums, code, parts, BEFORE_D - i // (HEIGHTS * ACROSS), BEFORE_H - i // ACROSS % HEIGHTS,
                BEFORE - i % ACROSS, COLUMNS, METHOD, WINDOW, PACKED,
            )  # fmt: skip
        else:
            kept = kept + ((code,) + parts,)
    for i in tl.static_range(len(kept)):
        sums = _plus_sent_to_cells(
            sums, kept[i][0], kept[i][1:], BEFORE_D - i // (HEIGHTS * ACROSS), BEFORE_H - i // ACROSS % HEIGHTS,
            BEFORE - i % ACROSS, COLUMNS, METHOD, WINDOW, PACKED,
        )  # fmt: skip
    totals = ()
    for i in tl.static_range(len(sums)):
        totals = totals + (sums[i].to(dtype),)
    store_cells(
        grad_input, totals, plane, channel, ad, ah, block, D, H, W, C, row_live, WINDOW, CHANNELS_LAST, PAIRS, ALIGNED
    )


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
