"""Reading tables of thresholds and weights: ``(S, K, columns)``, as `empool.reference` describes them.

A table has one set of rows, or (SETS) one for every channel. `ROWS` lists the numbers of valid activations that windows
of this call hold, ascending, and each one's row in the table. That number is a product: what a row of the tile has in
common, times how many are valid along the width, of which SIDES lists the few possible. So rows of the table are found
once for a row of the tile and each of SIDES, and a window chooses among them; if SIDES are many, it finds its own.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF005

import triton
import triton.language as tl

FEW = tl.constexpr(4)
"""The most SIDES among which a window chooses."""


@triton.jit
def set_of(table, channel, COLUMNS: tl.constexpr, TABLE_ROWS: tl.constexpr, SETS: tl.constexpr):
    """Point to the set of rows that serves each channel."""
    start = table
    if SETS:
        start = table + channel * (TABLE_ROWS * COLUMNS)
    return start


@triton.jit
def row_of(start, count, ROWS: tl.constexpr, COUNTS: tl.constexpr, COLUMNS: tl.constexpr):
    """Point to the row of a number of valid activations."""
    row = tl.zeros_like(count) + ROWS[1]
    for i in tl.static_range(1, COUNTS):
        row = tl.where(count >= ROWS[2 * i], ROWS[2 * i + 1], row)
    return start + row * COLUMNS


@triton.jit
def rows_of(
    start, tall, wide, ROWS: tl.constexpr, COUNTS: tl.constexpr, COLUMNS: tl.constexpr, SIDES: tl.constexpr,
    WIDTHS: tl.constexpr,
):  # fmt: skip
    """Point to the rows among which windows choose: a tuple, one for each of SIDES, or their own."""
    if COUNTS == 1:
        found = (start + ROWS[1] * COLUMNS,)
    elif WIDTHS <= FEW:
        found = ()
        for i in tl.static_range(WIDTHS):
            found = found + (row_of(start, tall * SIDES[i], ROWS, COUNTS, COLUMNS),)
    else:
        found = (row_of(start, tall * wide, ROWS, COUNTS, COLUMNS),)
    return found


@triton.jit
def choose(values, wide, SIDES: tl.constexpr, COUNTS: tl.constexpr, WIDTHS: tl.constexpr):
    """Choose for every window among what its possible rows gave."""
    value = values[0]
    if COUNTS > 1 and WIDTHS <= FEW:
        for i in tl.static_range(1, WIDTHS):
            value = tl.where(wide >= SIDES[i], values[i], value)
    return value


@triton.jit
def entry(rows, wide, column: tl.constexpr, to, SIDES: tl.constexpr, COUNTS: tl.constexpr, WIDTHS: tl.constexpr):
    """Return what a column says for every window, in a type."""
    values = ()
    for i in tl.static_range(WIDTHS if COUNTS > 1 and WIDTHS <= FEW else 1):
        values = values + (tl.load(rows[i] + column).to(to),)
    return choose(values, wide, SIDES, COUNTS, WIDTHS)


@triton.jit
def rank_of(number, rows, wide, COLUMNS: tl.constexpr, SIDES: tl.constexpr, COUNTS: tl.constexpr, WIDTHS: tl.constexpr):
    """Count the thresholds that a random number reaches; 2^32 is not reached."""
    if COLUMNS == 1:
        low = ()
        never = ()
        for i in tl.static_range(WIDTHS if COUNTS > 1 and WIDTHS <= FEW else 1):
            threshold = tl.load(rows[i])
            low = low + (threshold.to(tl.uint32),)
            never = never + ((threshold >> 32) != 0,)
        reached = number >= choose(low, wide, SIDES, COUNTS, WIDTHS)
        rank = (reached & (choose(never, wide, SIDES, COUNTS, WIDTHS) == 0)).to(tl.int32)
    else:
        ranks = ()
        for i in tl.static_range(WIDTHS if COUNTS > 1 and WIDTHS <= FEW else 1):
            ranks = ranks + (_reached(number, rows[i], COLUMNS),)
        rank = choose(ranks, wide, SIDES, COUNTS, WIDTHS)
    return rank


@triton.jit
def _reached(number, row, COLUMNS: tl.constexpr):
    rank = tl.zeros_like(number).to(tl.int32)
    if COLUMNS <= 16:
        for column in tl.static_range(COLUMNS):
            rank += _reaches(number, tl.load(row + column)).to(tl.int32)
    else:
        column = 0
        while column < COLUMNS:  # Not a range: with a NumPy of today the interpreter cannot take its end.
            rank += _reaches(number, tl.load(row + column)).to(tl.int32)
            column += 1
    return rank


@triton.jit
def _reaches(number, threshold):
    """Compare 32 bits, the others once for a row."""
    return (number >= threshold.to(tl.uint32)) & ((threshold >> 32) == 0)


@triton.jit
def start_of_mean(
    rows, wide, to, COLUMNS: tl.constexpr, SIDES: tl.constexpr, COUNTS: tl.constexpr, WIDTHS: tl.constexpr
):
    """Return what a mean's sum starts with: -0 where the row's weights are 1, 0, 0, ..., which keeps a zero's sign."""
    values = ()
    for i in tl.static_range(WIDTHS if COUNTS > 1 and WIDTHS <= FEW else 1):
        values = values + (_start(rows[i], to, COLUMNS),)
    return choose(values, wide, SIDES, COUNTS, WIDTHS)


@triton.jit
def _start(row, to, COLUMNS: tl.constexpr):
    alone = tl.load(row).to(to) == 1
    if COLUMNS <= 16:
        for column in tl.static_range(1, COLUMNS):
            alone = alone & (tl.load(row + column).to(to) == 0)
    else:
        column = 1
        while column < COLUMNS:
            alone = alone & (tl.load(row + column).to(to) == 0)
            column += 1
    return (tl.where(alone, -1.0, 1.0) * 0.0).to(to)  # Triton makes 0 of a constant -0.
