"""Finding where the activations of ranks lie, for the backward of `rank_mean`: a code for every window.

METHOD "second": the lowest four bits of a byte are the largest activation's position, the highest the second largest's,
15 if there is none, and ALONE where the largest is a NaN, which gets all of the gradient. METHOD "first": as for a
window of one activation. METHOD "all": the rank of every position, in four bits each; of nine, what a word holds, since
the last one's is what is left (see `with_last_rank`).
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import load_columns, tops_of_columns, tops_of_window, window_of
from empool._triton._load import load_window, padded_with, valid_of_window
from empool._triton._rank import (
    as_pairs,
    in_type,
    larger,
    last_nan,
    not_finite,
    one_of_two,
    places,
    rank_by_pairs,
    smaller,
    two_largest,
)
from empool._triton._tile import (
    DIVISORS,
    LANES,
    beside,
    bounds,
    index_sizes,
    moved,
    outputs_of_lane,
    rows_and_channels,
    side_by_side,
)

ALONE = tl.constexpr(14)
"""In place of the second largest's position: a NaN is the largest."""
MOST_PLACES = tl.constexpr(14)
"""The most positions of a window for the codes of "first" and "second"."""
_STEP = tl.constexpr("{ .reg .f32 d; sub.f32 d, $1, $2; mul.sat.f32 $0, d, 0f7F800000; }")
# Of half types, two windows at a time: a rank is a number from 128 or 1024 on, where the next is 1 more.
_PAIR = "{{ .reg .b32 t; set.gt.{0}.{0} t, $4, $5; add.{0} $0, $2, t; sub.{0} $1, $3, t; }}"
_RANKS = (
    "{{ .reg .b32 low, high; mad.lo.u32 low, $5, 16, $4; mad.lo.u32 low, low, 16, $3; mad.lo.u32 low, low, 16, $2;"
    " mad.lo.u32 high, $9, 16, $8; mad.lo.u32 high, high, 16, $7; mad.lo.u32 high, high, 16, $6; sub.u32 low, low, {0};"
    " sub.u32 high, high, {0}; prmt.b32 $0, low, high, 0x5410; prmt.b32 $1, low, high, 0x7632; }}"
)
_PAIRS = tl.constexpr(tuple(_PAIR.format(kind) for kind in ("bf16x2", "f16x2")))
_RANKS_OF = tl.constexpr(tuple(_RANKS.format(hex(base * 0x10001 * 0x1111 & 0xFFFFFFFF)) for base in (0x4300, 0x6400)))
SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "blocks"]


@triton.jit
def code_of_any_two(values, first_at, second_at, K: tl.constexpr, METHOD: tl.constexpr, CHECKED: tl.constexpr, like):
    """Return where the largest and the second largest of every window lie: the code of "first" and "second"."""
    SECOND: tl.constexpr = METHOD == "second"
    first, first_at, second, second_at = two_largest(values, first_at, second_at, K, SECOND, CHECKED, like)
    code = (first_at & 15) | ((second_at & 15) << 4 if SECOND else 240)
    return tl.where(first != first, first_at | (ALONE << 4), code)


@triton.jit
def code_of_two_numbers(values, first, second, K: tl.constexpr, METHOD: tl.constexpr, like):
    """Do as `code_of_any_two` for numbers, of which the two largest are known."""
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
    KEPT: tl.constexpr = 8 if K == 9 else K
    for begin in tl.static_range(0, KEPT, 6):  # So many ranks are a whole number that a float32 holds.
        part = like
        for k in tl.static_range(begin, begin + 6 if begin + 6 < KEPT else KEPT):
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
def _code_of_halves(values, K: tl.constexpr, like):
    """Do as `_code_of_numbers` for a half type, two windows at a time: up to eight positions, in 32 bits."""
    TYPE: tl.constexpr = 0 if values[0].dtype == tl.bfloat16 else 1
    pair: tl.constexpr = _PAIRS[TYPE]
    together: tl.constexpr = _RANKS_OF[TYPE]
    BASE: tl.constexpr = 1024 if TYPE else 128
    ranks = ()
    for k in tl.static_range(K):
        ranks = ranks + (tl.full(like.shape, BASE + k, values[0].dtype),)
    for k in tl.static_range(K):
        for j in tl.static_range(k + 1, K):
            rank, other = tl.inline_asm_elementwise(
                pair, "=&r,=&r,r,r,r,r", [ranks[k], ranks[j], values[j], values[k]],
                dtype=(values[0].dtype, values[0].dtype), is_pure=True, pack=2,
            )  # fmt: skip
            ranks = ranks[:k] + (rank,) + ranks[k + 1 : j] + (other,) + ranks[j + 1 :]
    ranks = ranks + (tl.full(like.shape, BASE, values[0].dtype),) * 8
    return tl.inline_asm_elementwise(
        together, "=&r,=&r,r,r,r,r,r,r,r,r",
        [ranks[0], ranks[1], ranks[2], ranks[3], ranks[4], ranks[5], ranks[6], ranks[7]], dtype=tl.int32, is_pure=True,
        pack=2,
    )  # fmt: skip


@triton.jit
def _code_of_any(values, valids, K: tl.constexpr, like, dtype: tl.constexpr):
    """Return every position's rank, in four bits each, of whatever there is: 14 for the last NaN, 15 for the others."""
    nan_at = last_nan(values, K, like)
    found = rank_by_pairs(values, valids, K, like)
    code = like.to(dtype)
    for k in tl.static_range(8 if K == 9 else K):
        rank = tl.where(nan_at < 0, found[k], tl.where(nan_at == k, 14, 15))
        code = code | ((rank & 15).to(dtype) << (4 * k))
    return code


@triton.jit
def with_last_rank(code):
    """Put the ninth position's rank where a code has the eighth one's: all nine are 36 together.

    It is 13 in place of 15, and 12 in place of 14: where one of all is 14 and eight are 15, modulo 16.
    """
    pairs = (code & 0x0F0F0F0F) + ((code >> 4) & 0x0F0F0F0F)
    return 0x4FFFFFFF - pairs * 0x10101010


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
        code = code_of_any_two(values, first_at, second_at, K, METHOD, CHECKED, like).to(kind)
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
    """Write a code for every window.

    What holds a NaN, or too low an activation, is done again; if READ is 0, as in `_rank_mean_kernel`, everything is.
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
        form: tl.constexpr = dtype if dtype.primitive_bitwidth == 16 and PACKED and K <= 9 else wide
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
                    # Padding, which is -inf, counts as 0: a maximum does it, of half types for two windows at a time.
                    floors = padded_with(
                        (tl.full(like.shape, -float("inf"), form),) * len(more), 0.0, d, h, (d_end, h_end), W, block,
                        0 if lane == 0 else (lane - 1) * WINDOW[5] + WINDOW[2], WINDOW, HIGH,
                    )  # fmt: skip
                    for i in tl.static_range(len(more)):
                        odd = not_finite(larger(more[i], floors[i]), odd, like)
                else:
                    tops, nexts = tops_of_columns(more, HEIGHT, len(more) // HEIGHT, LOWEST)
                    firsts = firsts + tops
                    seconds = seconds + nexts
            values = window_of(columns, lane, WINDOW, form)
            if ALL:
                if form.primitive_bitwidth == 16:
                    code = _code_of_halves(values, K, like).to(kind)
                else:
                    code = _code_of_numbers(values, K, PACKED, like, kind)
            else:
                first, second = tops_of_window(firsts, seconds, lane, WINDOW)
                code = code_of_two_numbers(values, first, second, K, METHOD, like).to(kind)
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
