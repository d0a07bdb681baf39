"""Reading tables of thresholds and weights: ``(S, K, columns)``, as `empool.reference` describes them.

`ROWS` lists the counts of valid activations that windows of this call hold, ascending, and each one's row in the table.
A table has one set of rows, or (SETS) one for every channel. Few rows are read once for a program, or once for
a channel that it serves, and what a window needs is chosen by comparing its count; of many, each window reads its own.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"

import triton
import triton.language as tl

FEW = tl.constexpr(4)
"""The most rows that every window chooses from."""


@triton.jit
def set_of(table, channel, COLUMNS: tl.constexpr, TABLE_ROWS: tl.constexpr, SETS: tl.constexpr):
    """Point to the set of rows that serves each channel."""
    start = table
    if SETS:
        start = table + channel * (TABLE_ROWS * COLUMNS)
    return start


@triton.jit
def own_row(start, count, ROWS: tl.constexpr, COUNTS: tl.constexpr, COLUMNS: tl.constexpr):
    """Point to the row of every window's own count."""
    row = tl.zeros_like(count) + ROWS[1]
    for i in tl.static_range(1, COUNTS):
        row = tl.where(count >= ROWS[2 * i], ROWS[2 * i + 1], row)
    return start + row * COLUMNS


@triton.jit
def entry(start, count, column: tl.constexpr, ROWS: tl.constexpr, COUNTS: tl.constexpr, COLUMNS: tl.constexpr, to):
    """Return what a column says for every window's count, in a type."""
    if COUNTS <= FEW:
        value = tl.load(start + (ROWS[1] * COLUMNS + column)).to(to)
        for i in tl.static_range(1, COUNTS):
            other = tl.load(start + (ROWS[2 * i + 1] * COLUMNS + column)).to(to)
            value = tl.where(count >= ROWS[2 * i], other, value)
    else:
        value = tl.load(own_row(start, count, ROWS, COUNTS, COLUMNS) + column).to(to)
    return value


@triton.jit
def rank_of(number, start, count, ROWS: tl.constexpr, COUNTS: tl.constexpr, COLUMNS: tl.constexpr):
    """Count the thresholds that a random number reaches; 2^32 is not reached."""
    if COUNTS <= FEW:
        rank = _reached(number, start + ROWS[1] * COLUMNS, COLUMNS)
        for i in tl.static_range(1, COUNTS):
            other = _reached(number, start + ROWS[2 * i + 1] * COLUMNS, COLUMNS)
            rank = tl.where(count >= ROWS[2 * i], other, rank)
    else:
        rank = _reached(number, own_row(start, count, ROWS, COUNTS, COLUMNS), COLUMNS)
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
    return (number >= threshold.to(tl.uint32)) & (threshold < 4294967296)


@triton.jit
def start_of_mean(start, count, ROWS: tl.constexpr, COUNTS: tl.constexpr, COLUMNS: tl.constexpr, to):
    """Return what a mean's sum starts with: -0 where the row's weights are 1, 0, 0, ..., which keeps a zero's sign."""
    if COUNTS <= FEW:
        value = _start(start + ROWS[1] * COLUMNS, COLUMNS, to)
        for i in tl.static_range(1, COUNTS):
            value = tl.where(count >= ROWS[2 * i], _start(start + ROWS[2 * i + 1] * COLUMNS, COLUMNS, to), value)
    else:
        value = _start(own_row(start, count, ROWS, COUNTS, COLUMNS), COLUMNS, to)
    return value


@triton.jit
def _start(row, COLUMNS: tl.constexpr, to):
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
