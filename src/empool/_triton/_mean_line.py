"""`rank_mean` for CUDA of small contiguous maps: a thread averages a whole line of windows (see `_draw_line`)."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import columns_of_window, sorted_columns
from empool._triton._draw_line import line_of, load_line, tops_of_columns_of_line, tops_of_window_of_line
from empool._triton._mean import mean_any
from empool._triton._rank import as_pairs, descending, in_type, not_finite, places, sign_of
from empool._triton._table import row_of, set_of
from empool._triton._tile import LANES, bounds, divide, moved, side_by_side


@triton.jit
def _weights_of(row, to, COLUMNS: tl.constexpr):
    """Load a row's weights, and what the sum starts with: -0 for weights 1, 0, 0, ..., which keeps a zero's sign."""
    found = ()
    for column in tl.static_range(COLUMNS):
        found = found + (tl.load(row + column).to(to),)
    others = tl.abs(found[1])
    for column in tl.static_range(2, COLUMNS):
        others += tl.abs(found[column])
    alone = (found[0] == 1) & (others == 0)
    return found + ((tl.where(alone, -1.0, 1.0) * 0.0).to(to),)  # Triton makes 0 of a constant -0.


@triton.jit(
    do_not_specialize=["rows", "C", "H", "OH", "height_magic", "height_shift", "channels_magic", "channels_shift"]
)
def _rank_mean_line_kernel(
    input,
    weights,
    output,
    rows,
    C,
    H,
    OH,
    height_magic,
    height_shift,
    channels_magic,
    channels_shift,
    METHOD: tl.constexpr,
    NETWORK: tl.constexpr,
    EXCHANGES: tl.constexpr,
    COLUMNS: tl.constexpr,
    TABLE_ROWS: tl.constexpr,
    SETS: tl.constexpr,
    ROWS: tl.constexpr,
    COUNTS: tl.constexpr,
    LOWEST: tl.constexpr,
    SIDES: tl.constexpr,
    WIDTHS: tl.constexpr,
    LEAST: tl.constexpr,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    CHECKED: tl.constexpr,
    READ: tl.constexpr,
    CHUNK: tl.constexpr,
    PACKED: tl.constexpr,
    W: tl.constexpr,
    OW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Average the ranked activations of every window, as `_rank_mean_kernel` does by METHOD "second" or "sorted".

    A row of the tile is a line of OW windows, of which READ columns are covered.
    """
    K: tl.constexpr = WINDOW[1] * WINDOW[2]
    BLOCKS: tl.constexpr = (OW + LANES - 1) // LANES
    TWO: tl.constexpr = LEAST[1] * LEAST[2] > 1
    dtype: tl.constexpr = input.dtype.element_ty
    wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
    kind: tl.constexpr = dtype if PACKED and dtype.primitive_bitwidth == 16 else wide
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]  # (BLOCK, 1)
    row_live = row < rows
    row = tl.minimum(row, rows - 1)
    plane, oh = divide(row, OH, height_magic, height_shift, False)
    image, channel = divide(plane, C, channels_magic, channels_shift, False)
    plane_start = plane * (H * W)
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    none = tl.zeros([1, 1], tl.int32)
    like = tl.zeros([BLOCK, 1], wide)
    table = set_of(weights, channel, COLUMNS, TABLE_ROWS, SETS)
    columns = load_line(input, plane_start, oh, H, W, READ, WINDOW, HIGH, CHUNK, LOWEST, kind)
    if kind.primitive_bitwidth == 16:
        columns = as_pairs(columns)
    if METHOD == "second":
        firsts, seconds = tops_of_columns_of_line(columns, W, READ, WINDOW, LOWEST)
    ordered = ()
    odd = like.to(kind)
    least = like + 1.0
    smallest = least
    signs = like.to(tl.int32)
    means = ()
    shared = ()
    for lane in tl.static_range(OW):
        start = (none, h, none + (lane * WINDOW[5] - WINDOW[8]))
        ends = (none + 1, h_end, none + W)
        first_at, second_at, tall, wide_w = places(start, ends, 0, True, WINDOW, HIGH, LEAST, CHECKED)
        # Rows that windows have in common are read once.
        if COUNTS > 1 and (lane * WINDOW[5] < WINDOW[8] or lane * WINDOW[5] + WINDOW[2] > W + WINDOW[8]):
            own = _weights_of(row_of(table, tall * wide_w, ROWS, COUNTS, COLUMNS), wide, COLUMNS)
        else:
            if len(shared) == 0:
                shared = _weights_of(row_of(table, tall * wide_w, ROWS, COUNTS, COLUMNS), wide, COLUMNS)
            own = shared
        if METHOD == "second":
            ranked = tops_of_window_of_line(firsts, seconds, lane, W, WINDOW)
        else:
            more = ()  # Column by column, so that registers hold few of those that are sorted.
            for k in tl.static_range(len(ordered), (lane * WINDOW[5] + WINDOW[2]) * WINDOW[1]):
                more = more + (columns[k],)
            ordered = ordered + sorted_columns(more, WINDOW[1])
            ranked = descending(columns_of_window(ordered, lane, WINDOW, kind), K, NETWORK, EXCHANGES)
            odd = not_finite(ranked[K - 1], odd, like)
        odd = not_finite(ranked[0], odd, like)
        ranked = in_type(ranked, wide)
        mean = own[COLUMNS]
        for column in tl.static_range(COLUMNS):
            mean = mean + own[column] * ranked[column]
        low = ranked[0]
        if METHOD == "second":  # Padding counts as more than -inf.
            low = ranked[1] if TWO else tl.where(tall * wide_w > 1, ranked[1], ranked[0])
        least = tl.minimum(least, low)
        smallest = tl.minimum(smallest, tl.abs(ranked[0]))
        signs = signs | sign_of(own[COLUMNS])
        means = means + (mean.to(dtype),)
    at, source, live = side_by_side(rows * BLOCKS, BLOCK * BLOCKS, OW)
    tl.store(output + at, moved(line_of(means, OW, BLOCKS * LANES), source), mask=live)
    odd = odd.to(wide)
    again = (odd != odd) | (least <= LOWEST) | ((smallest == 0) & (signs != 0))
    if tl.max((row_live & again).to(tl.int32)) > 0:  # Infinities, NaN and the sign of a largest zero.
        for block in range(BLOCKS):
            for its_lane in tl.static_range(4):
                mean_any(
                    input, output, plane_start, row * OW, table, its_lane, none + block, channel, none, none + 1, h,
                    h_end, (none + 1, H, W), 1, row_live, OW, C, METHOD, NETWORK, EXCHANGES, COLUMNS, SIDES, ROWS,
                    COUNTS, WIDTHS, LEAST, WINDOW, HIGH, CHECKED, False, False, 1, True, like,
                )  # fmt: skip
