"""Reading the activations of every window of a tile."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._tile import LANES


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
def is_valid(start, ends, live, kd, kh, kw, WINDOW: tl.constexpr, HIGH: tl.constexpr):
    """Tell which windows have an activation at a position, where others have padding."""
    valid = live
    if WINDOW[6] > 0 or HIGH[0]:
        valid = valid & inside(start[0] + kd * WINDOW[9], ends[0], WINDOW[6] > 0, HIGH[0])
    if WINDOW[7] > 0 or HIGH[1]:
        valid = valid & inside(start[1] + kh * WINDOW[10], ends[1], WINDOW[7] > 0, HIGH[1])
    if WINDOW[8] > 0 or HIGH[2]:
        valid = valid & inside(start[2] + kw * WINDOW[11], ends[2], WINDOW[8] > 0, HIGH[2])
    return valid


@triton.jit
def activation(
    corner, start, ends, size, step, live, kd, kh, kw, WINDOW: tl.constexpr, HIGH: tl.constexpr,
    OTHER: tl.constexpr = -float("inf"),
):  # fmt: skip
    """Load the activation at one position of every window, and tell which are valid; OTHER where none is."""
    valid = is_valid(start, ends, live, kd, kh, kw, WINDOW, HIGH)
    offset = ((kd * WINDOW[9] * size[1] + kh * WINDOW[10]) * size[2] + kw * WINDOW[11]) * step
    return tl.load(corner + offset, mask=valid, other=OTHER), valid


@triton.jit
def corner_of(input, plane_start, start, size, step):
    """Point to where windows begin."""
    return input + (plane_start + ((start[0] * size[1] + start[1]) * size[2] + start[2]) * step)


@triton.jit
def load_window(
    input, plane_start, start, ends, size, step, live, WINDOW: tl.constexpr, HIGH: tl.constexpr, wide: tl.constexpr,
    OTHER: tl.constexpr = -float("inf"),
):  # fmt: skip
    """Load all of every window, in window order, as a tuple of tiles; OTHER stands for padding."""
    values = ()
    corner = corner_of(input, plane_start, start, size, step)
    KD: tl.constexpr = WINDOW[0]
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    for kd in tl.static_range(KD):
        for kh in tl.static_range(KH):
            for kw in tl.static_range(KW):
                value, valid = activation(corner, start, ends, size, step, live, kd, kh, kw, WINDOW, HIGH, OTHER)
                values = values + (value.to(wide),)
    return values


@triton.jit
def valid_of_window(start, ends, live, WINDOW: tl.constexpr, HIGH: tl.constexpr):
    """Tell which positions of every window are no padding, in window order, as a tuple."""
    valids = ()
    KD: tl.constexpr = WINDOW[0]
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    for kd in tl.static_range(KD):
        for kh in tl.static_range(KH):
            for kw in tl.static_range(KW):
                valids = valids + (is_valid(start, ends, live, kd, kh, kw, WINDOW, HIGH),)
    return valids


@triton.jit
def padded_with(
    columns, other, d, h, ends, W, block, BEGIN: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr
):  # fmt: skip
    """Put `other` in place of padding in a block's columns from BEGIN on, as `_columns.load_columns` gives them."""
    found = ()
    KD: tl.constexpr = WINDOW[0]
    KH: tl.constexpr = WINDOW[1]
    for c in tl.static_range(len(columns) // (KD * KH)):
        iw = block * (LANES * WINDOW[5]) + (BEGIN + c - WINDOW[8])
        for kd in tl.static_range(KD):
            for kh in tl.static_range(KH):
                value = columns[(c * KD + kd) * KH + kh]
                start = (d + kd * WINDOW[9], h + kh * WINDOW[10], iw)
                reach = (kd * WINDOW[9], kh * WINDOW[10], BEGIN + c)
                for dim in tl.static_range(3):
                    if reach[dim] < WINDOW[6 + dim]:
                        value = tl.where(start[dim] >= 0, value, other)
                    if HIGH[dim]:
                        value = tl.where(start[dim] < (W if dim == 2 else ends[dim]), value, other)
                found = found + (value,)
    return found
