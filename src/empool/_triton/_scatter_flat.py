"""`drawn_scatter` for CUDA, for contiguous maps that a stride of 2 halves and whose rows end amid a part of memory."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._scatter import rounded
from empool._triton._tile import divide


@triton.jit(do_not_specialize=["rows", "height", "height_magic", "height_shift"])
def _drawn_scatter_flat_kernel(
    grad_output,
    drawn,
    grad_input,
    rows,
    height,
    height_magic,
    height_shift,
    WINDOW: tl.constexpr,
    FLAT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Do as `_drawn_scatter_kernel` for contiguous maps that the stride halves, however few columns they have.

    A cell of 2 by 2 inputs has the number of the window that begins there, so cells are numbered as the draws lie in
    memory, and no thread idles at a line's end. What was found for them is moved so that the input is stored as it lies
    in memory too: what fills a part of 32 bytes alone costs as much as all of it.

    FLAT: the output's width. rows: how many windows there are. height: the output's.
    """
    dtype: tl.constexpr = grad_output.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    PH: tl.constexpr = WINDOW[7]
    PW: tl.constexpr = WINDOW[8]
    NUMBER: tl.constexpr = BLOCK // (8 * FLAT) * (8 * FLAT)  # Of a program: as many lines as begin at 16 bytes.
    index = tl.arange(0, BLOCK)
    start = tl.program_id(0) * NUMBER
    at = start + index
    live = (index < NUMBER) & (at < rows)
    line = index // FLAT
    ow = index - line * FLAT
    plane, oh = divide(start // FLAT + line, height, height_magic, height_shift, False)
    totals = ()
    for cell in tl.static_range(4):
        total = tl.zeros([BLOCK], wide)
        for kh in tl.static_range(KH - 1, -1, -1):
            for kw in tl.static_range(KW - 1, -1, -1):
                if (kh - PH - cell // 2) % 2 == 0 and (kw - PW - cell % 2) % 2 == 0:
                    where, gradient = _neighbour(
                        grad_output, drawn, at, oh, ow, live, height, (PH + cell // 2 - kh) // 2,
                        (PW + cell % 2 - kw) // 2, FLAT, wide,
                    )  # fmt: skip
                    hit = where == kh * KW + kw
                    total = rounded(total + tl.where(hit, gradient, 0.0), dtype, wide)
        totals = totals + (total.to(dtype),)
    above = _two_in_one(totals[0], totals[1])
    below = _two_in_one(totals[2], totals[3])
    pair = tl.arange(0, 2 * BLOCK)
    row = pair // FLAT
    source = (pair - (row + 1) // 2 * FLAT) * 2 + row % 2
    both = tl.gather(tl.reshape(tl.join(above, below), [2 * BLOCK]), tl.minimum(source, 2 * BLOCK - 1), 0)
    within = (pair < 2 * NUMBER) & (start * 2 + pair // 4 * 4 < rows * 2)
    pairs = grad_input.to(tl.pointer_type(both.dtype), bitcast=True)
    tl.store((pairs + start * 2) + pair, both, mask=within)


@triton.jit
def _neighbour(
    grad_output, drawn, at, oh, ow, live, height, down: tl.constexpr, right: tl.constexpr, FLAT: tl.constexpr,
    wide: tl.constexpr,
):  # fmt: skip
    """Load the draw and gradient of the window so far below and to the right; 255, and 0, where there is none."""
    exists = live
    if down > 0:
        exists = exists & (oh < height - down)
    if down < 0:
        exists = exists & (oh >= -down)
    if right > 0:
        exists = exists & (ow < FLAT - right)
    if right < 0:
        exists = exists & (ow >= -right)
    where = tl.load((drawn + at) + (down * FLAT + right), mask=exists, other=255).to(tl.int32)
    return where, tl.load((grad_output + at) + (down * FLAT + right), mask=exists, other=0.0).to(wide)


@triton.jit
def _two_in_one(left, right):
    """Put two numbers into a whole one of twice as many bits, the left one where memory has it first."""
    if left.dtype.primitive_bitwidth == 16:
        low = left.to(tl.uint16, bitcast=True).to(tl.int32)
        both = (right.to(tl.uint16, bitcast=True).to(tl.int32) << 16) | low
    else:
        low = left.to(tl.uint32, bitcast=True).to(tl.int64)
        both = (right.to(tl.uint32, bitcast=True).to(tl.int64) << 32) | low
    return both
