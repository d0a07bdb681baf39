"""`rank_mean_backward` for CUDA, of windows that neither overlap nor end in padding.

A gradient then comes from one window, so one kernel ranks the window and writes its gradients.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._draw_line import load_line
from empool._triton._mean_backward import SIZES
from empool._triton._mean_backward_line import number_of, store_cells_of_line
from empool._triton._rank import in_type, last_nan, of_rank, rank_by_pairs, two_largest
from empool._triton._scatter import load_cells, load_windows, store_cells, window_of_cell
from empool._triton._scatter_line import words_of
from empool._triton._table import set_of
from empool._triton._tile import DIVISORS, LANES, divide, index_sizes, rows_and_channels


@triton.jit
def _shares_of_two(values, weights, gradient, K: tl.constexpr, like):
    """Share every window's gradient between its two largest activations, or by one weight give it to the largest."""
    SECOND: tl.constexpr = len(weights) == 2
    none = tl.zeros([1, 1], tl.int32)
    first, first_at, second, second_at = two_largest(values, none, none, K, SECOND, False, like)
    parts = ()
    for i in tl.static_range(len(weights)):
        parts = parts + (tl.where(weights[i] != 0, gradient * weights[i], 0.0),)
    alone = first != first
    its_first = tl.where(alone, gradient, parts[0])
    found = ()
    for k in tl.static_range(K):
        part = like
        if SECOND:
            part = tl.where((second_at == k) & (first == first), parts[1], 0.0)
        found = found + (tl.where(first_at == k, its_first, part) + like,)
    return found


@triton.jit
def _shares_of_all(values, weights, gradient, K: tl.constexpr, like):
    """Share every window's gradient among all of its activations."""
    nan_at = last_nan(values, K, like)
    ranks = rank_by_pairs(values, (like == like,) * K, K, like)
    ordered = ()
    for i in tl.static_range(K):
        ordered = ordered + ((tl.broadcast_to(weights[i], like.shape) if i < len(weights) else like),)
    found = ()
    for k in tl.static_range(K):
        weight = tl.where(nan_at < 0, of_rank(ordered, ranks[k], K), tl.where(nan_at == k, 1.0, like))
        found = found + (tl.where(weight != 0, gradient * weight, 0.0) + like,)
    return found


@triton.jit
def _shares(values, weights, gradient, K: tl.constexpr, like):
    if len(weights) <= 2:
        shares = _shares_of_two(values, weights, gradient, K, like)
    else:
        shares = _shares_of_all(values, weights, gradient, K, like)
    return shares


@triton.jit
def _weights_of(
    table, channel, K: tl.constexpr, COLUMNS: tl.constexpr, TABLE_ROWS: tl.constexpr, SETS: tl.constexpr,
    ROWS: tl.constexpr, to: tl.constexpr,
):  # fmt: skip
    """Return the weights of whole windows, as a tuple."""
    row = set_of(table, channel, COLUMNS, TABLE_ROWS, SETS) + ROWS[1] * COLUMNS
    found = ()
    for column in tl.static_range(COLUMNS if COLUMNS < K else K):
        found = found + (tl.load(row + column).to(to),)
    return found


@triton.jit(do_not_specialize=[*SIZES, *DIVISORS, "depths", "heights"])
def _rank_mean_backward_apart_kernel(
    grad_output,
    input,
    weights,
    grad_input,
    rows,
    C,
    D,
    H,
    W,
    OD,
    OH,
    OW,
    depths,
    heights,
    blocks,
    blocks_magic,
    blocks_shift,
    plane_magic,
    plane_shift,
    height_magic,
    height_shift,
    channels_magic,
    channels_shift,
    COLUMNS: tl.constexpr,
    TABLE_ROWS: tl.constexpr,
    SETS: tl.constexpr,
    ROWS: tl.constexpr,
    WINDOW: tl.constexpr,
    COVERED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    PAIRS: tl.constexpr,
    ALIGNED: tl.constexpr,
    OUT_ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Share gradients among the activations of every window; cells behind the last window have none."""
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    D, H, W, OD, OH, OW = index_sizes(D, H, W, OD, OH, OW, WIDE)
    image, channel, place, ad, ah, block, plane, row_live = rows_and_channels(
        rows, C, depths, heights, blocks, blocks_magic, blocks_shift, plane_magic, plane_shift,
        height_magic, height_shift, channels_magic, channels_shift, CHANNELS_LAST, DEEP, WIDE, BLOCK, CHANNELS,
    )  # fmt: skip
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    like = tl.zeros([BLOCK, CHANNELS if CHANNELS_LAST else LANES], wide)
    its_weights = _weights_of(weights, tl.minimum(channel, C - 1), K, COLUMNS, TABLE_ROWS, SETS, ROWS, wide)
    values = in_type(
        load_cells(input, plane, channel, ad, ah, block, D, H, W, C, row_live, WINDOW, CHANNELS_LAST, PAIRS, ALIGNED),
        wide,
    )
    od, oh, ow, line, exists = window_of_cell(
        plane, ad, ah, block, (OD, OH, OW), row_live, 0, 0, 0, COVERED, CHANNELS_LAST
    )
    gradient = load_windows(
        grad_output, line, ow, block, channel, OW, C, exists, 0.0, 0, CHANNELS_LAST, OUT_ALIGNED
    ).to(wide)  # fmt: skip
    shares = _shares(values, its_weights, gradient, K, like)
    store_cells(
        grad_input, in_type(shares, dtype), plane, channel, ad, ah, block, D, H, W, C, row_live, WINDOW, CHANNELS_LAST,
        PAIRS, ALIGNED,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["rows", "C", "H", "OH", "height_magic", "height_shift", "channels_magic", "channels_shift"]
)
def _rank_mean_backward_apart_line_kernel(
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
    COLUMNS: tl.constexpr,
    TABLE_ROWS: tl.constexpr,
    SETS: tl.constexpr,
    ROWS: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    READ: tl.constexpr,
    CHUNK: tl.constexpr,
    PACKED: tl.constexpr,
    PLACES: tl.constexpr,
    W: tl.constexpr,
    OW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Do as `_rank_mean_backward_apart_kernel` for lines that `_mean_backward_line` serves, of windows of 2 by 2."""
    dtype: tl.constexpr = input.dtype.element_ty
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]  # (BLOCK, 1)
    row_live = row < rows
    row = tl.minimum(row, rows - 1)
    plane, oh = divide(row, OH, height_magic, height_shift, False)
    image, channel = divide(plane, C, channels_magic, channels_shift, False)
    like = tl.zeros([BLOCK, 1], tl.float32)
    its_weights = _weights_of(weights, channel, 4, COLUMNS, TABLE_ROWS, SETS, ROWS, tl.float32)
    columns = load_line(input, plane * (H * W), oh, H, W, READ, WINDOW, HIGH, CHUNK, 0.0, tl.float32)
    read = words_of(
        grad_output, row * OW, rows * OW, row_live, OW, dtype.primitive_bitwidth // 8, False, PACKED
    )  # fmt: skip
    found = ()
    for lane in tl.static_range(OW):
        values = (columns[4 * lane], columns[4 * lane + 2], columns[4 * lane + 1], columns[4 * lane + 3])
        found = found + (_shares(values, its_weights, number_of(read, lane, dtype), 4, like),)
    sums = ()
    for k in tl.static_range(4):
        for lane in tl.static_range(OW):
            sums = sums + (found[lane][k],)
    store_cells_of_line(grad_input, sums, row, row_live, PLACES, PACKED)
