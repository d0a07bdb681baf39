"""`rank_mean_weight_grad` for CUDA."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import apart, columns_of_window, load_columns, sorted_columns
from empool._triton._load import load_window
from empool._triton._rank import as_pairs, descending, in_type, not_finite, places
from empool._triton._tile import DIVISORS, LANES, bounds, index_sizes, outputs_of_lane, rows_and_channels

SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "blocks"]


@triton.jit
def plus_windows(
    sums, ranked, gradient, taken, count, BORDER: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    COUNTS: tl.constexpr, WINDOW: tl.constexpr, QUICK: tl.constexpr,
):  # fmt: skip
    """Add gradient times activation to the sum of every rank that a window of every count has.

    Args:
        taken: which windows take part.
        BORDER: whether some of the windows reach over a border along the width.
        QUICK: whether there are numbers alone, and all windows take part: then a gradient of 0 leaves one out.
    """
    found = ()
    for i in tl.static_range(COUNTS):
        its = count == ROWS[2 * i]
        own = tl.where(its, gradient, 0.0) if COUNTS > 1 else gradient
        for column in tl.static_range(COLUMNS):
            if column < ROWS[2 * i]:
                total = sums[len(found)]
                if not QUICK:
                    total += tl.where(taken & its, gradient * ranked[column], 0.0)
                elif BORDER or ROWS[2 * i] % WINDOW[2] == 0:
                    total = tl.fma(own, ranked[column], total)
                found = found + (total,)
    return found


@triton.jit
def _plus_tile(
    grad_output, input, sums, odd, program, group, rows, C, D, H, W, OD, OH, OW, blocks, blocks_magic, blocks_shift,
    plane_magic, plane_shift, height_magic, height_shift, channels_magic, channels_shift, NETWORK: tl.constexpr,
    EXCHANGES: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, COUNTS: tl.constexpr, LOWEST: tl.constexpr,
    LEAST: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr, CHECKED: tl.constexpr, READ: tl.constexpr,
    CHUNK: tl.constexpr, NUMBER: tl.constexpr, CHANNELS_LAST: tl.constexpr, DEEP: tl.constexpr, WIDE: tl.constexpr,
    ALIGNED: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr, QUICK: tl.constexpr, like,
):  # fmt: skip
    """Add a tile's windows to the sums; `odd` gets NaN where there is something else than numbers."""
    image, channel, place, od, oh, block, plane, row_live = rows_and_channels(
        rows, C, OD, OH, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift, height_magic, height_shift,
        channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS, WINDOW[1] > WINDOW[4], program,
    )  # fmt: skip
    if not CHANNELS_LAST:  # Rows are those of one channel, and its planes one an image.
        channel, plane = group, plane * C + group
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    HEIGHT: tl.constexpr = WINDOW[0] * WINDOW[1]
    # As in `_rank_mean_kernel`: what a block's windows cover is read together, or every window for itself.
    TOGETHER: tl.constexpr = READ > 0
    SIDE: tl.constexpr = not CHANNELS_LAST and not TOGETHER
    step = C if CHANNELS_LAST else 1
    plane_start = plane * (D * H * W) * step + (channel if CHANNELS_LAST else 0)
    line_start = (plane * (OD * OH) + place) * OW
    d, d_end = bounds(od, D, OD, WINDOW, 0)
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    size = (D, H, W)
    gradients = ()
    columns = ()
    if not CHANNELS_LAST:
        ow, live, at = outputs_of_lane(0, block, line_start, channel, row_live, OW, C, False, True, ALIGNED)
        gradients = (tl.load(grad_output + at, mask=live, other=0.0).to(like.dtype),)
        if not SIDE:
            gradients = apart(gradients[0], LANES)
    for lane in tl.static_range(1 if SIDE else NUMBER):
        ow, live, at = outputs_of_lane(lane, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, SIDE, ALIGNED)
        w, w_end = bounds(ow, W, OW, WINDOW, 2)
        start = (d, h, w)
        ends = (d_end, h_end, w_end)
        if CHANNELS_LAST:
            gradients = gradients + (tl.load(grad_output + at, mask=live, other=0.0).to(like.dtype),)
        if QUICK and TOGETHER:
            if CHANNELS_LAST or lane == 0:
                more = in_type(load_columns(
                    input, plane_start, start, ends, size, block, step, row_live, WINDOW, HIGH,
                    0 if lane == 0 else (lane - 1) * WINDOW[5] + WINDOW[2],
                    lane * WINDOW[5] + WINDOW[2] if CHANNELS_LAST else READ, CHUNK, LOWEST, ALIGNED,
                ), odd.dtype)  # fmt: skip
                if odd.dtype.primitive_bitwidth == 16 and not CHANNELS_LAST:
                    more = as_pairs(more)
                columns = columns + sorted_columns(more, HEIGHT)
            values = columns_of_window(columns, lane, WINDOW, odd.dtype)
        else:
            values = load_window(
                input, plane_start, start, ends, size, step, live, WINDOW, HIGH, like.dtype,
                LOWEST if QUICK else -float("inf"),
            )  # fmt: skip
            for k in tl.static_range(0 if QUICK else K):  # Not those with a NaN.
                live = live & (values[k] == values[k])
            values = sorted_columns(values, HEIGHT)
        first_at, second_at, tall, wide_w = places(start, ends, lane, SIDE, WINDOW, HIGH, LEAST, CHECKED)
        ranked = descending(values, K, NETWORK, EXCHANGES)
        if QUICK:
            odd = not_finite(ranked[K - 1], not_finite(ranked[0], odd, like), like)
        sums = plus_windows(
            sums, in_type(ranked, like.dtype), gradients[lane], live, tall * wide_w,
            SIDE or HIGH[2] or lane * WINDOW[5] < WINDOW[8], COLUMNS, ROWS, COUNTS, WINDOW, QUICK,
        )  # fmt: skip
    return sums, odd


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS])
def _rank_mean_weight_grad_kernel(
    grad_output,
    input,
    sums,
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
    NETWORK: tl.constexpr,
    EXCHANGES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    COUNTS: tl.constexpr,
    LOWEST: tl.constexpr,
    LEAST: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    CHECKED: tl.constexpr,
    READ: tl.constexpr,
    CHUNK: tl.constexpr,
    NUMBER: tl.constexpr,
    PACKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Add up gradient times activation for every rank, count of valid activations and channel.

    A program serves one channel, or channels last several. It adds up several tiles, one after another, and writes its
    sums: the host adds those of all programs. So nothing is added atomically, and a repeat gives the same bits. The
    window is in registers, and sorted there by maxima and minima, which suffices for numbers; a program that meets
    something else, which is seldom, does all of its tiles again.
    """
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    groups = tl.cdiv(C, CHANNELS)
    part = tl.program_id(0) // groups
    group = tl.program_id(0) % groups
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    kind: tl.constexpr = dtype if PACKED and dtype.primitive_bitwidth == 16 and READ > 0 else wide
    SIDE: tl.constexpr = not CHANNELS_LAST and READ == 0
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else (LANES if SIDE else 1)], wide)
    nothing = ()
    for i in tl.static_range(COUNTS):
        for column in tl.static_range(COLUMNS):
            if column < ROWS[2 * i]:
                nothing = nothing + (like,)
    odd = like.to(kind)
    totals = nothing
    tile = 0
    while tile < TILES:
        program = part * TILES + tile
        totals, odd = _plus_tile(
            grad_output, input, totals, odd, program * groups + group if CHANNELS_LAST else program, group, rows, C, D,
            H, W, OD, OH, OW, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift, height_magic, height_shift,
            channels_magic, channels_shift, NETWORK, EXCHANGES, COLUMNS, ROWS, COUNTS, LOWEST, LEAST, WINDOW, HIGH,
            CHECKED, READ, CHUNK, NUMBER, CHANNELS_LAST, DEEP, WIDE, ALIGNED, BLOCK, CHANNELS, True, like,
        )  # fmt: skip
        tile += 1
    unsure = odd.to(wide)
    if tl.max((unsure != unsure).to(tl.int32)) > 0:  # Infinities and NaN.
        totals = nothing
        tile = 0
        while tile < TILES:
            program = part * TILES + tile
            totals, odd = _plus_tile(
                grad_output, input, totals, odd, program * groups + group if CHANNELS_LAST else program, group, rows,
                C, D, H, W, OD, OH, OW, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift, height_magic,
                height_shift, channels_magic, channels_shift, NETWORK, EXCHANGES, COLUMNS, ROWS, COUNTS, LOWEST, LEAST,
                WINDOW, HIGH, CHECKED, READ, CHUNK, NUMBER, CHANNELS_LAST, DEEP, WIDE, ALIGNED, BLOCK, CHANNELS, False,
                like,
            )  # fmt: skip
            tile += 1
    channel = group * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    target = sums + (part * C + (channel if CHANNELS_LAST else group)) * (COUNTS * COLUMNS)
    for i in tl.static_range(COUNTS):
        for column in tl.static_range(COLUMNS):
            total = 0.0
            if column < ROWS[2 * i]:
                total = totals[0]
                totals = totals[1:]
                total = tl.sum(total, 0)[None, :] if CHANNELS_LAST else tl.sum(total)
            if CHANNELS_LAST:
                tl.store(target + (i * COLUMNS + column), total, mask=channel < C)
            else:
                tl.store(target + (i * COLUMNS + column), total)
