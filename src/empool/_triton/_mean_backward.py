"""`rank_mean_backward` for CUDA."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import load_columns, tops_of_columns, tops_of_window, window_of
from empool._triton._load import activation, corner_of, load_window, padded_with, valid_of_window
from empool._triton._rank import (
    as_pairs,
    in_type,
    larger,
    last_nan,
    one_of_two,
    places,
    rank_by_pairs,
    smaller,
    two_largest,
)
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
    "{ .reg .pred equal; setp.eq.s32 equal, $3, $4; mov.f32 $0, $1; @equal add.rn.f32 $0, $1, $2; }"
)
_STEP = tl.constexpr("{ .reg .f32 d; sub.f32 d, $1, $2; mul.sat.f32 $0, d, 0f7F800000; }")
_WEIGHT = tl.constexpr(
    "{ .reg .pred p; .reg .b64 at; setp.lt.u32 p, $2, $3; mul.wide.u32 at, $2, 4; add.s64 at, at, $1;"
    " mov.f32 $0, 0f00000000; @p ld.global.nc.f32 $0, [at]; setp.eq.u32 p, $2, 14; @p mov.f32 $0, 0f3F800000; }"
)
SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "blocks"]


@triton.jit
def _code_of_two(values, first_at, second_at, K: tl.constexpr, METHOD: tl.constexpr, CHECKED: tl.constexpr, like):
    """Return where the largest and the second largest of every window lie, in four bits each; 15 for none.

    If the largest is a NaN, both are where it is.
    """
    SECOND: tl.constexpr = METHOD == "second"
    first, first_at, second, second_at = two_largest(values, first_at, second_at, K, SECOND, CHECKED, like)
    code = (first_at & 15) | ((second_at & 15) << 4 if SECOND else 240)
    return tl.where(first != first, first_at * 17, code)


@triton.jit
def _code_of_two_numbers(values, first, second, K: tl.constexpr, METHOD: tl.constexpr, like):
    """Do as `_code_of_two` for numbers, of which the two largest are known."""
    none = tl.zeros(like.shape, tl.int32)
    value, code = one_of_two(values, first, second, none, none + 1, K, like)
    if METHOD == "second":
        value, second_at = one_of_two(values, first, second, none, none, K, like)
        code = code | (second_at << 4)
    else:
        code = code | 240
    return code


@triton.jit
def _step(one, other, PACKED: tl.constexpr):
    """Return 1 where one number is larger than another, else 0: without a comparison, which takes a GPU longer."""
    if PACKED and one.dtype == tl.float32:
        step = tl.inline_asm_elementwise(_STEP, "=f,f,f", [one, other], dtype=tl.float32, is_pure=True, pack=1)
    else:
        step = tl.where(one > other, 1.0, 0.0).to(one.dtype)
    return step


@triton.jit
def _code_of_numbers(values, K: tl.constexpr, PACKED: tl.constexpr, like, dtype: tl.constexpr):
    """Return every position's rank, in four bits each, of numbers alone: one is ahead of those before it if larger."""
    code = like.to(dtype)
    for begin in tl.static_range(0, K, 6):  # So many ranks are a whole number that a float32 holds.
        part = like
        for k in tl.static_range(begin, begin + 6 if begin + 6 < K else K):
            rank = like + k
            for j in tl.static_range(K):
                if j < k:
                    rank = rank - _step(values[k], values[j], PACKED)
                elif j > k:
                    rank = rank + _step(values[j], values[k], PACKED)
            part = part + rank * (16.0 ** (k - begin))
        code = code | (part.to(tl.int32).to(dtype) << (4 * begin))
    return code


@triton.jit
def _code_of_any(values, valids, K: tl.constexpr, like, dtype: tl.constexpr):
    """Return every position's rank, in four bits each, of whatever there is: 14 for the last NaN, 15 for the others."""
    nan_at = last_nan(values, K, like)
    found = rank_by_pairs(values, valids, K, like)
    code = like.to(dtype)
    for k in tl.static_range(K):
        rank = tl.where(nan_at < 0, found[k], tl.where(nan_at == k, 14, 15))
        code = code | ((rank & 15).to(dtype) << (4 * k))
    return code


