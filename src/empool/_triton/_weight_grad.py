"""`rank_mean_weight_grad` for CUDA."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF059

import triton
import triton.language as tl

from empool._triton._load import load_window
from empool._triton._rank import descending, valid_positions
from empool._triton._tile import DIVISORS, LANES, bounds, divide, index_sizes, outputs_of_lane, rows_and_channels

SIZES = ["rows", "D", "H", "W", "OD", "OH", "OW", "blocks"]


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
    LEAST: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    CHECKED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Add up gradient times activation for every rank, count of valid activations and channel.

    A program serves one channel, or channels last several, and writes the sums of its windows: the host adds those of
    all programs. So nothing is added atomically, and a repeat gives the same bits. The window is in registers, and
    sorted there.
    """
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    if CHANNELS_LAST:
        image, channel, place, od, oh, block, plane, row_live = rows_and_channels(
            rows, C, OD, OH, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift, height_magic, height_shift,
            channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS,
        )  # fmt: skip
        part = tl.program_id(0) // tl.cdiv(C, CHANNELS)
    else:
        part = tl.program_id(0) // C
        channel = tl.program_id(0) % C
        row = part * BLOCK + tl.arange(0, BLOCK)[:, None]
        row = row.to(tl.int64) if WIDE else row
        row_live = row < rows
        row = tl.minimum(row, rows - 1)
        line, block = divide(row, blocks, blocks_magic, blocks_shift, WIDE)
        image, place = divide(line, OD * OH, plane_magic, plane_shift, WIDE)
        od, oh = divide(place, OH, height_magic, height_shift, WIDE)
        plane = image * C + channel
    dtype = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    step = C if CHANNELS_LAST else 1
    plane_start = plane * (D * H * W) * step + (channel if CHANNELS_LAST else 0)
    line_start = (plane * (OD * OH) + place) * OW
    d, d_end = bounds(od, D, OD, WINDOW, 0)
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    size = (D, H, W)
    if CHANNELS_LAST:
        ow, live, at = block, row_live, (line_start + block) * C + channel
    else:
        ow, live, at = outputs_of_lane(0, block, line_start, channel, row_live, OW, C, CHANNELS_LAST, True, ALIGNED)
    w, w_end = bounds(ow, W, OW, WINDOW, 2)
    start = (d, h, w)
    ends = (d_end, h_end, w_end)
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
    values = load_window(input, plane_start, start, ends, size, step, live, WINDOW, HIGH, wide)
    taken = live & (like == 0)
    for k in tl.static_range(K):
        taken = taken & (values[k] == values[k])
    if CHECKED:
        first_at, second_at, tall, wide_w = valid_positions(start, ends, 0, True, WINDOW, HIGH, LEAST)
        count = tall * wide_w
    else:
        count = like.to(tl.int32) + K
    gradient = tl.load(grad_output + at, mask=taken, other=0.0).to(wide)
    ranked = descending(values, K, NETWORK, EXCHANGES)
    target = sums + (part * C + channel) * (COUNTS * COLUMNS)
    for column in tl.static_range(COLUMNS):
        term = tl.where(taken & (count > column), gradient * ranked[column], 0.0)
        for i in tl.static_range(COUNTS):
            chosen = tl.where(count == ROWS[2 * i], term, 0.0) if COUNTS > 1 else term
            if CHANNELS_LAST:
                tl.store(target + (i * COLUMNS + column), tl.sum(chosen, 0)[None, :], mask=channel < C)
            else:
                tl.store(target + (i * COLUMNS + column), tl.sum(chosen))
