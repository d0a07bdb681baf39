"""`rank_mean_weight_grad` for CUDA of small contiguous maps of a half type: a thread has a line (see `_draw_line`)."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._columns import columns_of_window, sorted_columns
from empool._triton._draw_line import load_line
from empool._triton._load import load_window
from empool._triton._mean_backward_line import number_of
from empool._triton._rank import as_pairs, descending, in_type, not_finite, places
from empool._triton._scatter_line import words_of
from empool._triton._tile import bounds, divide
from empool._triton._weight_grad import plus_windows


@triton.jit
def _plus_windows_of_line(
    sums, ranked, gradient, tall, lane: tl.constexpr, W: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    COUNTS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Do as `plus_windows` for numbers; how wide a window is, is known."""
    BEGIN: tl.constexpr = lane * WINDOW[5] if lane * WINDOW[5] > WINDOW[8] else WINDOW[8]
    LAST: tl.constexpr = lane * WINDOW[5] + WINDOW[2]
    WIDE: tl.constexpr = (LAST if W + WINDOW[8] > LAST else W + WINDOW[8]) - BEGIN
    found = ()
    for i in tl.static_range(COUNTS):
        own = tl.where(tall == ROWS[2 * i] // WIDE, gradient, 0.0) if COUNTS > 1 else gradient
        for column in tl.static_range(COLUMNS):
            if column < ROWS[2 * i]:
                total = sums[len(found)]
                if ROWS[2 * i] % WIDE == 0 and ROWS[2 * i] <= WIDE * WINDOW[1]:
                    total = tl.fma(own, ranked[column], total)
                found = found + (total,)
    return found


@triton.jit
def _plus_lines(
    grad_output, input, sums, odd, program, channel, rows, C, H, OH, height_magic, height_shift,
    NETWORK: tl.constexpr, EXCHANGES: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, COUNTS: tl.constexpr,
    LOWEST: tl.constexpr, LEAST: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr, CHECKED: tl.constexpr,
    READ: tl.constexpr, CHUNK: tl.constexpr, PACKED: tl.constexpr, W: tl.constexpr, OW: tl.constexpr,
    BLOCK: tl.constexpr, QUICK: tl.constexpr, like,
):  # fmt: skip
    """Add a tile's windows to the sums; `odd` gets NaN where there is something else than numbers."""
    K: tl.constexpr = WINDOW[1] * WINDOW[2]
    dtype: tl.constexpr = input.dtype.element_ty
    row = program * BLOCK + tl.arange(0, BLOCK)[:, None]  # (BLOCK, 1)
    row_live = row < rows
    row = tl.minimum(row, rows - 1)
    image, oh = divide(row, OH, height_magic, height_shift, False)
    plane = image * C + channel
    plane_start = plane * (H * W)
    line_start = (plane * OH + oh) * OW
    h, h_end = bounds(oh, H, OH, WINDOW, 1)
    none = tl.zeros([1, 1], tl.int32)
    ends = (none + 1, h_end, none + W)
    if QUICK:
        words = words_of(grad_output, line_start, rows * C * OW, row_live, OW, 2, False, PACKED)
        first_at, second_at, tall, wide_w = places((none, h, none), ends, 0, False, WINDOW, HIGH, LEAST, CHECKED)
        columns = load_line(input, plane_start, oh, H, W, READ, WINDOW, HIGH, CHUNK, LOWEST, odd.dtype)
        if odd.dtype.primitive_bitwidth == 16:
            columns = as_pairs(columns)
        ordered = ()
        for lane in tl.static_range(OW):
            more = ()  # Column by column, so that registers hold few of those that are sorted.
            for k in tl.static_range(len(ordered), (lane * WINDOW[5] + WINDOW[2]) * WINDOW[1]):
                more = more + (columns[k],)
            ordered = ordered + sorted_columns(more, WINDOW[1])
            ranked = descending(columns_of_window(ordered, lane, WINDOW, odd.dtype), K, NETWORK, EXCHANGES)
            odd = not_finite(ranked[K - 1], not_finite(ranked[0], odd, like), like)
            sums = _plus_windows_of_line(
                sums, in_type(ranked, like.dtype), number_of(words, lane, dtype), tall, lane, W, COLUMNS, ROWS, COUNTS,
                WINDOW,
            )  # fmt: skip
    else:
        for each in range(OW):
            start = (none, h, none + (each * WINDOW[5] - WINDOW[8]))
            values = load_window(
                input, plane_start, start, ends, (none + 1, H, W), 1, row_live, WINDOW, HIGH, like.dtype
            )
            live = row_live
            for k in tl.static_range(K):  # Not those with a NaN.
                live = live & (values[k] == values[k])
            first_at, second_at, tall, wide_w = places(start, ends, 0, True, WINDOW, HIGH, LEAST, CHECKED)
            gradient = tl.load(grad_output + (line_start + each), mask=row_live, other=0.0).to(like.dtype)
            ranked = descending(sorted_columns(values, WINDOW[1]), K, NETWORK, EXCHANGES)
            sums = plus_windows(
                sums, ranked, gradient, live, tall * wide_w, True, COLUMNS, ROWS, COUNTS, WINDOW, False
            )  # fmt: skip
    return sums, odd


@triton.jit(do_not_specialize=["rows", "C", "H", "OH", "height_magic", "height_shift"])
def _rank_mean_weight_grad_line_kernel(
    grad_output,
    input,
    sums,
    rows,
    C,
    H,
    OH,
    height_magic,
    height_shift,
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
    PACKED: tl.constexpr,
    TILES: tl.constexpr,
    W: tl.constexpr,
    OW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Do as `_rank_mean_weight_grad_kernel`. A row of the tile is a line of OW windows; READ columns are covered."""
    part = tl.program_id(0) // C
    channel = tl.program_id(0) % C
    dtype: tl.constexpr = input.dtype.element_ty
    like = tl.zeros([BLOCK, 1], tl.float32)
    nothing = ()
    for i in tl.static_range(COUNTS):
        for column in tl.static_range(COLUMNS):
            if column < ROWS[2 * i]:
                nothing = nothing + (like,)
    odd = like.to(dtype if PACKED else tl.float32)
    totals = nothing
    tile = 0
    while tile < TILES:
        totals, odd = _plus_lines(
            grad_output, input, totals, odd, part * TILES + tile, channel, rows, C, H, OH, height_magic, height_shift,
            NETWORK, EXCHANGES, COLUMNS, ROWS, COUNTS, LOWEST, LEAST, WINDOW, HIGH, CHECKED, READ, CHUNK, PACKED, W,
            OW, BLOCK, True, like,
        )  # fmt: skip
        tile += 1
    unsure = odd.to(tl.float32)
    if tl.max((unsure != unsure).to(tl.int32)) > 0:  # Infinities and NaN.
        totals = nothing
        tile = 0
        while tile < TILES:
            totals, odd = _plus_lines(
                grad_output, input, totals, odd, part * TILES + tile, channel, rows, C, H, OH, height_magic,
                height_shift, NETWORK, EXCHANGES, COLUMNS, ROWS, COUNTS, LOWEST, LEAST, WINDOW, HIGH, CHECKED, READ,
                CHUNK, PACKED, W, OW, BLOCK, False, like,
            )  # fmt: skip
            tile += 1
    target = sums + (part * C + channel) * (COUNTS * COLUMNS)
    for i in tl.static_range(COUNTS):
        for column in tl.static_range(COLUMNS):
            total = 0.0
            if column < ROWS[2 * i]:
                total = tl.sum(totals[0])
                totals = totals[1:]
            tl.store(target + (i * COLUMNS + column), total)