@triton.jit
def _codes_any(
    input, codes, plane_start, line_start, lane, block, channel, d, d_end, h, h_end, size, step, row_live, OW, C,
    METHOD: tl.constexpr, LEAST: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr, CHECKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, SIDE: tl.constexpr, ALIGNED: tl.constexpr, like,
):  # fmt: skip
    """Write the codes of a lane's windows, whatever they hold."""
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    kind: tl.constexpr = codes.dtype.element_ty
    if SIDE:
        ow, live, at = outputs_of_lane(0, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, True, ALIGNED)
    else:
        ow = block * LANES + lane
        live = row_live & (ow < OW)
        at = (line_start + ow) * C + channel if CHANNELS_LAST else line_start + ow
    w, w_end = bounds(ow, size[2], OW, WINDOW, 2)
    start = (d, h, w)
    ends = (d_end, h_end, w_end)
    values = load_window(input, plane_start, start, ends, size, step, live, WINDOW, HIGH, like.dtype)
    if METHOD == "all":
        code = _code_of_any(values, valid_of_window(start, ends, live, WINDOW, HIGH), K, like, kind)
    else:
        first_at, second_at, tall, wide_w = places(start, ends, 0, True, WINDOW, HIGH, LEAST, CHECKED)
        code = _code_of_two(values, first_at, second_at, K, METHOD, CHECKED, like).to(kind)
    tl.store(codes + at, code, mask=live)


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
    METHOD: tl.constexpr,
    LOWEST: tl.constexpr,
    LEAST: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    CHECKED: tl.constexpr,
    READ: tl.constexpr,
    CHUNK: tl.constexpr,
    PACKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    FLAT: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Write a code for every window. METHOD "first" and "second": where the largest activations lie, as `_code_of_two`.

    METHOD "all": the rank of every position, as `_code_of_numbers`. What holds a NaN, or too low an activation, is done
    again; if READ is 0, as in `_rank_mean_kernel`, everything is.
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
    HEIGHT: tl.constexpr = WINDOW[0] * WINDOW[1]
    ALL: tl.constexpr = METHOD == "all"
    SIDE: tl.constexpr = not CHANNELS_LAST and READ == 0
    kind: tl.constexpr = codes.dtype.element_ty
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else (LANES if SIDE else 1)], wide)
    again = row_live & (like != like) if READ > 0 else row_live
    if READ > 0:
        form: tl.constexpr = dtype if dtype.primitive_bitwidth == 16 and PACKED and K <= 9 and not ALL else wide
        odd = like.to(form)
        least = odd + 1.0
        columns = ()
        firsts = ()
        seconds = ()
        found = ()
        for lane in tl.static_range(4):
            ow, live, at = outputs_of_lane(
                lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, False, ALIGNED
            )
            if CHANNELS_LAST or lane == 0:
                loaded = load_columns(
                    input, plane_start, (d, h), (d_end, h_end), size, block, step, row_live, WINDOW, HIGH,
                    0 if lane == 0 else (lane - 1) * WINDOW[5] + WINDOW[2],
                    lane * WINDOW[5] + WINDOW[2] if CHANNELS_LAST else READ, CHUNK, -float("inf") if ALL else LOWEST,
                    ALIGNED,
                )  # fmt: skip
                more = in_type(loaded, form)
                if form.primitive_bitwidth == 16 and not CHANNELS_LAST:
                    more = as_pairs(more)
                columns = columns + more
                if ALL:
                    more = padded_with(
                        more, 0.0, d, h, (d_end, h_end), W, block,
                        0 if lane == 0 else (lane - 1) * WINDOW[5] + WINDOW[2], WINDOW, HIGH,
                    )  # fmt: skip
                    for i in tl.static_range(len(more)):
                        odd = tl.fma(more[i], like, odd)
                else:
                    tops, nexts = tops_of_columns(more, HEIGHT, len(more) // HEIGHT, LOWEST)
                    firsts = firsts + tops
                    seconds = seconds + nexts
            values = window_of(columns, lane, WINDOW, form)
            if ALL:
                code = _code_of_numbers(values, K, PACKED, like, kind)
            else:
                first, second = tops_of_window(firsts, seconds, lane, WINDOW)
                code = _code_of_two_numbers(values, first, second, K, METHOD, like).to(kind)
                if METHOD == "first":
                    second = first
                if ALIGNED != LANES:
                    second = larger(second, tl.broadcast_to(tl.where(ow < OW, LOWEST, 1.0).to(form), like.shape))
                least = smaller(least, second)
                odd = larger(odd, first)
            if CHANNELS_LAST:  # A lane after another, so that registers hold few columns.
                tl.store(codes + at, code, mask=live)
            else:
                found = found + (code,)
        again = again | (row_live & ((odd.to(wide) != odd.to(wide)) | (least.to(wide) <= LOWEST)))
        if not CHANNELS_LAST:
            none, live, at = outputs_of_lane(
                0, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, True, ALIGNED
            )
            code = beside(found)
            if FLAT and not ALL:
                at, source, live = side_by_side(rows, BLOCK, FLAT)
                code = moved(code.to(tl.int32), source).to(kind)
            tl.store(codes + at, code, mask=live)
    if READ == 0 or tl.max(again.to(tl.int32)) > 0:
        for turn in range(1 if SIDE else 4):  # Seldom: a loop compiles faster.
            _codes_any(
                input, codes, plane_start, line_start, turn, block, channel, d, d_end, h, h_end, size, step, row_live,
                OW, C, METHOD, LEAST, WINDOW, HIGH, CHECKED, CHANNELS_LAST, SIDE, ALIGNED, like,
            )  # fmt: skip


@triton.jit
def _plus_if_equal(total, value, place, k: tl.constexpr, PACKED: tl.constexpr):
    """Add a value where a place is k: by a sum under a condition, of which a GPU has twice as many as choices."""
    if PACKED and total.dtype == tl.float32:
        result = tl.inline_asm_elementwise(
            _PLUS_IF_EQUAL, "=&f,f,f,r,r", [total, value, place, tl.full([1, 1], k, tl.int32)],
            dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        result = tl.where(place == k, total + value, total)
    return result


@triton.jit
def _weight_of_rank(row, rank, COLUMNS: tl.constexpr, PACKED: tl.constexpr, dtype: tl.constexpr):
    """Load the weight of a rank, 1 for rank 14; through no other threads, as Triton's own load of a tile might."""
    if PACKED and dtype == tl.float32:
        weight = tl.inline_asm_elementwise(
            _WEIGHT, "=&f,l,r,r", [row.to(tl.int64), rank, tl.full([1, 1], COLUMNS, tl.int32)],
            dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        weight = tl.load(row + tl.minimum(rank, COLUMNS - 1))
        weight = tl.where(rank < COLUMNS, weight, tl.where(rank == 14, 1.0, 0.0).to(dtype))
    return weight


@triton.jit
def _window_gradients(
    grad_output, codes, table, plane, channel, ad, ah, block, size, outputs, C, row_live, like, back_d: tl.constexpr,
    back_h: tl.constexpr, back: tl.constexpr, METHOD: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    COUNTS: tl.constexpr, SIDES: tl.constexpr, WIDTHS: tl.constexpr, LEAST: tl.constexpr, WINDOW: tl.constexpr,
    HIGH: tl.constexpr, CHECKED: tl.constexpr, COVERED: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    OUT_ALIGNED: tl.constexpr,
):  # fmt: skip
    """Return the code of the window so many places before each cell's own, and what it sends to its two activations.

    METHOD "all": its code, its gradient and its row of weights.
    """
    od, oh, ow, line, exists = window_of_cell(
        plane, ad, ah, block, outputs, row_live, back_d, back_h, back, COVERED, CHANNELS_LAST
    )
    code = load_windows(
        codes, line, ow, block, channel, outputs[2], C, exists, -1 if METHOD == "all" else 255, back, CHANNELS_LAST,
        OUT_ALIGNED,
    )  # fmt: skip
    gradient = load_windows(
        grad_output, line, ow, block, channel, outputs[2], C, exists, 0.0, back, CHANNELS_LAST, OUT_ALIGNED
    ).to(like.dtype)  # fmt: skip
    d, d_end = bounds(od, size[0], outputs[0], WINDOW, 0)
    h, h_end = bounds(oh, size[1], outputs[1], WINDOW, 1)
    w, w_end = bounds(ow, size[2], outputs[2], WINDOW, 2)
    none, none_at, tall, wide_w = places((d, h, w), (d_end, h_end, w_end), 0, True, WINDOW, HIGH, LEAST, CHECKED)
    if METHOD == "all":
        first = gradient
        second = row_of(table, tall * wide_w, ROWS, COUNTS, COLUMNS)
    else:
        code = code.to(tl.int32)
        rows = rows_of(table, tall, wide_w, ROWS, COUNTS, COLUMNS, SIDES, WIDTHS)
        weight = entry(rows, wide_w, 0, like.dtype, SIDES, COUNTS, WIDTHS)
        alone = (code & 15) == (code >> 4)
        first = tl.where(weight != 0, gradient * weight, 0.0)
        first = tl.where(alone, gradient, first)
        second = first
        if METHOD == "second":
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
    METHOD: tl.constexpr,
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
                        METHOD, COLUMNS, ROWS, COUNTS, SIDES, WIDTHS, LEAST, WINDOW, HIGH, CHECKED, COVERED,
                        CHANNELS_LAST, OUT_ALIGNED,
                    )  # fmt: skip
                    if METHOD == "all":
                        rank = ((code >> (4 * ((kd * KH + kh) * KW + kw))) & 15).to(tl.int32)
                        weight = _weight_of_rank(second, rank, COLUMNS, PACKED, like.dtype)
                        total += tl.where(weight != 0, first * weight, 0.0)
                    else:
                        total = _plus_if_equal(total, first, code & 15, (kd * KH + kh) * KW + kw, PACKED)
                        if METHOD == "second":
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
    totals = ()
    SD: tl.constexpr = WINDOW[3]
    SH: tl.constexpr = WINDOW[4]
    SW: tl.constexpr = WINDOW[5]
    for rd in tl.static_range(SD):
        for rh in tl.static_range(SH):
            for rw in tl.static_range(SW):
                total = _cell_gradient(
                    grad_output, codes, table, plane, channel, ad, ah, block, (D, H, W), (OD, OH, OW), C, row_live,
                    like, rd, rh, rw, METHOD, COLUMNS, ROWS, COUNTS, SIDES, WIDTHS, LEAST, WINDOW, HIGH, CHECKED,
                    COVERED, PACKED, CHANNELS_LAST, OUT_ALIGNED,
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
