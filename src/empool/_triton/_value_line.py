"""`value_draw` and `value_mean` for CUDA of small contiguous maps, a thread for each line (see `_draw_line`)."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._draw import store_draw
from empool._triton._draw_line import SIZES, line_of, load_line
from empool._triton._load import inside
from empool._triton._softmax import SURE, drawn_by_powers, error_of, rough_powers, scale_of, shift_of
from empool._triton._tile import LANES, bounds, divide, moved, number_of_lane, side_by_side, uniform32
from empool._triton._value import (
    beta_of,
    draw_any,
    drawn_of_window,
    largest_of,
    none_of_zero,
    positive_parts,
    powers_of,
    scores_of,
)
from empool._triton._value_mean import largest_power, mean_any, mean_by_softmax, mean_by_value


@triton.jit
def _padded_line(value, NUMBER: tl.constexpr, h, H, WINDOW: tl.constexpr, HIGH: tl.constexpr):
    """Return a value for each of NUMBER positions of a line's columns, -inf where there is padding above or below."""
    found = ()
    KH: tl.constexpr = WINDOW[1]
    for k in tl.static_range(NUMBER):
        if k % KH < WINDOW[7] or HIGH[1]:
            found = found + (tl.where(inside(h + k % KH, H, k % KH < WINDOW[7], HIGH[1]), value, -float("inf")),)
        else:
            found = found + (value,)
    return found


@triton.jit
def _largest_of_line(powers, lane: tl.constexpr, W: tl.constexpr, WINDOW: tl.constexpr):
    """Return the largest power of a window, by those of its columns."""
    BEGIN: tl.constexpr = lane * WINDOW[5] if lane * WINDOW[5] > WINDOW[8] else WINDOW[8]
    LAST: tl.constexpr = lane * WINDOW[5] + WINDOW[2]
    END: tl.constexpr = LAST if W + WINDOW[8] > LAST else W + WINDOW[8]
    largest = powers[BEGIN]
    for c in tl.static_range(BEGIN + 1, END):
        largest = tl.maximum(largest, powers[c], propagate_nan=tl.PropagateNan.ALL)
    return largest


@triton.jit
def _window_of_line(columns, lane: tl.constexpr, W: tl.constexpr, WINDOW: tl.constexpr):
    """Pick a window's activations, in window order; columns of padding are left out."""
    BEGIN: tl.constexpr = lane * WINDOW[5] if lane * WINDOW[5] > WINDOW[8] else WINDOW[8]
    LAST: tl.constexpr = lane * WINDOW[5] + WINDOW[2]
    END: tl.constexpr = LAST if W + WINDOW[8] > LAST else W + WINDOW[8]
    KH: tl.constexpr = WINDOW[1]
    values = ()
    for row in tl.static_range(KH):
        for c in tl.static_range(BEGIN, END):
            values = values + (columns[c * KH + row],)
    return values


@triton.jit
def _place_of(index, lane: tl.constexpr, W: tl.constexpr, WINDOW: tl.constexpr):
    """Return the position in the window of what is so many places behind the first of `_window_of_line`."""
    LEFT: tl.constexpr = WINDOW[8] - lane * WINDOW[5] if lane * WINDOW[5] < WINDOW[8] else 0
    LAST: tl.constexpr = lane * WINDOW[5] + WINDOW[2]
    RIGHT: tl.constexpr = LAST - (W + WINDOW[8]) if W + WINDOW[8] < LAST else 0
    if LEFT + RIGHT > 0:
        line = index.to(tl.uint32) // (WINDOW[2] - LEFT - RIGHT)
        index = index + line.to(tl.int32) * (LEFT + RIGHT) + LEFT
    return index


