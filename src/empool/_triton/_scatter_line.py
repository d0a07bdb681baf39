"""`drawn_scatter` for CUDA, for contiguous maps of short rows that a stride of 2 halves."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._tile import divide


@triton.jit(do_not_specialize=["rows", "height", "height_magic", "height_shift"])
def _drawn_scatter_line_kernel(
    grad_output,
    drawn,
    grad_input,
    rows,
    height,
    height_magic,
    height_shift,
    WINDOW: tl.constexpr,
    FLAT: tl.constexpr,
    PLACES: tl.constexpr,
    PACKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Do as `_drawn_scatter_kernel` for contiguous maps that the stride halves: a thread has a row of windows.

    A cell of 2 by 2 inputs lies where the window of the same number begins. Draws and gradients of the rows of windows
    over a row of cells lie one behind another, and are read as words of 32 bits, whatever their address. No comparison
    finds a draw: a gradient is shifted by 32 bits for each position between the draw and an input's, which leaves 0
    but where they agree. Of a half type, a word has two neighbouring inputs, and 16 bits tell which.

    FLAT: the output's width. PLACES: the power of two that holds what a row of cells has, in 8 bytes each.
    rows: how many rows of windows there are. height: the output's.
    """
    SIZE: tl.constexpr = grad_output.dtype.element_ty.primitive_bitwidth // 8
    KH: tl.constexpr = WINDOW[1]
    PH: tl.constexpr = WINDOW[7]
    ABOVE: tl.constexpr = (KH - 1 - PH) // 2  # So many rows of windows above a row of cells reach it, and below.
    BELOW: tl.constexpr = (PH + 1) // 2
    NUMBER: tl.constexpr = (ABOVE + 1 + BELOW) * FLAT
    line = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = line < rows
    plane, oh = divide(line, height, height_magic, height_shift, False)
    draws = words_of(drawn, (line - ABOVE) * FLAT, rows * FLAT, live, NUMBER, 1, ABOVE > 0, PACKED)
    values = words_of(grad_output, (line - ABOVE) * FLAT, rows * FLAT, live, NUMBER, SIZE, ABOVE > 0, PACKED)
    draws = _without_missing_rows(draws, oh, height, ABOVE, BELOW, FLAT)
    found = ()
    for rh in tl.static_range(2):
        for aw in tl.static_range(FLAT):
            for rw in tl.static_range(SIZE // 2):
                found = found + (
                    _sum_of_inputs(
                        draws, values, grad_output.dtype.element_ty, ABOVE, BELOW, rh, aw, rw, WINDOW, FLAT, PACKED
                    ),
                )
    store_words(grad_input, found, line[:, None], live[:, None], PLACES)


@triton.jit
def words_of(
    tensor, begin, end, live, NUMBER: tl.constexpr, SIZE: tl.constexpr, CAN_PRECEDE: tl.constexpr, PACKED: tl.constexpr
):
    """Read so many elements as words of 32 bits, from wherever they begin, of what the tensor has.

    Where a word has other bytes too, as in a graph's view at an odd address, they are read and dropped.
    """
    address = tensor.to(tl.int64)
    odd = (address & 3).to(tl.int32)
    words = (address - (address & 3)).to(tl.pointer_type(tl.uint32))
    byte = begin * SIZE + odd
    first = byte >> 2
    shift = (byte & 3) * 8
    limit = (end * SIZE + odd + 3) >> 2
    read = ()
    for i in tl.static_range((NUMBER * SIZE + (4 - SIZE) + 3) // 4):
        there = live & (first < limit - i)
        if CAN_PRECEDE:
            there = there & (first >= -i)
        read = read + (tl.load((words + first) + i, mask=there, other=0),)
    if SIZE < 4:
        moved = ()
        for i in tl.static_range((NUMBER * SIZE + 3) // 4):
            if i + 1 < len(read):
                moved = moved + (_funnel(read[i], read[i + 1], shift, PACKED),)
            else:
                moved = moved + (read[i] >> shift.to(tl.uint32),)
        read = moved
    return read


@triton.jit
def _without_missing_rows(draws, oh, height, ABOVE: tl.constexpr, BELOW: tl.constexpr, FLAT: tl.constexpr):
    """Put 255, no position, where a row of windows would lie above or below the map."""
    for i in tl.static_range(ABOVE + 1 + BELOW):
        if i != ABOVE:
            there = (oh >= ABOVE - i) if i < ABOVE else (oh < height - (i - ABOVE))
            gone = tl.where(there, 0, 0xFFFFFFFF).to(tl.uint32)
            changed = ()
            for j in tl.static_range(len(draws)):
                changed = changed + (_marked(draws[j], gone, i * FLAT - 4 * j, (i + 1) * FLAT - 4 * j),)
            draws = changed
    return draws


@triton.jit
def _marked(word, mark, BEGIN: tl.constexpr, END: tl.constexpr):
    """Set the bits of a mark in the word's bytes from BEGIN to END."""
    if BEGIN < 4 and END > 0:
        word = word | (mark & ((1 << 8 * (END if END < 4 else 4)) - (1 << 8 * (BEGIN if BEGIN > 0 else 0))))
    return word


@triton.jit
def _sum_of_inputs(
    draws, values, dtype: tl.constexpr, ABOVE: tl.constexpr, BELOW: tl.constexpr, rh: tl.constexpr, aw: tl.constexpr,
    rw: tl.constexpr, WINDOW: tl.constexpr, FLAT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Add up what windows send to an input of 32 bits, or to two neighbours of a half type; first window first."""
    sums = (tl.zeros_like(draws[0]),)
    for down in tl.static_range(-ABOVE, BELOW + 1):
        for right in tl.static_range(-((WINDOW[2] - 1 - WINDOW[8]) // 2), (WINDOW[8] + 1) // 2 + 1):
            if aw + right >= 0 and aw + right < FLAT:
                sums = (
                    _plus_sent(
                        sums[0], draws, values, dtype, (down + ABOVE) * FLAT + aw + right, WINDOW[7] + rh - 2 * down,
                        WINDOW[8] + rw - 2 * right, WINDOW, PACKED,
                    ),
                )  # fmt: skip
    return sums[0]


@triton.jit
def _plus_sent(
    total, draws, values, dtype: tl.constexpr, e: tl.constexpr, kh: tl.constexpr, kw: tl.constexpr,
    WINDOW: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Add what the window e sends from its positions (kh, kw), and of a half type (kh, kw + 1), if it has them."""
    KW: tl.constexpr = WINDOW[2]
    HALF: tl.constexpr = dtype.primitive_bitwidth == 16
    if kh >= 0 and kh < WINDOW[1] and kw >= (-1 if HALF else 0) and kw < KW:
        k = ((draws[e // 4] >> (e % 4 * 8)) & 255).to(tl.int32)
        if HALF:
            value = values[e // 2] << 16 if e % 2 == 0 else values[e // 2] & 0xFFFF0000
            if kw == -1:
                sent = _shifted(value, (kh * KW) * 32 - k * 32, PACKED)
            elif kw == KW - 1:
                sent = _shifted(value, (kh * KW + kw) * 32 + 16 - k * 32, PACKED)
            else:
                sent = _shifted(value, (kh * KW + kw) * 16 + 16 - k * 16, PACKED)
            total = _plus(total, sent, dtype, PACKED)
        else:
            sent = _shifted(values[e], (kh * KW + kw) * 32 - k * 32, PACKED)
            total = (total.to(tl.float32, bitcast=True) + sent.to(tl.float32, bitcast=True)).to(tl.uint32, bitcast=True)
    return total


@triton.jit
def _funnel(low, high, shift, PACKED: tl.constexpr):
    """Shift two words, of which the second is the higher, by less than 32 bits to the right; return the lower one."""
    if PACKED:
        result = tl.inline_asm_elementwise(
            "shf.r.wrap.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, shift], dtype=tl.uint32, is_pure=True, pack=1
        )
    else:
        both = (high.to(tl.uint64) << 32) | low.to(tl.uint64)
        result = (both >> shift.to(tl.uint64)).to(tl.uint32)
    return result


@triton.jit
def _shifted(value, shift, PACKED: tl.constexpr):
    """Shift to the right, where a negative shift, or one of 32 or more, leaves 0."""
    if PACKED:
        result = tl.inline_asm_elementwise(
            "shr.u32 $0, $1, $2;", "=r,r,r", [value, shift], dtype=tl.uint32, is_pure=True, pack=1
        )
    else:
        some = (shift >= 0) & (shift < 32)
        result = tl.where(some, value >> tl.where(some, shift, 0).to(tl.uint32), 0)
    return result


@triton.jit
def _plus(one, other, dtype: tl.constexpr, PACKED: tl.constexpr):
    """Add two numbers of a half type to two others, each sum rounded."""
    if PACKED:
        ONE: tl.constexpr = 0x3F803F80 if dtype == tl.bfloat16 else 0x3C003C00
        FMA: tl.constexpr = "fma.rn.bf16x2 $0, $1, $3, $2;" if dtype == tl.bfloat16 else "fma.rn.f16x2 $0, $1, $3, $2;"
        result = tl.inline_asm_elementwise(
            FMA, "=r,r,r,r", [one, other, tl.full(one.shape, ONE, tl.uint32)], dtype=tl.uint32, is_pure=True, pack=1
        )
    else:
        low = _number(one, dtype) + _number(other, dtype)
        high = _number(one >> 16, dtype) + _number(other >> 16, dtype)
        result = bits_of(low, dtype) | (bits_of(high, dtype) << 16)
    return result


@triton.jit
def _number(word, dtype: tl.constexpr):
    return word.to(tl.uint16).to(dtype, bitcast=True).to(tl.float32)


@triton.jit
def bits_of(number, dtype: tl.constexpr):
    return number.to(dtype).to(tl.uint16, bitcast=True).to(tl.uint32)


@triton.jit
def _side_by_side(columns, PLACES: tl.constexpr):
    """Put vectors side by side: a power of two of them."""
    if len(columns) == 1:
        tile = tl.reshape(columns[0], [columns[0].shape[0], PLACES])
    else:
        joined = ()
        for i in tl.static_range(len(columns) // 2):
            joined = joined + (tl.join(columns[i], columns[i + len(columns) // 2]),)
        tile = _side_by_side(joined, PLACES)
    return tile


@triton.jit
def store_words(tensor, words, line, live, PLACES: tl.constexpr):
    """Write each line's words, two by two, of which PLACES, a power of two, have room."""
    NUMBER: tl.constexpr = len(words) // 2
    pairs = ()
    for i in tl.static_range(PLACES):
        if i < NUMBER:
            pairs = pairs + (words[2 * i].to(tl.uint64) | (words[2 * i + 1].to(tl.uint64) << 32),)
        else:
            pairs = pairs + (tl.zeros(words[0].shape, tl.uint64),)
    place = tl.arange(0, PLACES)[None, :]
    into = tensor.to(tl.pointer_type(tl.uint64), bitcast=True)
    tl.store(into + (line * NUMBER + place), _side_by_side(pairs, PLACES), mask=live & (place < NUMBER))
