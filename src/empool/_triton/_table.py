"""Reading tables of thresholds and weights: ``(S, K, columns)``, as `empool.reference` describes them.

A table has one set of rows, or (SETS) one for every channel. `ROWS` lists the numbers of valid activations that windows
of this call hold, ascending, and each one's row in the table. That number is a product: what a row of the tile has in
common, times how many are valid along the width, of which SIDES lists the few possible. So rows of the table are found
once for a row of the tile and each of SIDES, and a window chooses among them; if SIDES are many, it finds its own.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005

import triton
import triton.language as tl

FEW = tl.constexpr(4)
"""The most SIDES among which a window chooses."""
MOST = tl.constexpr(16)
"""The most columns that a program keeps in registers."""


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
def thresholds_of(
    start, tall, wide, ROWS: tl.constexpr, COUNTS: tl.constexpr, COLUMNS: tl.constexpr, SIDES: tl.constexpr,
    WIDTHS: tl.constexpr, UNIFORM: tl.constexpr,
):  # fmt: skip
    """Load the thresholds of every row among which windows choose, as `rows_of` gives them, in 32 bits.

    Each row's are followed by how many of them a number can reach. Of more columns than MOST, rows are read where they
    are needed, and stand for themselves here.

    Args:
        UNIFORM: whether rows of the tile choose among all rows of the table; else each reads its own.
    """
    if COLUMNS > MOST:
        found = rows_of(start, tall, wide, ROWS, COUNTS, COLUMNS, SIDES, WIDTHS)
    elif UNIFORM and COUNTS <= FEW:
        every = ()
        for c in tl.static_range(COUNTS):
            every = every + _of_one(start + ROWS[2 * c + 1] * COLUMNS, COLUMNS)
        found = ()
        for i in tl.static_range(WIDTHS if COUNTS > 1 and WIDTHS <= FEW else 1):
            count = tall * (SIDES[i] if WIDTHS <= FEW else wide)
            for column in tl.static_range(COLUMNS + 1):
                value = every[column]
                for c in tl.static_range(1, COUNTS):
                    value = tl.where(count >= ROWS[2 * c], every[c * (COLUMNS + 1) + column], value)
                found = found + (value,)
    else:
        found = ()
        rows = rows_of(start, tall, wide, ROWS, COUNTS, COLUMNS, SIDES, WIDTHS)
        for i in tl.static_range(len(rows)):
            found = found + _of_one(rows[i], COLUMNS)
    return found


@triton.jit
def _of_one(row, COLUMNS: tl.constexpr):
    found = ()
    reachable = 0
    for column in tl.static_range(COLUMNS):
        threshold = tl.load(row + column)
        ever = (threshold >> 32) == 0
        found = found + (tl.where(ever, threshold, 4294967295).to(tl.uint32),)
        reachable += ever.to(tl.int32)
    return found + (reachable,)


@triton.jit
def thresholds_of_row(row, COLUMNS: tl.constexpr):
    """Load a row's thresholds in 32 bits: 2^32 as the largest of them, which the largest number seems to reach."""
    found = ()
    for column in tl.static_range(COLUMNS):
        threshold = tl.load(row + column)
        found = found + ((threshold - (threshold >> 32)).to(tl.uint32),)
    return found


@triton.jit
def rank_of(
    number, thresholds, wide, COLUMNS: tl.constexpr, SIDES: tl.constexpr, COUNTS: tl.constexpr, WIDTHS: tl.constexpr
):
    """Count the thresholds that a random number reaches; 2^32 is not reached."""
    if COLUMNS > MOST:
        ranks = ()
        for i in tl.static_range(len(thresholds)):
            ranks = ranks + (reached_of_row(number, thresholds[i], COLUMNS),)
        rank = choose(ranks, wide, SIDES, COUNTS, WIDTHS)
    else:
        rank = tl.zeros_like(number).to(tl.int32)
        for column in tl.static_range(COLUMNS):
            rank += (number >= _of_row(thresholds, column, wide, COLUMNS, SIDES, COUNTS, WIDTHS)).to(tl.int32)
        # The largest number seems to reach all.
        rank = tl.minimum(rank, _of_row(thresholds, COLUMNS, wide, COLUMNS, SIDES, COUNTS, WIDTHS))
    return rank


@triton.jit
def _of_row(
    thresholds, column: tl.constexpr, wide, COLUMNS: tl.constexpr, SIDES: tl.constexpr, COUNTS: tl.constexpr,
    WIDTHS: tl.constexpr,
):  # fmt: skip
    """Choose for every window among what `thresholds_of` has of its possible rows."""
    values = ()
    for i in tl.static_range(len(thresholds) // (COLUMNS + 1)):
        values = values + (thresholds[i * (COLUMNS + 1) + column],)
    return choose(values, wide, SIDES, COUNTS, WIDTHS)


@triton.jit
def reached_of_row(number, row, COLUMNS: tl.constexpr):
    rank = tl.zeros_like(number).to(tl.int32)
    column = 0
    while column < COLUMNS:  # Not a range: with a NumPy of today the interpreter cannot take its end.
        threshold = tl.load(row + column)
        rank += ((number >= threshold.to(tl.uint32)) & ((threshold >> 32) == 0)).to(tl.int32)
        column += 1
    return rank


@triton.jit
def threshold_of(thresholds, wide, SIDES: tl.constexpr, COUNTS: tl.constexpr, WIDTHS: tl.constexpr):
    """Return the only threshold of every window; the largest number seems to reach 2^32, too."""
    return _of_row(thresholds, 0, wide, 1, SIDES, COUNTS, WIDTHS)


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
    if COLUMNS > MOST:
        column = 1
        while column < COLUMNS:
            alone = alone & (tl.load(row + column).to(to) == 0)
            column += 1
    elif COLUMNS > 1:
        others = tl.abs(tl.load(row + 1).to(to))
        for column in tl.static_range(2, COLUMNS):
            others += tl.abs(tl.load(row + column).to(to))
        alone = alone & (others == 0)
    return (tl.where(alone, -1.0, 1.0) * 0.0).to(to)  # Triton makes 0 of a constant -0.
