"""`value_mean_backward` for CUDA of small contiguous maps that a stride of 2 halves: a thread has a line of windows.

What windows of the lines above and below send to its cells, other threads have found.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._draw_line import load_line
from empool._triton._load import inside
from empool._triton._mean_backward_line import number_of, store_cells_of_line
from empool._triton._scatter_line import words_of
from empool._triton._softmax import scale_of
from empool._triton._tile import divide
from empool._triton._value import beta_of, positive_parts
from empool._triton._value_mean_backward_once import sent_to, shift_of, store_odd, sums_of_column, terms_of_window

SIZES = ["rows", "C", "H", "OH", "height_magic", "height_shift", "channels_magic", "channels_shift"]


@triton.jit
def _weights_of_line(columns, scale, shift, h, H, W: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr):
    """Return the softmax's weights, not yet divided; 0 for padding above the map and below, and anything beside it."""
    KH: tl.constexpr = WINDOW[1]
    found = ()
    for k in tl.static_range(len(columns)):
        power = shift
        if k % KH < WINDOW[7] or HIGH[1]:
            power = tl.where(inside(h + k % KH, H, k % KH < WINDOW[7], HIGH[1]), shift, -float("inf"))
        found = found + (tl.exp2(tl.fma(columns[k], scale, power)),)
    return found


@triton.jit
def _sums_of_window(sums, lane: tl.constexpr, W: tl.constexpr, WINDOW: tl.constexpr):
    """Add up the sums of a window's columns, but those of padding."""
    BEGIN: tl.constexpr = lane * WINDOW[5] if lane * WINDOW[5] > WINDOW[8] else WINDOW[8]
    LAST: tl.constexpr = lane * WINDOW[5] + WINDOW[2]
    END: tl.constexpr = LAST if W + WINDOW[8] > LAST else W + WINDOW[8]
    total = sums[2 * BEGIN]
    weighted = sums[2 * BEGIN + 1]
    for c in tl.static_range(BEGIN + 1, END):
        total += sums[2 * c]
        weighted += sums[2 * c + 1]
    return total, weighted


@triton.jit
def _from(terms, shift, place, down: tl.constexpr, there, BETA: tl.constexpr, EXACT: tl.constexpr):
    """Take the terms of windows so many lines further down, for a line's own weights; 0 if they are not there."""
    BLOCK: tl.constexpr = place.shape[0]
    source = tl.minimum(tl.maximum(place + down, 0), BLOCK - 1)
    found = ()
    for i in tl.static_range(len(terms)):
        value = tl.gather(tl.reshape(terms[i], [BLOCK]), source, 0)[:, None]
        found = found + (tl.where(there, value, 0.0),)
    if BETA != "none":
        power = tl.where(there, tl.gather(tl.reshape(shift, [BLOCK]), source, 0)[:, None] - shift, 0.0)
        ratio = tl.where(power < -40.0, float("nan"), tl.exp2(power))
        scaled = ()
        for i in tl.static_range(len(terms)):
            scaled = scaled + (found[i] if EXACT and 2 * i >= len(terms) else found[i] * ratio,)
        found = scaled
    return found


