"""Selecting the activation of a random number's rank in every window of numbers.

The window is sorted, and every threshold that the number reaches leads to the next value. The value's position is found
by comparing it with all of the window, which gives a set of positions, a bit each. Of several, those of equal values
that come first in the order of ranks are taken out, in a branch: a few instructions, and as many again for each. So
are ranks beyond the fourth. Of half types, two windows share an instruction.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005

import triton
import triton.language as tl

from empool._triton._rank import descending, five_of_nine, of_rank
from empool._triton._table import MOST, reached_of_row, thresholds_of_row

FIRST = tl.constexpr(4)
"""So many thresholds are compared without a branch."""

# What counts in 32 bits is a float that begins at 2^23, in 16 bits at 1024: the lowest bits are the count.
_STEP = tl.constexpr(
    "{ .reg .pred p; setp.ge.u32 p, $4, $5; @p add.f32 $0, $0, 0f3F800000; @p add.f32 $1, $6, 0f00000000; }"
)
_MARK = tl.constexpr("{ .reg .f32 e; set.eq.f32.f32 e, $2, $3; fma.rn.f32 $0, e, $4, $1; }")
# (To add what two pairs of values differ by, as integers, is a choice that the compiler leaves to the multipliers.)
_HALF_STEP = tl.constexpr(
    "{ .reg .pred p, q; .reg .b32 d; setp.ge.u32 p, $6, $8; setp.ge.u32 q, $7, $9; sub.u32 d, $11, $10;"
    " @p add.u32 $0, $0, 1; @p add.u32 $1, $1, d; @q add.u32 $0, $0, 0x10000; @q add.u32 $2, $2, d; }"
)
_HALVES = tl.constexpr("prmt.b32 $0, $1, $2, 0x7610;")
_HALF_MARK = "{{ .reg .b32 e; set.eq.{0}.{0} e, $2, $3; fma.rn.f16x2 $0, e, $4, $1; }}"
_HALF_PLACE = tl.constexpr("{ .reg .b32 t; shr.b32 t, $1, 10; and.b32 t, t, 0x001f001f; sub.u32 $0, 0x00170017, t; }")
_WITHIN = tl.constexpr(
    "{ .reg .b32 t; lop3.b32 t, $3, 0x00800080, 0, 0xfc; sub.u32 t, t, $4; prmt.b32 t, t, t, 0xaa88;"
    " lop3.b32 $0, $5, t, 0, 0x30; lop3.b32 $1, $6, t, 0x00ff00ff, 0xf8; lop3.b32 $2, t, $7, $5, 0xca; }"
)

# The branch. Operands: rank, value and set, each written and read; the number, the threshold from which the branch
# counts, where thresholds go on, and how many there are, for each window; what makes the last four values; the first
# five; the window.
_MORE = (
    " setp.lt.u32 q, {number}, {threshold}; setp.le.or.s32 q, {left}, 0, q; @q bra NONE{half}; mov.b64 at, {at};"
    " mov.b32 more, {left}; NEXT{half}: ld.global.v2.b32 {{low, high}}, [at]; sub.u32 low, low, high;"
    " setp.ge.u32 q, {number}, low; @q {add}; add.s64 at, at, 8; sub.s32 more, more, 1; setp.gt.s32 q, more, 0;"
    " @q bra NEXT{half}; {choices} NONE{half}:"
)


_LOWEST = (
    " max.{0} s5, {3}, {4}; min.{0} s6, {3}, {4}; min.{0} s8, s6, {5}; min.{0} s7, s5, {5}; max.{0} s7, s7, s6;"
    " max.{0} s5, {1}, s7; min.{0} s7, {1}, s7; min.{0} s6, s5, {2}; max.{0} s5, s5, {2};"
)
"""The last four of nine, by what `_rank.five_of_nine` leaves."""


def _branch() -> str:
    lowest = _LOWEST.format("f32", *[f"${10 + k}" for k in range(5)])
    choices = "".join(f" setp.ge.f32 q, $0, 0f{0x4B000000 + k:X}; @q mov.f32 $1, s{k};" for k in range(5, 9))
    more = _MORE.format(
        number="$6", threshold="$7", at="$8", left="$9", half="", add="add.f32 $0, $0, 0f3F800000", choices=choices
    )
    marks = "".join(
        f" set.eq.f32.f32 e, ${20 + k}, $1; fma.rn.f32 $2, e, 0f{(127 + 8 - k) << 23:X}, $2;" for k in range(9)
    )
    counts = [f" set.gt.f32.f32 e, {s}, $1; sub.f32 left, left, e;" for s in ("$15", "$16", "$17", "$18")]
    others = [f" set.gt.f32.f32 e, {s}, $1; sub.f32 left, left, e;" for s in ("$19", "s5", "s6", "s7")]
    return (
        "{ .reg .pred p, q; .reg .b32 t, low, high, more; .reg .f32 left, e, s5, s6, s7, s8; .reg .b64 at;"
        " mov.b32 t, $2; and.b32 t, t, 0x007fffff; setp.ne.s32 p, t, 0; setp.ge.or.u32 p, $6, $7, p; @!p bra DONE;"
        f" mov.f32 left, 0fCB000000; setp.lt.u32 q, $6, $7; @q bra SAME;{lowest}{more} mov.f32 $2, 0f00000000;{marks}"
        f"{''.join(others)} SAME: add.f32 left, left, $0;{''.join(counts)}"
        " LOOP: setp.gt.f32 q, left, 0f00000000; @!q bra DONE; mov.b32 t, $2; and.b32 t, t, 0x7f800000; mov.b32 e, t;"
        " sub.f32 $2, $2, e; add.f32 left, left, 0fBF800000; bra LOOP; DONE: }"
    )


def _half_branch(kind: str, one: int) -> str:
    """Do as `_branch` for two windows; in `one`, what a comparison gives is 1."""
    lowest = _LOWEST.format(kind, *[f"${14 + k}" for k in range(5)])
    more = ""
    for half, (choice, add) in enumerate((("0x3254", "1"), ("0x7610", "0x10000"))):
        part = "and.b32 t, $0, 0xffff;" if half == 0 else "shr.b32 t, $0, 16;"
        choices = part + "".join(
            f" setp.ge.u32 q, t, {0x6400 + k}; @q prmt.b32 $1, $1, s{k}, {choice};" for k in range(5, 9)
        )
        more += _MORE.format(
            number=f"${6 + half}", threshold=f"${8 + half}", at=f"${10 + half}", left=f"${12 + half}", half=half,
            add=f"add.u32 $0, $0, {add}", choices=choices,
        )  # fmt: skip
    marks = "".join(
        f" mov.b32 t, {(one + ((8 - k) << 10)) * 0x10001:#x}; set.eq.{kind}.{kind} e, ${24 + k}, $1;"
        " fma.rn.f16x2 $2, e, t, $2;"
        for k in range(9)
    )
    minus = (one | 0x8000) * 0x10001
    counts, others = (
        f" mov.b32 t, {minus:#x};"
        + "".join(f" set.gt.{kind}.{kind} e, {s}, $1; fma.rn.f16x2 left, e, t, left;" for s in sorted_values)
        for sorted_values in (("$19", "$20", "$21", "$22"), ("$23", "s5", "s6", "s7"))
    )
    return (
        "{ .reg .pred p, q; .reg .b32 t, low, high, more, left, e, zero, s5, s6, s7, s8; .reg .b64 at;"
        " and.b32 t, $2, 0x03ff03ff; setp.ne.s32 p, t, 0; setp.ge.or.u32 p, $6, $8, p; setp.ge.or.u32 p, $7, $9, p;"
        " @!p bra DONE; mov.b32 left, 0xe400e400; setp.lt.u32 q, $6, $8; setp.lt.and.u32 q, $7, $9, q; @q bra SAME;"
        f"{lowest}{more} mov.b32 $2, 0;{marks}{others} SAME: add.f16x2 left, left, $0;{counts}"
        " mov.b32 zero, 0x80008000; LOOP: add.sat.f16x2 t, left, zero; setp.eq.s32 q, t, 0; @q bra DONE;"
        " neg.f16x2 t, t; add.f16x2 left, left, t; and.b32 e, $2, 0x7c007c00; fma.rn.f16x2 $2, e, t, $2; bra LOOP;"
        " DONE: }"
    )


_BRANCH = tl.constexpr(_branch())
_KINDS = (("bf16x2", 0x3844), ("f16x2", 0x3C00))  # In float16, the bits of bfloat16's 1 are 1.875.
_HALF_MARKS = tl.constexpr(tuple(_HALF_MARK.format(kind) for kind, _ in _KINDS))
_HALF_BRANCHES = tl.constexpr(tuple(_half_branch(*each) for each in _KINDS))
_HALF_BITS = tl.constexpr(tuple(tuple((one + ((8 - k) << 10)) for k in range(9)) for _, one in _KINDS))
"""A position's bit: 2^(8 - k), the first position's the highest."""


@triton.jit
def ranks_of(columns, K: tl.constexpr, NETWORK: tl.constexpr, EXCHANGES: tl.constexpr, PACKED: tl.constexpr):
    """Sort the values of every window as far as `select` asks, as two tuples: the first, and what makes the last four.

    Args:
        columns, NETWORK, EXCHANGES: as `descending` takes them.
    """
    if K == 9 and EXCHANGES == 0 and PACKED and columns[0].dtype.primitive_bitwidth <= 32:
        ordered, lower = five_of_nine(columns)
    else:
        ordered = descending(columns, K, NETWORK, EXCHANGES)
        lower = (ordered[6 if K > 6 else K - 1], ordered[5 if K > 5 else K - 1], ordered[7 if K > 7 else K - 1])
        lower = lower + (lower[2], ordered[K - 1])
    return ordered, lower


@triton.jit
def first_thresholds(row, COLUMNS: tl.constexpr):
    """Load those of a row's thresholds that are compared without a branch, and the one from which the branch counts."""
    return thresholds_of_row(row, FIRST + 1 if COLUMNS > FIRST else COLUMNS)


