"""Reading the activations of every window of a tile."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF005

import triton
import triton.language as tl

from empool._triton._tile import LANES, after, before


@triton.jit
def inside(position, size, LOW: tl.constexpr, HIGH: tl.constexpr):
    """Tell whether a position is no padding, as far as a window can reach over the low and the high border."""
    if LOW and HIGH:
        answer = (position >= 0) & (position < size)
    elif LOW:
        answer = position >= 0
    elif HIGH:
        answer = position < size
    else:
        answer = position == position
    return answer


@triton.jit
def activation(
    corner, start, ends, size, step, live, kd, kh, kw, WINDOW: tl.constexpr, HIGH: tl.constexpr,
    OTHER: tl.constexpr = -float("inf"),
):  # fmt: skip
    """Load the activation at one position of every window, and tell which are valid; OTHER where none is."""
    valid = live
    if WINDOW[6] > 0 or HIGH[0]:
        valid = valid & inside(start[0] + kd * WINDOW[9], ends[0], WINDOW[6] > 0, HIGH[0])
    if WINDOW[7] > 0 or HIGH[1]:
        valid = valid & inside(start[1] + kh * WINDOW[10], ends[1], WINDOW[7] > 0, HIGH[1])
    if WINDOW[8] > 0 or HIGH[2]:
        valid = valid & inside(start[2] + kw * WINDOW[11], ends[2], WINDOW[8] > 0, HIGH[2])
    offset = ((kd * WINDOW[9] * size[1] + kh * WINDOW[10]) * size[2] + kw * WINDOW[11]) * step
    return tl.load(corner + offset, mask=valid, other=OTHER), valid


@triton.jit
def corner_of(input, plane_start, start, size, step):
    """Point to where windows begin."""
    return input + (plane_start + ((start[0] * size[1] + start[1]) * size[2] + start[2]) * step)


@triton.jit
def load_window(
    input,
    plane_start,
    start,
    ends,
    size,
    block,
    step,
    row_live,
    live,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    PAIRS: tl.constexpr,
    wide: tl.constexpr,
    OTHER: tl.constexpr = -float("inf"),
):
    """Load all of every window, in window order, as a tuple of tiles, and a tuple that tells which are valid.

    Args:
        plane_start: index of the plane's (or image's and channel's) first element.
        row_live, live: which rows, and which windows of them, exist.
        PAIRS: 0, or, for stride 2, the power of two that divides the width: neighbouring columns are then read
            together, as vectors, and split.
        OTHER: what stands for padding.
    """
    KD: tl.constexpr = WINDOW[0]
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    values = ()
    valids = ()
    corner = corner_of(input, plane_start, start, size, step)
    for kd in tl.static_range(KD):
        for kh in tl.static_range(KH):
            for kw in tl.static_range(KW):
                if PAIRS > 0:
                    id = start[0] + kd * WINDOW[9]
                    ih = start[1] + kh * WINDOW[10]
                    row = row_live
                    if WINDOW[6] > 0 or HIGH[0]:
                        row = row & inside(id, ends[0], WINDOW[6] > 0, HIGH[0])
                    if WINDOW[7] > 0 or HIGH[1]:
                        row = row & inside(ih, ends[1], WINDOW[7] > 0, HIGH[1])
                    line = plane_start + (id * size[1] + ih) * size[2]
                    left, right = _pair_of_columns(
                        input, line, block, size[2], row, (kw - WINDOW[8]) // 2 * 2, PAIRS, OTHER
                    )
                    value = left if (kw - WINDOW[8]) % 2 == 0 else right
                    valid = live & row
                    if WINDOW[8] > 0 or HIGH[2]:
                        valid = valid & inside(start[2] + kw, ends[2], WINDOW[8] > 0, HIGH[2])
                else:
                    value, valid = activation(corner, start, ends, size, step, live, kd, kh, kw, WINDOW, HIGH, OTHER)
                values = values + (value.to(wide),)
                valids = valids + (valid,)
    return values, valids


@triton.jit
def _pair_of_columns(input, line, block, W, row, shift: tl.constexpr, PAIRS: tl.constexpr, OTHER: tl.constexpr):
    """Load columns ``2 * ow + shift`` and the next one, of every lane; neighbours' are taken from the lane beside."""
    if shift == -2 or shift == 2:
        left, right = _aligned_pair(input, line, block, W, row, 0, PAIRS, OTHER)
        if shift < 0:
            column = block * (2 * LANES) - 2
            within = row & (column >= 0)
        else:
            column = (block + 1) * (2 * LANES)
            within = row & (column < W)
        outer = tl.load(input + (line + column), mask=within, other=OTHER)
        inner = tl.load(input + (line + column + 1), mask=within, other=OTHER)
        if shift < 0:
            left, right = before(left, outer), before(right, inner)
        else:
            left, right = after(left, outer), after(right, inner)
    else:
        left, right = _aligned_pair(input, line, block, W, row, shift, PAIRS, OTHER)
    return left, right


@triton.jit
def _aligned_pair(input, line, block, W, row, shift: tl.constexpr, PAIRS: tl.constexpr, OTHER: tl.constexpr):
    """Load columns ``2 * ow + shift`` and the next one, of every lane, as vectors of a line.

    (For two positions of a window in the same columns the compiler keeps one of the two equal loads.)
    """
    start = tl.multiple_of(line + block * (2 * LANES), [PAIRS, PAIRS])
    first = block * (2 * LANES) + shift
    if input.dtype.element_ty.primitive_bitwidth > 16:
        # In halves, so that a thread holds all of a row: 16 bytes an access, no exchange between threads.
        left, right = tl.split(_quad(input, start, first, W, row, shift, PAIRS, OTHER))
        left_of_next, right_of_next = tl.split(_quad(input, start + LANES, first + LANES, W, row, shift, PAIRS, OTHER))
        return _beside(left, left_of_next), _beside(right, right_of_next)
    columns = tl.arange(0, 2 * LANES)[None, :]
    if shift % PAIRS == 0:
        within = row & (first + columns // PAIRS * PAIRS < W)
        if shift < 0:
            within = within & (first + columns // PAIRS * PAIRS >= 0)
    else:
        within = row & (first + columns // 2 * 2 < W)
        if shift < 0:
            within = within & (first + columns // 2 * 2 >= 0)
    both = tl.load(input + (start + (columns + shift)), mask=within, other=OTHER)
    return tl.split(tl.reshape(both, [both.shape[0], LANES, 2]))


@triton.jit
def _quad(input, start, first, W, row, shift: tl.constexpr, PAIRS: tl.constexpr, OTHER: tl.constexpr):
    columns = tl.arange(0, LANES)[None, :]
    WHOLE: tl.constexpr = 4 if PAIRS > 4 else PAIRS
    if shift % WHOLE == 0:
        within = row & (first + columns // WHOLE * WHOLE < W)
        if shift < 0:
            within = within & (first + columns // WHOLE * WHOLE >= 0)
    else:
        within = row & (first + columns // 2 * 2 < W)
        if shift < 0:
            within = within & (first + columns // 2 * 2 >= 0)
    four = tl.load(input + (start + (columns + shift)), mask=within, other=OTHER)
    return tl.reshape(four, [four.shape[0], LANES // 2, 2])


@triton.jit
def _beside(one, other):
    """Lay two tiles side by side along the second dimension."""
    return tl.reshape(tl.permute(tl.join(one, other), [0, 2, 1]), [one.shape[0], LANES])
