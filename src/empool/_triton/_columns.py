"""Reading a block of windows at once: every column of the input that its `LANES` windows cover, for one thread.

So what neighbouring windows share is read and prepared once.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF005

import triton
import triton.language as tl

from empool._triton._load import inside
from empool._triton._rank import larger, smaller, three
from empool._triton._tile import LANES

_HALVES = tl.constexpr("shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;")
"""Two numbers of bfloat16 as float32: what the compiler makes of a conversion takes an instruction more."""


@triton.jit
def load_columns(
    input,
    plane_start,
    start,
    ends,
    size,
    block,
    step,
    row_live,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    BEGIN: tl.constexpr,
    END: tl.constexpr,
    CHUNK: tl.constexpr,
    OTHER: tl.constexpr,
    ALIGNED: tl.constexpr,
    APART: tl.constexpr = False,
    NUMBER: tl.constexpr = LANES,
    ROWS_INSIDE: tl.constexpr = 0,
    COLUMNS_INSIDE: tl.constexpr = 0,
):
    """Load columns of what the windows of every block cover, as a tuple of tiles: one column's rows after another's.

    Column 0 is where the first of the windows begins. Tiles are ``(BLOCK, 1)``, channels last ``(BLOCK, CHANNELS)``.

    Args:
        start, ends: of depth and height.
        BEGIN, END: which columns.
        CHUNK: so many columns, which divide the width, are read as one vector. (They start with the block's own.)
        OTHER: what stands for padding.
        ALIGNED: as `lane_exists` takes it.
        APART: whether neighbours of bfloat16 come as float32 (single ones as they are).
        NUMBER: of a block's windows.
        ROWS_INSIDE, COLUMNS_INSIDE: so many behind the padding are inside of the map in any case.
    """
    INSIDE: tl.constexpr = END if ALIGNED == LANES and not HIGH[2] else COLUMNS_INSIDE  # Before this column.
    STEP: tl.constexpr = NUMBER * WINDOW[5]
    FIRST: tl.constexpr = (BEGIN - WINDOW[8]) // CHUNK
    LAST: tl.constexpr = (END - 1 - WINDOW[8]) // CHUNK
    loaded = ()
    KD: tl.constexpr = WINDOW[0]
    KH: tl.constexpr = WINDOW[1]
    for kd in tl.static_range(KD):
        for kh in tl.static_range(KH):
            id = start[0] + kd * WINDOW[9]
            ih = start[1] + kh * WINDOW[10]
            row = row_live
            if WINDOW[6] > 0 or HIGH[0]:
                row = row & inside(id, ends[0], WINDOW[6] > 0, HIGH[0])
            if WINDOW[7] > 0 or HIGH[1]:
                row = row & inside(
                    ih, ends[1], WINDOW[7] > (kh if ROWS_INSIDE > 0 else 0), HIGH[1] and kh >= WINDOW[7] + ROWS_INSIDE
                )
            line = plane_start + (id * size[1] + ih) * size[2] * step
            for q in tl.static_range(FIRST, LAST + 1):
                loaded = loaded + _piece(
                    input, line, block, size[2], step, row, q * CHUNK,
                    q * CHUNK if q * CHUNK > BEGIN - WINDOW[8] else BEGIN - WINDOW[8],
                    (q + 1) * CHUNK if (q + 1) * CHUNK < END - WINDOW[8] else END - WINDOW[8],
                    CHUNK, STEP, OTHER, INSIDE, APART,
                )  # fmt: skip
    columns = ()
    for c in tl.static_range(END - BEGIN):
        for row in tl.static_range(KD * KH):
            columns = columns + (loaded[row * (END - BEGIN) + c],)
    return columns


@triton.jit
def _piece(
    input, line, block, W, step, row, shift: tl.constexpr, BEGIN: tl.constexpr, END: tl.constexpr, CHUNK: tl.constexpr,
    STEP: tl.constexpr, OTHER: tl.constexpr, INSIDE: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """Read columns BEGIN to END of a chunk: as a vector if most are wanted."""
    NUMBER: tl.constexpr = END - BEGIN
    found = ()
    if NUMBER * 2 > CHUNK and CHUNK > 1:
        tiles = apart(_read(input, line, block, W, step, row, shift, CHUNK, STEP, OTHER, INSIDE, APART), CHUNK)
        for i in tl.static_range(NUMBER):
            found = found + (tiles[BEGIN - shift + i],)
    elif NUMBER == 2 and BEGIN % 2 == 0 and CHUNK > 1:
        found = apart(_read(input, line, block, W, step, row, BEGIN, 2, STEP, OTHER, INSIDE, APART), 2)
    else:
        for i in tl.static_range(NUMBER):
            found = found + (_read(input, line, block, W, step, row, BEGIN + i, 1, STEP, OTHER, INSIDE, APART),)
    return found


@triton.jit
def _read(
    input, line, block, W, step, row, shift: tl.constexpr, CHUNK: tl.constexpr, STEP: tl.constexpr,
    OTHER: tl.constexpr, INSIDE: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """Read CHUNK columns, `shift` places behind the block's own first one."""
    first = block * STEP
    within = row if shift + CHUNK <= INSIDE else row & (first + shift < W)
    if shift < 0:
        within = within & (first + shift >= 0)
    if CHUNK > 1:
        columns = tl.arange(0, CHUNK)[None, :] + shift
        start = tl.multiple_of(line + first, [CHUNK, CHUNK])
        tile = tl.load((input + start) + columns, mask=within, other=OTHER)
    else:
        tile = tl.load((input + (line + first * step)) + shift * step, mask=within, other=OTHER)
    return float32_of(tile) if APART else tile


@triton.jit
def float32_of(tile):
    """Return a tile of bfloat16 in float32; one of another type, or of one column, as it is."""
    if tile.dtype == tl.bfloat16 and tile.shape[1] > 1:
        tile = tl.inline_asm_elementwise(_HALVES, "=r,=r,r", [tile], dtype=tl.float32, is_pure=True, pack=2)
    return tile


@triton.jit
def apart(tile, NUMBER: tl.constexpr):
    """Take the columns of a tile apart, as a tuple of tiles of one column."""
    if NUMBER == 1:
        tiles = (tile,)
    else:
        even, odd = tl.split(tl.reshape(tile, [tile.shape[0], NUMBER // 2, 2]))
        if NUMBER == 2:
            tiles = (tl.reshape(even, [tile.shape[0], 1]), tl.reshape(odd, [tile.shape[0], 1]))
        else:
            evens = apart(even, NUMBER // 2)
            odds = apart(odd, NUMBER // 2)
            tiles = ()
            for i in tl.static_range(NUMBER // 2):
                tiles = tiles + (evens[i], odds[i])
    return tiles


@triton.jit
def window_of(columns, lane: tl.constexpr, WINDOW: tl.constexpr, wide: tl.constexpr):
    """Pick the activations of one of a block's windows, in window order."""
    values = ()
    ROWS: tl.constexpr = WINDOW[0] * WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    for row in tl.static_range(ROWS):
        for kw in tl.static_range(KW):
            values = values + (columns[(lane * WINDOW[5] + kw) * ROWS + row].to(wide),)
    return values


@triton.jit
def sorted_columns(columns, ROWS: tl.constexpr):
    """Sort each column of three rows, largest first; columns of other heights stay as they are."""
    found = columns
    if ROWS == 3:
        found = ()
        for c in tl.static_range(len(columns) // 3):
            high, middle, low = three(columns[3 * c], columns[3 * c + 1], columns[3 * c + 2])
            found = found + (high, middle, low)
    return found


@triton.jit
def columns_of_window(columns, lane: tl.constexpr, WINDOW: tl.constexpr, wide: tl.constexpr):
    """Pick the activations of one of a block's windows, column by column."""
    values = ()
    FIRST: tl.constexpr = lane * WINDOW[5] * WINDOW[0] * WINDOW[1]
    K: tl.constexpr = WINDOW[0] * WINDOW[1] * WINDOW[2]
    for k in tl.static_range(K):
        values = values + (columns[FIRST + k].to(wide),)
    return values


@triton.jit
def tops_of_columns(columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LOW: tl.constexpr):
    """Return the largest and the second largest of each of COLUMNS columns, as two tuples; LOW is less than all."""
    firsts = ()
    seconds = ()
    for c in tl.static_range(COLUMNS):
        first = columns[c * ROWS]
        second = tl.full(first.shape, LOW, first.dtype)
        if ROWS > 1:
            second = smaller(first, columns[c * ROWS + 1])
            first = larger(first, columns[c * ROWS + 1])
        for row in tl.static_range(2, ROWS):
            second = larger(second, smaller(first, columns[c * ROWS + row]))
            first = larger(first, columns[c * ROWS + row])
        firsts = firsts + (first,)
        seconds = seconds + (second,)
    return firsts, seconds


@triton.jit
def tops_of_window(firsts, seconds, lane: tl.constexpr, WINDOW: tl.constexpr):
    """Return the largest and the second largest of a window, by those of its columns."""
    first = firsts[lane * WINDOW[5]]
    second = seconds[lane * WINDOW[5]]
    KW: tl.constexpr = WINDOW[2]
    for kw in tl.static_range(1, KW):
        other = firsts[lane * WINDOW[5] + kw]
        second = larger(second, seconds[lane * WINDOW[5] + kw])
        second = larger(second, smaller(first, other))
        first = larger(first, other)
    return first, second