@triton.jit
def select(
    ordered, lower, values, number, row, thresholds, zero, K: tl.constexpr, COLUMNS: tl.constexpr, PACKED: tl.constexpr
):
    """Find the activation of every random number's rank, in windows of numbers.

    Args:
        ordered, values: the window's, largest first, and in window order.
        row, thresholds: a table's row, and its first thresholds, as `first_thresholds` loads them.
        zero: a whole number, 0, which the compiler does not know.
    Returns:
        The value, its position and its rank, as `within` takes it. Of a rank of K or more, anything.
    """
    dtype: tl.constexpr = values[0].dtype
    HALF: tl.constexpr = dtype.primitive_bitwidth == 16
    if HALF or (PACKED and dtype == tl.float32):
        TYPE: tl.constexpr = 0 if dtype == tl.bfloat16 else 1
        window = ()
        for k in tl.static_range(9):
            window = window + ((values[k] if k < K else tl.full(values[0].shape, float("nan"), dtype)),)
        first = ()
        for k in tl.static_range(FIRST + 1):
            first = first + (ordered[k if k < K else K - 1],)
        value = ordered[0]
        left = zero + (COLUMNS - FIRST)
        at = (row + FIRST).to(tl.int64)
        last = tl.full([1, 1], 4294967295, tl.uint32)
        if COLUMNS > FIRST:
            last = thresholds[FIRST]
        if HALF:
            mark: tl.constexpr = _HALF_MARKS[TYPE]
            branch: tl.constexpr = _HALF_BRANCHES[TYPE]
            bits: tl.constexpr = _HALF_BITS[TYPE]
            rank = tl.full(value.shape, 0x6400, tl.int16)
            other = value
            for column in tl.static_range(COLUMNS if COLUMNS < FIRST else FIRST):
                rank, value, other = tl.inline_asm_elementwise(
                    _HALF_STEP, "=&r,=&r,=&r,0,1,2,r,r,r,r,r,r",
                    [rank, value, other, number, thresholds[column], ordered[column if column < K else K - 1],
                     ordered[column + 1 if column + 1 < K else K - 1]],
                    dtype=(tl.int16, value.dtype, value.dtype), is_pure=True, pack=2,
                )  # fmt: skip
            value = tl.inline_asm_elementwise(
                _HALVES, "=r,r,r", [value, other], dtype=value.dtype, is_pure=True, pack=2
            )
            marks = tl.full(value.shape, 0, tl.int16)
            for k in tl.static_range(K):
                marks = tl.inline_asm_elementwise(
                    mark, "=r,r,r,r,r", [marks, values[k], value, tl.full(value.shape, bits[k], tl.int16)],
                    dtype=tl.int16, is_pure=True, pack=2,
                )  # fmt: skip
            rank, value, marks = tl.inline_asm_elementwise(
                branch, "=&r,=&r,=&r,0,1,2,r,r,r,r,l,l,r,r" + ",r" * 19,
                (rank, value, marks, number, last, at, left) + lower + first + window,
                dtype=(tl.int16, value.dtype, tl.int16), is_pure=True, pack=2,
            )  # fmt: skip
            place = tl.inline_asm_elementwise(_HALF_PLACE, "=r,r", [marks], dtype=tl.int16, is_pure=True, pack=2)
        else:
            rank = tl.full(value.shape, 8388608.0, tl.float32)
            for column in tl.static_range(COLUMNS if COLUMNS < FIRST else FIRST):
                rank, value = tl.inline_asm_elementwise(
                    _STEP, "=&f,=&f,0,1,r,r,f",
                    [rank, value, number, thresholds[column], ordered[column + 1 if column + 1 < K else K - 1]],
                    dtype=(tl.float32, tl.float32), is_pure=True, pack=1,
                )  # fmt: skip
            marks = tl.zeros(value.shape, tl.float32)
            for k in tl.static_range(K):
                marks = tl.inline_asm_elementwise(
                    _MARK, "=f,f,f,f,f", [marks, values[k], value, tl.full(value.shape, 2.0 ** (8 - k), tl.float32)],
                    dtype=tl.float32, is_pure=True, pack=1,
                )  # fmt: skip
            rank, value, marks = tl.inline_asm_elementwise(
                _BRANCH, "=&f,=&f,=&f,0,1,2,r,r,l,r" + ",f" * 19,
                (rank, value, marks, number, last, at, left) + lower + first + window,
                dtype=(tl.float32, tl.float32, tl.float32), is_pure=True, pack=1,
            )  # fmt: skip
            rank = rank.to(tl.int32, bitcast=True)
            place = 135 - (marks.to(tl.int32, bitcast=True) >> 23)
    else:
        rank = tl.zeros(number.shape, tl.int32)
        if COLUMNS > MOST:
            rank += reached_of_row(number, row, COLUMNS)
        else:
            every = thresholds_of_row(row, COLUMNS)
            for column in tl.static_range(COLUMNS):
                rank += (number >= every[column]).to(tl.int32)
        value = of_rank(ordered, rank, K)
        left = tl.zeros(value.shape, tl.int32) + rank
        for k in tl.static_range(K):
            left -= (values[k] > value).to(tl.int32)
        place = tl.zeros(value.shape, tl.int32)
        for k in tl.static_range(K - 1):
            left -= (values[k] == value).to(tl.int32)
            place += (left >= 0).to(tl.int32)
    return value, place, rank


@triton.jit
def within(value, place, rank, count, like, PACKED: tl.constexpr):
    """Replace what is drawn of a rank of `count` or more, by zero at position -1; and by 1 in what is returned last."""
    if value.dtype.primitive_bitwidth == 16:
        one = like.to(value.dtype) + 1.0
        return tl.inline_asm_elementwise(
            _WITHIN, "=&r,=&r,=&r,r,r,r,r,r",
            [rank, (count + tl.zeros(rank.shape, tl.int32)).to(tl.int16), value, place, one],
            dtype=(value.dtype, tl.int16, value.dtype), is_pure=True, pack=2,
        )  # fmt: skip
    else:
        zero = rank >= count + (0x4B000000 if PACKED and value.dtype == tl.float32 else 0)
        return tl.where(zero, 0.0, value), tl.where(zero, -1, place), tl.where(zero, 1.0, value)
