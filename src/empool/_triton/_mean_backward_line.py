"""`rank_mean_backward` for CUDA of small contiguous maps that a stride of 2 halves: a thread has a line of windows.

It finds where each window's largest lie, as `empool._triton._places` does, and gathers gradients by cells: what windows
of the lines above and below send there, other threads have found.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._draw_line import load_line, tops_of_columns_of_line, tops_of_window_of_line
from empool._triton._load import load_window
from empool._triton._mean_backward import weights_of_windows
from empool._triton._places import code_of_any_two, code_of_two_numbers
from empool._triton._rank import as_pairs, larger, places, smaller
from empool._triton._scatter_line import bits_of, store_words, words_of
from empool._triton._sent import plus_sent_of_word, sent_of_word
from empool._triton._table import set_of
from empool._triton._tile import bounds, divide

_WORDS = tl.constexpr(
    "{ .reg .b32 low, high; prmt.b32 low, $2, $3, 0x6240; prmt.b32 high, $4, $5, 0x6240;"
    " prmt.b32 $0, low, high, 0x5410; prmt.b32 $1, low, high, 0x7632; }"
)
SIZES = ["rows", "C", "H", "OH", "height_magic", "height_shift", "channels_magic", "channels_shift"]


@triton.jit
def _word_of(codes, PAIRED: tl.constexpr):
    """Put the codes of four windows in a word."""
    if PAIRED:  # Two lines at a time.
        word = tl.inline_asm_elementwise(
            _WORDS, "=&r,=&r,r,r,r,r", [codes[0], codes[1], codes[2], codes[3]], dtype=tl.int32, is_pure=True, pack=2
        )
    else:
        word = codes[0] | (codes[1] << 8) | (codes[2] << 16) | (codes[3] << 24)
    return word


@triton.jit
def _words_of_line(
    input, row, row_live, plane, oh, H, OH, METHOD: tl.constexpr, LOWEST: tl.constexpr, LEAST: tl.constexpr,
    WINDOW: tl.constexpr, HIGH: tl.constexpr, CHECKED: tl.constexpr, READ: tl.constexpr, CHUNK: tl.constexpr,
    PACKED: tl.constexpr, W: tl.constexpr, OW: tl.constexpr,
):  # fmt: skip
    """Return the codes of a line's windows as two words; 255 for what is no window."""
    K: tl.constexpr = WINDOW[1] * WINDOW[2]
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float32
    PAIRED: tl.constexpr = PACKED and dtype.primitive_bitwidth == 16
    kind: tl.constexpr = dtype if PAIRED else wide
    plane_start = plane * (H * W)
    like = tl.zeros(row.shape, wide)
    columns = load_line(input, plane_start, oh, H, W, READ, WINDOW, HIGH, CHUNK, LOWEST, kind)
    if PAIRED:
        columns = as_pairs(columns)
    firsts, seconds = tops_of_columns_of_line(columns, W, READ, WINDOW, LOWEST)
    odd = like.to(kind)
    least = odd + 1.0
    found = ()
    for lane in tl.static_range(OW):
        window = ()
        for k in tl.static_range(K):
            window = window + (columns[(lane * WINDOW[5] + k % WINDOW[2]) * WINDOW[1] + k // WINDOW[2]],)
        first, second = tops_of_window_of_line(firsts, seconds, lane, W, WINDOW)
        found = found + (code_of_two_numbers(window, first, second, K, METHOD, like),)
        least = smaller(least, first if METHOD == "first" else second)
        odd = larger(odd, first)
    found = found + (tl.full(like.shape, 255, found[0].dtype),) * (8 - OW)
    low, high = _word_of(found[:4], PAIRED), _word_of(found[4:], PAIRED)
    odd, least = odd.to(wide), least.to(wide)
    if tl.max((row_live & ((odd != odd) | (least <= LOWEST))).to(tl.int32)) > 0:  # As `_rank_places_kernel`: again.
        none = tl.zeros([1, 1], tl.int32)
        h, h_end = bounds(oh, H, OH, WINDOW, 1)
        for each in range(OW):
            start = (none, h, none + (each * WINDOW[5] - WINDOW[8]))
            ends = (none + 1, h_end, none + W)
            values = load_window(input, plane_start, start, ends, (none + 1, H, W), 1, row_live, WINDOW, HIGH, wide)
            first_at, second_at, tall, wide_w = places(start, ends, 0, True, WINDOW, HIGH, LEAST, CHECKED)
            code = code_of_any_two(values, first_at, second_at, K, METHOD, CHECKED, like)
            shift = none + each % 4 * 8
            low = tl.where(none + each < 4, (low & ~(255 << shift)) | ((code & 255) << shift), low)
            high = tl.where(none + each < 4, high, (high & ~(255 << shift)) | ((code & 255) << shift))
    return low, high


@triton.jit
def number_of(words, e: tl.constexpr, dtype: tl.constexpr):
    """Take an element from words of 32 bits, as a float32."""
    if dtype == tl.float32:
        number = words[e].to(tl.float32, bitcast=True)
    elif dtype == tl.bfloat16:
        number = (words[e // 2] & 0xFFFF0000 if e % 2 == 1 else words[e // 2] << 16).to(tl.float32, bitcast=True)
    else:
        number = (words[e // 2] >> (e % 2 * 16)).to(tl.uint16).to(dtype, bitcast=True).to(tl.float32)
    return number


@triton.jit
def _word(low, high, dtype: tl.constexpr, PACKED: tl.constexpr):
    """Round two numbers to a half type, in one word."""
    if PACKED:
        convert: tl.constexpr = (
            "cvt.rn.bf16x2.f32 $0, $2, $1;" if dtype == tl.bfloat16 else "cvt.rn.f16x2.f32 $0, $2, $1;"
        )
        word = tl.inline_asm_elementwise(convert, "=r,f,f", [low, high], dtype=tl.uint32, is_pure=True, pack=1)
    else:
        word = bits_of(low, dtype) | (bits_of(high, dtype) << 16)
    return word


@triton.jit
def store_cells_of_line(grad_input, sums, row, row_live, PLACES: tl.constexpr, PACKED: tl.constexpr):
    """Write a row of cells of 2 by 2 inputs: one position's, then the next one's."""
    dtype: tl.constexpr = grad_input.dtype.element_ty
    OW: tl.constexpr = len(sums) // 4
    found = ()
    for rh in tl.static_range(2):
        for aw in tl.static_range(OW):
            low, high = sums[2 * rh * OW + aw], sums[(2 * rh + 1) * OW + aw]
            if dtype == tl.float32:
                found = found + (low.to(tl.uint32, bitcast=True), high.to(tl.uint32, bitcast=True))
            else:
                found = found + (_word(low, high, dtype, PACKED),)
    store_words(grad_input, found, row, row_live, PLACES)


@triton.jit
def _plus_sent_to(
    sums, word, parts, j: tl.constexpr, right: tl.constexpr, rh: tl.constexpr, rw: tl.constexpr, kh: tl.constexpr,
    kw: tl.constexpr, OW: tl.constexpr, WINDOW: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Add what a word's windows send from (kh, kw) to the position (rh, rw) of the cells so many places before them."""
    found = sums
    if kh >= 0 and kh < WINDOW[1] and kw >= 0 and kw < WINDOW[2]:
        BEGIN: tl.constexpr = (2 * rh + rw) * OW
        FIRST: tl.constexpr = 4 * j - right  # The first window's cell.
        four = ()
        for i in tl.static_range(4):
            four = four + (sums[BEGIN + FIRST + i if FIRST + i >= 0 and FIRST + i < OW else BEGIN],)
        four = plus_sent_of_word(four, word, parts, kh * WINDOW[2] + kw, PACKED)
        found = ()
        for n in tl.static_range(4 * OW):
            if n >= BEGIN and n < BEGIN + OW and n - BEGIN >= FIRST and n - BEGIN < FIRST + 4:
                found = found + (four[n - BEGIN - FIRST],)
            else:
                found = found + (sums[n],)
    return found


@triton.jit(do_not_specialize=SIZES)
def _rank_mean_backward_line_kernel(
    grad_output,
    input,
    weights,
    grad_input,
    rows,
    C,
    H,
    OH,
    height_magic,
    height_shift,
    channels_magic,
    channels_shift,
    METHOD: tl.constexpr,
    LOWEST: tl.constexpr,
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
    READ: tl.constexpr,
    CHUNK: tl.constexpr,
    PACKED: tl.constexpr,
    PLACES: tl.constexpr,
    ABOVE: tl.constexpr,
    BELOW: tl.constexpr,
    W: tl.constexpr,
    OW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Share gradients among the activations, as `_rank_mean_backward_kernel` does; cells as `_scatter_line` has them.

    A program's first lines and its last ones are found for the others alone, and are written by its neighbours.

    ABOVE, BELOW: so many lines of windows above a line of cells reach it, and below. PLACES: the power of two that
    holds what a line of cells has, in 8 bytes each.
    """
    dtype: tl.constexpr = grad_output.dtype.element_ty
    SIZE: tl.constexpr = dtype.primitive_bitwidth // 8
    LEFT: tl.constexpr = (WINDOW[2] - 1 - WINDOW[8]) // 2
    RIGHT: tl.constexpr = (WINDOW[8] + 1) // 2
    place = tl.arange(0, BLOCK)
    line = (tl.program_id(0) * (BLOCK - ABOVE - BELOW) - ABOVE + place)[:, None]  # (BLOCK, 1)
    row_live = (line >= 0) & (line < rows)
    row = tl.minimum(tl.maximum(line, 0), rows - 1)
    plane, oh = divide(row, OH, height_magic, height_shift, False)
    image, channel = divide(plane, C, channels_magic, channels_shift, False)
    table = set_of(weights, channel, COLUMNS, TABLE_ROWS, SETS)
    like = tl.zeros([BLOCK, 1], tl.float32)
    none = tl.zeros([1, 1], tl.int32)
    low, high = _words_of_line(
        input, row, row_live, plane, oh, H, OH, METHOD, LOWEST, LEAST, WINDOW, HIGH, CHECKED, READ, CHUNK, PACKED, W, OW
    )
    own = (place >= ABOVE) & (place < BLOCK - BELOW)
    row_live = row_live & own[:, None]
    read = words_of(
        grad_output, (row - ABOVE) * OW, rows * OW, row_live, (ABOVE + 1 + BELOW) * OW, SIZE, ABOVE > 0, PACKED
    )
    sums = (like,) * (4 * OW)  # Of a line of cells: one position's, then the next one's.
    for down in tl.static_range(-ABOVE, BELOW + 1):
        there = row_live & (oh + down >= 0) & (oh + down < OH)
        lanes = ()
        for lane in tl.static_range(OW):
            lanes = lanes + (
                weights_of_windows(
                    table, none, oh + down, none + lane, (1, H, W), (1, OH, OW), 0, True, METHOD, COLUMNS, ROWS, COUNTS,
                    SIDES, WIDTHS, LEAST, WINDOW, HIGH, CHECKED, tl.float32,
                ),
            )  # fmt: skip
        for j in tl.static_range((OW + 3) // 4):
            word = low if j == 0 else high
            if down != 0:
                source = tl.minimum(tl.maximum(place + down, 0), BLOCK - 1)
                word = tl.where(there, tl.gather(tl.reshape(word, [BLOCK]), source, 0)[:, None], -1)
            gradients = ()
            its_weights = ()
            for i in tl.static_range(4):
                if 4 * j + i < OW:
                    gradients = gradients + (number_of(read, (down + ABOVE) * OW + 4 * j + i, dtype),)
                    its_weights = its_weights + (lanes[4 * j + i],)
                else:
                    gradients = gradients + (like,)
                    its_weights = its_weights + (lanes[OW - 1],)
            parts = sent_of_word(word, gradients, its_weights, PACKED)
            for right in tl.static_range(-LEFT, RIGHT + 1):
                for r in tl.static_range(4):
                    sums = _plus_sent_to(
                        sums, word, parts, j, right, r // 2, r % 2, WINDOW[7] + r // 2 - 2 * down,
                        WINDOW[8] + r % 2 - 2 * right, OW, WINDOW, PACKED,
                    )  # fmt: skip
    store_cells_of_line(grad_input, sums, row, row_live, PLACES, PACKED)
