"""Selecting the activation of a rank in every window of numbers: its value by sorting, its position by counting.

The value of rank r lies at the position before which, in the order of ranks, r others come: those that are larger, and
equal ones before it in the window. The GPU compares at half the rate at which it adds, so counts are sums of steps: a
difference times infinity, held between 0 and 1. Of half types, two windows share an instruction.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005

import triton
import triton.language as tl

from empool._triton._rank import of_rank
from empool._triton._table import thresholds_of_row

# What counts in 32 bits is a float that begins at 2^23, in 16 bits at 1024: the lowest bits are the count.
_REACHED = tl.constexpr("{ .reg .pred p; setp.ge.u32 p, $2, $3; @p add.f32 $0, $0, 0f3F800000; }")
# From the fifth threshold on, in a loop: where they are, in memory, and how many.
_MORE = tl.constexpr(
    "{ .reg .pred p; .reg .b32 low, high, left; .reg .b64 at; setp.lt.u32 p, $2, $3; @p bra DONE;"
    " mov.b64 at, $4; mov.b32 left, $5; NEXT: ld.global.v2.b32 {low, high}, [at]; sub.u32 low, low, high;"
    " setp.ge.u32 p, $2, low; @p add.f32 $0, $0, 0f3F800000; add.s64 at, at, 8; sub.s32 left, left, 1;"
    " setp.gt.s32 p, left, 0; @p bra NEXT; DONE: }"
)
_MORE_OF_THREE = tl.constexpr(
    "{ .reg .pred p; .reg .b32 low, high, left; .reg .b64 at; setp.lt.u32 p, $9, $10; @p bra DONE; mov.b64 at, $11;"
    " mov.b32 left, $12;"
    " NEXT: ld.global.v2.b32 {low, high}, [at]; sub.u32 low, low, high;"
    " setp.ge.u32 p, $6, low; @p add.f32 $0, $0, 0f3F800000; setp.ge.u32 p, $7, low; @p add.f32 $1, $1, 0f3F800000;"
    " setp.ge.u32 p, $8, low; @p add.f32 $2, $2, 0f3F800000; add.s64 at, at, 8; sub.s32 left, left, 1;"
    " setp.gt.s32 p, left, 0; @p bra NEXT; DONE: }"
)
_LARGER = tl.constexpr("{ .reg .f32 d; sub.f32 d, $2, $3; mul.sat.f32 d, d, 0f7F800000; sub.f32 $0, $1, d; }")
_EQUAL = tl.constexpr(
    "{ .reg .f32 d; sub.f32 d, $4, $5; abs.f32 d, d; mul.sat.f32 d, d, 0f7F800000; add.f32 $0, $2, d;"
    " sub.sat.f32 d, $0, $6; add.f32 $1, $3, d; }"
)
# A comparison of bfloat16 gives a 1 whose bits are 1.875 in float16, the type of these sums.
_START = (
    "{{ .reg .b32 t, one; mov.b32 t, 0xe400e400; mov.b32 one, {1}; lop3.b32 $0, $1, 0x64006400, 0, 0xfc;"
    " add.f16x2 t, $0, t; fma.rn.f16x2 $0, t, one, one; }}"
)
_HALF_LARGER = "{{ .reg .b32 t; set.gt.{0}.{0} t, $2, $3; sub.f16x2 $0, $1, t; }}"
_HALF_EQUAL = (
    "{{ .reg .b32 t; set.eq.{0}.{0} t, $4, $5; sub.sat.f16x2 $1, $2, t; sub.f16x2 $0, $2, t; add.f16x2 $1, $1, $3; }}"
)
_TYPES = (("bf16x2", "0x3f803f80"), ("f16x2", "0x3c003c00"))
_STARTS = tl.constexpr(tuple(_START.format(*each) for each in _TYPES))
_HALF_LARGERS = tl.constexpr(tuple(_HALF_LARGER.format(*each) for each in _TYPES))
_HALF_EQUALS = tl.constexpr(tuple(_HALF_EQUAL.format(*each) for each in _TYPES))
# A bit of a rank as a mask: moved to where a byte has its sign, which then fills both bytes of the half.
_MASKS = tl.constexpr(
    tuple(f"{{ .reg .b32 t; mul.lo.u32 t, $1, {128 >> bit}; prmt.b32 $0, t, t, 0xaa88; }}" for bit in range(4))
)
_CHOICE = tl.constexpr("lop3.b32 $0, $1, $2, $3, 0xca;")
_WITHIN = tl.constexpr(
    "{ .reg .b32 t; lop3.b32 t, $3, 0x00800080, 0, 0xfc; sub.u32 t, t, $4; prmt.b32 t, t, t, 0xaa88;"
    " lop3.b32 $0, $5, t, 0, 0x30; lop3.b32 $1, $6, t, 0x00ff00ff, 0xf8; lop3.b32 $2, t, $7, $5, 0xca; }"
)


@triton.jit
def reached(numbers, row, zero, COLUMNS: tl.constexpr, PACKED: tl.constexpr):
    """Count for each random number how many of a row's thresholds it reaches; the largest seems to reach 2^32.

    Few numbers reach five: the others are compared in a branch that few warps take.
    """
    BRANCH: tl.constexpr = PACKED and COLUMNS > 5
    thresholds = thresholds_of_row(row, 5 if BRANCH else COLUMNS)
    highest = numbers[0]
    counts = ()
    for i in tl.static_range(len(numbers)):
        highest = tl.maximum(highest, numbers[i])
        if PACKED:
            count = tl.full(numbers[i].shape, 8388608.0, tl.float32)
            for column in tl.static_range(4 if BRANCH else COLUMNS):
                count = tl.inline_asm_elementwise(
                    _REACHED, "=f,0,r,r", [count, numbers[i], thresholds[column]], dtype=tl.float32, is_pure=True,
                    pack=1,
                )  # fmt: skip
            if BRANCH and len(numbers) != 3:
                count = tl.inline_asm_elementwise(
                    _MORE, "=&f,0,r,r,l,r",
                    [count, numbers[i], thresholds[4], (row + 4).to(tl.int64), zero + (COLUMNS - 4)],
                    dtype=tl.float32, is_pure=True, pack=1,
                )  # fmt: skip
        else:
            count = tl.zeros(numbers[i].shape, tl.int32)
            for column in tl.static_range(COLUMNS):
                count += (numbers[i] >= thresholds[column]).to(tl.int32)
        counts = counts + (count,)
    if BRANCH and len(numbers) == 3:
        counts = tl.inline_asm_elementwise(
            _MORE_OF_THREE, "=&f,=&f,=&f,0,1,2,r,r,r,r,r,l,r",
            [counts[0], counts[1], counts[2], numbers[0], numbers[1], numbers[2], highest, thresholds[4],
            (row + 4).to(tl.int64), zero + (COLUMNS - 4)],
            dtype=(tl.float32, tl.float32, tl.float32), is_pure=True, pack=1,
        )  # fmt: skip
    ranks = ()
    for i in tl.static_range(len(counts)):
        ranks = ranks + ((counts[i].to(tl.int32, bitcast=True) - 0x4B000000 if PACKED else counts[i]),)
    return ranks


@triton.jit
def value_of_rank(ordered, rank, K: tl.constexpr):
    """Pick the value of every window's rank of those of all ranks; a rank's fourth bit is its last."""
    if ordered[0].dtype.primitive_bitwidth == 16:
        value = _of_rank_halves(ordered, rank.to(tl.int16), K, 0)
    else:
        value = of_rank(ordered, rank, K)
    return value


@triton.jit
def _of_rank_halves(ordered, rank, K: tl.constexpr, BIT: tl.constexpr):
    """Do as `of_rank` for a half type, two windows at a time."""
    assembly: tl.constexpr = _MASKS[BIT]
    odd = tl.inline_asm_elementwise(assembly, "=r,r", [rank], dtype=tl.int16, is_pure=True, pack=2)
    left = ()
    for k in tl.static_range(0, K, 2):
        if k + 1 < K:
            left = left + (
                tl.inline_asm_elementwise(
                    _CHOICE, "=r,r,r,r", [odd, ordered[k + 1], ordered[k]], dtype=ordered[0].dtype, is_pure=True,
                    pack=2,
                ),
            )  # fmt: skip
        else:
            left = left + (ordered[k],)
    if K > 2:
        left = (_of_rank_halves(left, rank, (K + 1) // 2, BIT + 1),)
    return left[0]


@triton.jit
def place_of_rank(values, value, rank, K: tl.constexpr, PACKED: tl.constexpr):
    """Find the position of every window's rank, whose value is known: the lowest byte of what is returned.

    Args:
        values: in window order, numbers.
    """
    if values[0].dtype.primitive_bitwidth == 16:
        TYPE: tl.constexpr = 0 if value.dtype == tl.bfloat16 else 1
        starts: tl.constexpr = _STARTS[TYPE]
        larger: tl.constexpr = _HALF_LARGERS[TYPE]
        equal: tl.constexpr = _HALF_EQUALS[TYPE]
        left = tl.inline_asm_elementwise(starts, "=&r,r", [rank.to(tl.int16)], dtype=tl.int16, is_pure=True, pack=2)
        for k in tl.static_range(K):
            left = tl.inline_asm_elementwise(
                larger, "=r,r,r,r", [left, values[k], value], dtype=tl.int16, is_pure=True, pack=2
            )
        place = tl.full(value.shape, 0x6400, tl.int16)
        for k in tl.static_range(K - 1):
            left, place = tl.inline_asm_elementwise(
                equal, "=&r,=&r,r,r,r,r", [left, place, values[k], value], dtype=(tl.int16, tl.int16), is_pure=True,
                pack=2,
            )  # fmt: skip
    elif PACKED and values[0].dtype == tl.float32:
        left = (rank + 0x4B000000).to(tl.float32, bitcast=True) - 8388607.0
        for k in tl.static_range(K):
            left = tl.inline_asm_elementwise(
                _LARGER, "=f,f,f,f", [left, values[k], value], dtype=tl.float32, is_pure=True, pack=1
            )
        count = tl.full(value.shape, 8388608.0, tl.float32)
        for k in tl.static_range(K - 1):
            left, count = tl.inline_asm_elementwise(
                _EQUAL, "=&f,=&f,f,f,f,f,f",
                [left, count, values[k], value, tl.full(value.shape, k + 1.0, tl.float32)],
                dtype=(tl.float32, tl.float32), is_pure=True, pack=1,
            )  # fmt: skip
        place = count.to(tl.int32, bitcast=True)
    else:
        left = rank
        for k in tl.static_range(K):
            left -= (values[k] > value).to(tl.int32)
        place = tl.zeros(rank.shape, tl.int32)
        for k in tl.static_range(K - 1):
            left -= (values[k] == value).to(tl.int32)
            place += (left >= 0).to(tl.int32)
    return place


@triton.jit
def within(value, place, rank, count, like):
    """Replace what is drawn of a rank of `count` or more, by zero at position -1; and by 1 in what is returned last."""
    if value.dtype.primitive_bitwidth == 16:
        one = like.to(value.dtype) + 1.0
        return tl.inline_asm_elementwise(
            _WITHIN, "=&r,=&r,=&r,r,r,r,r,r",
            [rank.to(tl.int16), (count + tl.zeros(rank.shape, tl.int32)).to(tl.int16), value, place, one],
            dtype=(value.dtype, tl.int16, value.dtype), is_pure=True, pack=2,
        )  # fmt: skip
    else:
        zero = rank >= count
        return tl.where(zero, 0.0, value), tl.where(zero, -1, place), tl.where(zero, 1.0, value)