@triton.jit(do_not_specialize=SIZES)
def _value_mean_backward_line_kernel(
    grad_output,
    input,
    beta,
    grad_input,
    rows,
    C,
    H,
    OH,
    height_magic,
    height_shift,
    channels_magic,
    channels_shift,
    BETA: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
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
    """Send gradients to the activations, as `_value_mean_backward_once_kernel` does.

    A program's first lines and its last ones are found for the others alone, and are written by its neighbours.

    ABOVE, BELOW: so many lines of windows above a line of cells reach it, and below. PLACES: the power of two that
    holds what a line of cells has, in 8 bytes each.
    """
    dtype: tl.constexpr = grad_output.dtype.element_ty
    EXACT: tl.constexpr = BETA != "none" and dtype.primitive_bitwidth > 16
    KH: tl.constexpr = WINDOW[1]
    HEIGHT: tl.constexpr = ABOVE + 1 + BELOW
    LEFT: tl.constexpr = (WINDOW[2] - 1 - WINDOW[8]) // 2
    NUMBER: tl.constexpr = LEFT + 1 + (WINDOW[8] + 1) // 2  # Windows over a cell, from the left to the right.
    place = tl.arange(0, BLOCK)
    line = (tl.program_id(0) * (BLOCK - ABOVE - BELOW) - ABOVE + place)[:, None]  # (BLOCK, 1)
    row_live = (line >= 0) & (line < rows)
    row = tl.minimum(tl.maximum(line, 0), rows - 1)
    plane, oh = divide(row, OH, height_magic, height_shift, False)
    image, channel = divide(plane, C, channels_magic, channels_shift, False)
    plane_start = plane * (H * W)
    like = tl.zeros([BLOCK, 1], tl.float32)
    none = tl.zeros([1, 1], tl.int32)
    factor = beta_of(beta, channel, C, BETA, tl.float32)
    scale = scale_of(factor)
    h = oh * WINDOW[4] - WINDOW[7]
    columns = load_line(input, plane_start, oh, H, W, READ, WINDOW, HIGH, CHUNK, 0.0, tl.float32, PACKED)
    gradients = words_of(grad_output, row * OW, rows * OW, row_live, OW, dtype.primitive_bitwidth // 8, False, PACKED)
    shift = like
    if BETA == "none":
        columns = positive_parts(columns)
        weights = columns
    else:
        shift = shift_of(columns, scale, WINDOW[8] * KH + WINDOW[7], 2 * KH, 1, OW)
        weights = _weights_of_line(columns, scale, shift, h, H, W, WINDOW, HIGH)
    sums = ()
    for c in tl.static_range(READ):
        sums = sums + sums_of_column(weights, columns, c * KH, KH)
    ones = ()
    others = ()
    for ow in tl.static_range(OW):
        total, weighted = _sums_of_window(sums, ow, W, WINDOW)
        one, other = terms_of_window(
            total, weighted, number_of(gradients, ow, dtype), factor, WINDOW[1] * WINDOW[2], BETA, EXACT, PACKED
        )
        ones = ones + (one,)
        others = others + (other,)
    from_lines = ()
    for down in tl.static_range(-ABOVE, BELOW + 1):
        terms = ones + others
        if down != 0:
            terms = _from(terms, shift, place, down, (oh + down >= 0) & (oh + down < OH), BETA, EXACT)
        from_lines = from_lines + (terms,)
    ones = ()
    others = ()
    for ow in tl.static_range(OW):
        for i in tl.static_range(HEIGHT):
            ones = ones + (from_lines[i][ow],)
            others = others + (from_lines[i][OW + ow],)
    found = ()
    odd = like
    for rh in tl.static_range(2):
        for rw in tl.static_range(2):
            for aw in tl.static_range(OW):
                total = sent_to(
                    columns[(aw * 2 + rw + WINDOW[8]) * KH + rh + WINDOW[7]],
                    weights[(aw * 2 + rw + WINDOW[8]) * KH + rh + WINDOW[7]], ones, others, factor, (0, aw - LEFT), rh,
                    rw, HEIGHT, (-ABOVE, -LEFT), (HEIGHT, NUMBER), WINDOW, BETA, EXACT, like,
                )  # fmt: skip
                odd = tl.fma(total, like, odd)
                found = found + (total,)
    row_live = row_live & ((place >= ABOVE) & (place < BLOCK - BELOW))[:, None]
    store_cells_of_line(grad_input, found, row, row_live, PLACES, PACKED)
    again = row_live & (odd != odd)
    if tl.max(again.to(tl.int32)) > 0:
        tl.debug_barrier()  # What other threads have written is read.
        for each in range(OW):
            store_odd(
                grad_output, input, grad_input, plane, channel, none, oh, none + each, factor, none + 1, H, none + W,
                OH, none + OW, C, again, WINDOW, HIGH, (-ABOVE, -LEFT), (HEIGHT, NUMBER), BETA, False, like,
            )  # fmt: skip