@triton.jit(do_not_specialize=SIZES)
def _value_draw_line_kernel(
    input,
    seed,
    beta,
    output,
    drawn,
    rows,
    share,
    first_image,
    C,
    H,
    OH,
    height_magic,
    height_shift,
    channels_magic,
    channels_shift,
    SEEDS: tl.constexpr,
    TIED: tl.constexpr,
    BETA: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    READ: tl.constexpr,
    CHUNK: tl.constexpr,
    PACKED: tl.constexpr,
    W: tl.constexpr,
    OW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Draw an activation of every window, as `_value_draw_kernel` does.

    A row of the tile is a line of OW windows, of which READ columns are covered. Columns of padding are left out.
    """
    BLOCKS: tl.constexpr = (OW + LANES - 1) // LANES
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    HALF: tl.constexpr = dtype.primitive_bitwidth == 16
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]  # (BLOCK, 1)
    row_live = row < rows
    row = tl.minimum(row, rows - 1)
    plane, oh = divide(row, OH, height_magic, height_shift, False)
    image, channel = divide(plane, C, channels_magic, channels_shift, False)
    plane_start = plane * (H * W)
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    none = tl.zeros([1, 1], tl.int32)
    like = tl.zeros([BLOCK, 1], wide)
    factor = beta_of(beta, channel, C, BETA, wide)
    columns = load_line(input, plane_start, oh, H, W, READ, WINDOW, HIGH, CHUNK, 0.0, wide, PACKED)
    if BETA == "none":
        columns = positive_parts(columns)
    elif wide == tl.float64:
        holes = _padded_line(tl.full([1, 1], -0.0, wide), len(columns), h, h_end, WINDOW, HIGH)
        scores, tops = scores_of(columns, holes, factor, WINDOW[1])
    else:
        shift = shift_of(columns[WINDOW[8] * WINDOW[1] : (WINDOW[8] + W) * WINDOW[1]], factor)
        powers = rough_powers(columns, factor, _padded_line(shift, len(columns), h, h_end, WINDOW, HIGH))
    most = like
    least = like + 1.0
    slacks = ()
    values = ()
    positions = ()
    for lane in tl.static_range(OW):
        if lane - lane // LANES * LANES == 0:
            numbers = uniform32(seed, image, channel, oh, none + lane // LANES, share, first_image, SEEDS, TIED, PACKED)
        number = number_of_lane(numbers, lane - lane // LANES * LANES, False, TIED)
        window = _window_of_line(columns, lane, W, WINDOW)
        if BETA == "none":
            value, position, total = drawn_of_window(window, window, number, len(window), PACKED, like)
            # Then all values are 0.
            position = none_of_zero(_place_of(position, lane, W, WINDOW), total, PACKED)
            most = largest_of((most, total), 2)
        elif wide == tl.float64:
            largest = _largest_of_line(tops, lane, W, WINDOW)
            weights = powers_of(_window_of_line(scores, lane, W, WINDOW), largest, len(window))
            value, position, total = drawn_of_window(window, weights, number, len(window), PACKED, like)
            most = largest_of((most, tl.abs(largest)), 2)
            position = _place_of(position, lane, W, WINDOW)
        else:
            value, position, slack = drawn_by_powers(
                window, _window_of_line(powers, lane, W, WINDOW), error_of(shift, factor, len(window), dtype), number,
                len(window) // WINDOW[1], WINDOW[2], WINDOW[8] - lane * WINDOW[5], PACKED, like,
            )  # fmt: skip
            slacks = slacks + (slack,)
            least = tl.minimum(least, slack, propagate_nan=tl.PropagateNan.ALL)
        if HALF:  # Both in one word.
            if dtype == tl.bfloat16:
                word = value.to(tl.int32, bitcast=True)
            else:
                word = value.to(dtype).to(tl.int16, bitcast=True).to(tl.int32) << 16
            values = values + (word | (position & 255),)
        else:
            values = values + (value,)
            positions = positions + (position.to(drawn.dtype.element_ty),)
    at, source, live = side_by_side(rows * BLOCKS, BLOCK * BLOCKS, OW)
    value = moved(line_of(values, OW, BLOCKS * LANES), source)
    if HALF:
        position = value & 255
        value = (value >> 16).to(tl.int16).to(dtype, bitcast=True)
    else:
        position = moved(line_of(positions, OW, BLOCKS * LANES), source)
    store_draw(output, drawn, at, value, position, live)
    again = row_live & ~((most < float("inf")) & (least > SURE))
    if tl.max(again.to(tl.int32)) > 0:
        unsure = again.to(tl.int32) * -1
        if BETA != "none" and wide == tl.float32:
            for lane in tl.static_range(OW):
                unsure = tl.where(slacks[lane] > SURE, unsure & ~(1 << lane), unsure)
        for each in range(OW):
            again = (unsure >> each) & 1 > 0
            if tl.max(again.to(tl.int32)) > 0:
                block = none + each // LANES
                numbers = uniform32(seed, image, channel, oh, block, share, first_image, SEEDS, TIED, PACKED)
                draw_any(
                    input, output, drawn, plane_start, row * OW, numbers, factor, each - each // LANES * LANES, block,
                    channel, none, none + 1, h, h_end, (none + 1, H, W), 1, again, OW, C, TIED, BETA, WINDOW, HIGH,
                    False, False, 1, PACKED, True, like,
                )  # fmt: skip


@triton.jit(
    do_not_specialize=["rows", "C", "H", "OH", "height_magic", "height_shift", "channels_magic", "channels_shift"]
)
def _value_mean_line_kernel(
    input,
    beta,
    output,
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
    W: tl.constexpr,
    OW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Average the activations of every window, as `_value_mean_kernel` does.

    A row of the tile is a line of OW windows, of which READ columns are covered. Columns of padding are left out.
    """
    KH: tl.constexpr = WINDOW[1]
    BLOCKS: tl.constexpr = (OW + LANES - 1) // LANES
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]  # (BLOCK, 1)
    row_live = row < rows
    row = tl.minimum(row, rows - 1)
    plane, oh = divide(row, OH, height_magic, height_shift, False)
    image, channel = divide(plane, C, channels_magic, channels_shift, False)
    plane_start = plane * (H * W)
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    none = tl.zeros([1, 1], tl.int32)
    like = tl.zeros([BLOCK, 1], wide)
    factor = beta_of(beta, channel, C, BETA, wide)
    columns = load_line(input, plane_start, oh, H, W, READ, WINDOW, HIGH, CHUNK, 0.0, wide, PACKED)
    if BETA == "none":
        columns = positive_parts(columns)
    else:
        scale = scale_of(factor)
        holes = _padded_line(tl.full([1, 1], -0.0, wide), len(columns), h, h_end, WINDOW, HIGH)
        powers = ()
        for c in tl.static_range(READ):
            powers = powers + (largest_power(columns, holes, scale, c * KH, KH),)
    again = like.to(tl.int32)
    means = ()
    for lane in tl.static_range(OW):
        values = _window_of_line(columns, lane, W, WINDOW)
        if BETA == "none":
            mean, share, odd = mean_by_value(values, len(values), PACKED)
        else:
            largest = _largest_of_line(powers, lane, W, WINDOW)
            mean, shift, share, odd = mean_by_softmax(
                values, _window_of_line(holes, lane, W, WINDOW), scale, largest, len(values), "mean", PACKED,
                dtype.primitive_bitwidth > 16,
            )  # fmt: skip
        again = again | tl.where(odd, 1 << lane, 0)
        means = means + (mean.to(dtype),)
    at, source, live = side_by_side(rows * BLOCKS, BLOCK * BLOCKS, OW)
    tl.store(output + at, moved(line_of(means, OW, BLOCKS * LANES), source), mask=live)
    again = tl.where(row_live, again, 0)
    if tl.max(again) > 0:  # Seldom: a loop compiles faster.
        for each in range(OW):
            which = (again >> each) & 1 != 0
            mean_any(
                input, output, output, output, plane_start, row * OW, factor, each - each // LANES * LANES,
                none + each // LANES, channel, none, none + 1, h, h_end, (none + 1, H, W), 1, which, OW, C, BETA,
                "mean", WINDOW, HIGH, False, False, 1, like,
            )  # fmt: skip
