"""Ranking the activations of every window of a tile: value descending, equal values by position, first first."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005, RUF059

import triton
import triton.language as tl

from empool._triton._load import activation


@triton.jit
def _span(start, end, WINDOW: tl.constexpr, HIGH: tl.constexpr, DIM: tl.constexpr, LOW: tl.constexpr):
    """Tell which offset along a dimension is a window's first valid one, 0 if not LOW, and how many are valid."""
    low = tl.full([1, 1], 0, tl.int32)
    high = tl.full([1, 1], WINDOW[DIM], tl.int32)
    if LOW and WINDOW[6 + DIM] > 0:
        low = (tl.maximum(-start, 0) + (WINDOW[9 + DIM] - 1)) // WINDOW[9 + DIM]
    if HIGH[DIM]:
        high = tl.minimum((end - start + (WINDOW[9 + DIM] - 1)) // WINDOW[9 + DIM], WINDOW[DIM])
    return low, high - low


@triton.jit
def valid_positions(
    start, ends, lane: tl.constexpr, SIDE: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr,
    LEAST: tl.constexpr,
):  # fmt: skip
    """Return every window's first and second valid position, -1 where there is none, and how many are valid.

    The last is in two parts, whose product it is: what a row of the tile has in common, and along the width.

    Args:
        lane, SIDE: which windows of a block these are (see `outputs_of_lane`).
        LEAST: the fewest along each dimension.
    """
    low_d, deep = _span(start[0], ends[0], WINDOW, HIGH, 0, True)
    low_h, tall = _span(start[1], ends[1], WINDOW, HIGH, 1, True)
    low_w, wide = _span(start[2], ends[2], WINDOW, HIGH, 2, SIDE or lane * WINDOW[5] < WINDOW[8])
    zero = tl.zeros_like(start[1]).to(tl.int32)
    first = (zero + (low_d * WINDOW[1] + low_h) * WINDOW[2]) + low_w
    if LEAST[2] > 1:
        second = first + 1
    else:
        second = tl.where(deep > 1, first + WINDOW[1] * WINDOW[2], -1)
        second = tl.where(tall > 1, first + WINDOW[2], second)
        second = tl.where(wide > 1, first + 1, second)
    if LEAST[0] == 0 or LEAST[1] == 0 or LEAST[2] == 0:
        none = (deep <= 0) | (tall <= 0) | (wide <= 0)
        first = tl.where(none, -1, first)
        second = tl.where(none, -1, second)
        deep, tall, wide = tl.maximum(deep, 0), tl.maximum(tall, 0), tl.maximum(wide, 0)
    return first, second, zero + (deep * tall).to(tl.int32), zero + wide.to(tl.int32)


@triton.jit
def places(
    start, ends, lane: tl.constexpr, SIDE: tl.constexpr, WINDOW: tl.constexpr, HIGH: tl.constexpr, LEAST: tl.constexpr,
    CHECKED: tl.constexpr,
):  # fmt: skip
    """Return what `valid_positions` does, worked out only where a window can hold padding (CHECKED)."""
    if CHECKED:
        first, second, tall, wide = valid_positions(start, ends, lane, SIDE, WINDOW, HIGH, LEAST)
    else:
        first = tl.zeros([1, 1], tl.int32)
        second = first + (1 if WINDOW[0] * WINDOW[1] * WINDOW[2] > 1 else -1)
        tall = first + WINDOW[0] * WINDOW[1]
        wide = first + WINDOW[2]
    return first, second, tall, wide


@triton.jit
def two_largest(values, first_at, second_at, K: tl.constexpr, SECOND: tl.constexpr, CHECKED: tl.constexpr, like):
    """Find the largest and, if asked, the second largest of every window; the last NaN is larger than all.

    Backwards through the window, so that an equal value before another wins, and the last NaN stays.

    Args:
        values: as `load_window` gives, -inf where there is padding, which never wins here.
        first_at, second_at: the first two valid positions, which are the largest where all are -inf.
        CHECKED: whether a window can hold padding.
        like: a tile of zeros in the values' type.
    Returns:
        The largest, its position, the second, its position; -1 for a position where there is none.
    """
    first = like - float("inf")
    second = first
    top = like.to(tl.int32) - 1
    next = top
    for k in tl.static_range(K - 1, -1, -1):
        stays = (values[k] < first) | (first != first)
        if SECOND:
            below = values[k] < second
            second = tl.where(stays, tl.where(below, second, values[k]), first)
            next = tl.where(stays, tl.where(below, next, k), top)
        first = tl.where(stays, first, values[k])
        top = tl.where(stays, top, k)
    if CHECKED:
        low = first == -float("inf")
        if SECOND:
            next = tl.where(second == -float("inf"), tl.where(low | (top == first_at), second_at, first_at), next)
        top = tl.where(low, first_at, top)
    return first, top, second, next


@triton.jit
def sign_of(value):
    """Return a number's sign bit, in 32 bits."""
    if value.dtype == tl.float64:
        high = (value.to(tl.int64, bitcast=True) >> 32).to(tl.int32)
    else:
        high = value.to(tl.int32, bitcast=True)
    return high & -2147483648


@triton.jit
def _with_sign(value, sign):
    if value.dtype == tl.float64:
        bits = (value.to(tl.int64, bitcast=True) & 9223372036854775807) | (sign.to(tl.int64) << 32)
        signed = bits.to(tl.float64, bitcast=True)
    else:
        signed = ((value.to(tl.int32, bitcast=True) & 2147483647) | sign).to(tl.float32, bitcast=True)
    return signed


@triton.jit
def in_type(values, dtype: tl.constexpr):
    """Return values, a tuple of tiles, in a type."""
    found = ()
    for k in tl.static_range(len(values)):
        found = found + (values[k].to(dtype),)
    return found


@triton.jit
def as_pairs(values):
    """Return a half type's values, put together two by two once: the compiler would do it again for every use.

    A product with 1 is no copy that it could leave out.
    """
    found = ()
    for k in tl.static_range(len(values)):
        one = tl.full(values[k].shape, 1.0, values[k].dtype)
        found = found + (_plus_product(values[k], one, tl.full(values[k].shape, -0.0, values[k].dtype)),)
    return found


@triton.jit
def larger(one, other):
    """Return the maxima, NaN where there is one; of a half type two by two, in the GPU's own instructions."""
    if one.dtype == tl.bfloat16 or one.dtype == tl.float16:
        which: tl.constexpr = "max.NaN.bf16x2 $0, $1, $2;" if one.dtype == tl.bfloat16 else "max.NaN.f16x2 $0, $1, $2;"
        result = tl.inline_asm_elementwise(which, "=r,r,r", [one, other], dtype=one.dtype, is_pure=True, pack=2)
    elif one.dtype.is_floating():
        result = tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)
    else:
        result = tl.maximum(one, other)
    return result


@triton.jit
def smaller(one, other):
    """Return the minima, of a number and NaN the number, as `larger` does."""
    if one.dtype == tl.bfloat16 or one.dtype == tl.float16:
        number: tl.constexpr = "min.bf16x2 $0, $1, $2;" if one.dtype == tl.bfloat16 else "min.f16x2 $0, $1, $2;"
        result = tl.inline_asm_elementwise(number, "=r,r,r", [one, other], dtype=one.dtype, is_pure=True, pack=2)
    else:
        result = tl.minimum(one, other)
    return result


@triton.jit
def _plus_product(one, other, number):
    """Return a half type's product plus a number, rounded once."""
    fma: tl.constexpr = "fma.rn.bf16x2 $0, $1, $2, $3;" if one.dtype == tl.bfloat16 else "fma.rn.f16x2 $0, $1, $2, $3;"
    return tl.inline_asm_elementwise(fma, "=r,r,r,r", [one, other, number], dtype=one.dtype, is_pure=True, pack=2)


@triton.jit
def not_finite(largest, odd, like):
    """Return NaN where the largest of all is an infinity or a NaN, or `odd` is NaN."""
    if odd.dtype == tl.bfloat16 or odd.dtype == tl.float16:
        odd = _plus_product(largest, like.to(odd.dtype), odd)
    else:
        odd = tl.fma(largest, like, odd)
    return odd


@triton.jit
def two_numbers(values, K: tl.constexpr, like):
    """Return the two largest of numbers, but for zeros' signs, and NaN where there is an infinity or a NaN."""
    first = larger(values[0], values[1])
    second = smaller(values[0], values[1])
    for k in tl.static_range(2, K):
        second = larger(second, smaller(first, values[k]))
        first = larger(first, values[k])
    return first, second, not_finite(first, like, like)


@triton.jit
def one_of_two(values, first, second, reached, K: tl.constexpr, like):
    """Find where the largest of every window lies, or where `reached` the second largest, of numbers alone: quickly.

    All are compared with it; of equal ones the first is meant, or for the second largest of two equal ones the second.
    With the position goes the sign, by which equal zeros may differ.

    Args:
        values: in window order.
        first, second: the two largest, as `two_numbers` gives.
    Returns:
        The value with its sign, the value as a maximum gives it, the position.
    """
    if values[0].dtype.primitive_bitwidth == 16:
        value, chosen, place = _one_of_two_halves(values, first, second, reached, K)
    else:
        chosen = tl.where(reached, second, first)
        top = like.to(tl.int32)
        next = top
        for k in tl.static_range(K - 1, -1, -1):
            equal = values[k] == chosen
            next = tl.where(equal, top, next)
            top = tl.where(equal, sign_of(values[k]) | k, top)
        place = tl.where(reached & (first == second), next, top)
        value = _with_sign(chosen, place & -2147483648)
        place = place & 2147483647
    return value, chosen, place


# Instructions for two windows at a time; `same` has all bits of a half set, or none.
_EQUAL = "{{ .reg .b32 same; set.eq.u32.{0} same, $2, $3; lop3.b32 $0, $4, $3, $2, 0xca; and.b32 $1, same, $4; }}"
_NEXT = (
    "{{ .reg .b32 same, place; set.eq.u32.{0} same, $2, $3; lop3.b32 place, $2, 0x80008000, $6, 0xea;"
    " lop3.b32 $1, same, $4, $5, 0xca; lop3.b32 $0, same, place, $4, 0xca; }}"
)
_EQUAL_BFLOAT16 = tl.constexpr(_EQUAL.format("bf16x2"))
_EQUAL_FLOAT16 = tl.constexpr(_EQUAL.format("f16x2"))
_NEXT_BFLOAT16 = tl.constexpr(_NEXT.format("bf16x2"))
_NEXT_FLOAT16 = tl.constexpr(_NEXT.format("f16x2"))
_CHOICE = tl.constexpr(
    "{ .reg .b32 place; lop3.b32 place, $2, $3, $4, 0xca; lop3.b32 $0, $5, place, 0x7fff7fff, 0xe4;"
    " and.b32 $1, place, 0x00ff00ff; }"
)


@triton.jit
def _one_of_two_halves(values, first, second, reached, K: tl.constexpr):
    """Do as `one_of_two` for a half type, two windows at a time."""
    equal: tl.constexpr = _EQUAL_BFLOAT16 if first.dtype == tl.bfloat16 else _EQUAL_FLOAT16
    next: tl.constexpr = _NEXT_BFLOAT16 if first.dtype == tl.bfloat16 else _NEXT_FLOAT16
    mask = tl.where(reached, -1, 0).to(tl.int16)
    chosen, tie = tl.inline_asm_elementwise(
        equal, "=r,=r,r,r,r", [first, second, mask], dtype=(first.dtype, tl.int16), is_pure=True, pack=2
    )
    here = tl.zeros(first.shape, tl.int16)
    there = here
    for k in tl.static_range(K - 1, -1, -1):
        here, there = tl.inline_asm_elementwise(
            next, "=r,=r,r,r,r,r,r", [values[k], chosen, here, there, tl.full(first.shape, k, tl.int16)],
            dtype=(tl.int16, tl.int16), is_pure=True, pack=2,
        )  # fmt: skip
    value, place = tl.inline_asm_elementwise(
        _CHOICE, "=r,=r,r,r,r,r", [tie, there, here, chosen], dtype=(first.dtype, tl.int16), is_pure=True, pack=2
    )
    return value, chosen, place


@triton.jit
def ranks(values, valids, K: tl.constexpr, like):
    """Return the rank of every position of every window, as a tuple, padding's behind all; by comparing pairs."""
    found = ()
    for k in tl.static_range(K):
        rank = like.to(tl.int32)
        for j in tl.static_range(K):
            if j < k:
                rank += (valids[j] & (values[j] >= values[k])).to(tl.int32)
            elif j > k:
                rank += 1 - (valids[k] & (values[k] >= values[j])).to(tl.int32)
        found = found + (rank,)
    return found


@triton.jit
def last_nan(values, K: tl.constexpr, like):
    """Return the position of the last NaN of every window, -1 where there is none."""
    at = like.to(tl.int32) - 1
    for k in tl.static_range(K):
        at = tl.where(values[k] != values[k], k, at)
    return at


@triton.jit
def descending(values, K: tl.constexpr, NETWORK: tl.constexpr, EXCHANGES: tl.constexpr):
    """Sort the values of every window, as a tuple, largest first; of equal ones, any is first. NaN is not sorted.

    Args:
        NETWORK: a sorting network, pairs of places, one pair after another; as `_plan.sorting_network` gives.
    """
    for e in tl.static_range(EXCHANGES):
        exchanged = ()
        for k in tl.static_range(K):
            if k == NETWORK[2 * e]:
                exchanged = exchanged + (larger(values[k], values[NETWORK[2 * e + 1]]),)
            elif k == NETWORK[2 * e + 1]:
                exchanged = exchanged + (smaller(values[NETWORK[2 * e]], values[k]),)
            else:
                exchanged = exchanged + (values[k],)
        values = exchanged
    return values


@triton.jit
def of_rank(ordered, rank, K: tl.constexpr):
    """Pick the value of every window's rank, from 0 to K - 1, of those of all ranks: bit by bit."""
    odd = (rank & 1) != 0
    left = ()
    for k in tl.static_range(0, K, 2):
        left = left + (tl.where(odd, ordered[k + 1 if k + 1 < K else k], ordered[k]),)
    if K > 2:
        left = (of_rank(left, rank >> 1, (K + 1) // 2),)
    return left[0]


@triton.jit
def next_largest(
    corner, start, ends, size, step, live, after, after_at, WINDOW: tl.constexpr, HIGH: tl.constexpr, like
):
    """Find the activation that is ranked right after a given one, reading all of the window.

    Returns:
        Its value and position, the number of valid activations, and the last NaN's position; value -inf and
        position -1 if there is none.
    """
    best = like - float("inf")
    best_at = like.to(tl.int32) - 1
    nan_at = best_at
    count = like.to(tl.int32)
    for kd in range(WINDOW[0]):
        for kh in range(WINDOW[1]):
            for kw in range(WINDOW[2]):
                k = (kd * WINDOW[1] + kh) * WINDOW[2] + kw
                value, valid = activation(corner, start, ends, size, step, live, kd, kh, kw, WINDOW, HIGH)
                value = value.to(like.dtype)
                later = (value < after) | ((value == after) & (k > after_at))
                better = valid & later & ((value > best) | (best_at < 0))
                best = tl.where(better, value, best)
                best_at = tl.where(better, k, best_at)
                nan_at = tl.where(value != value, k, nan_at)
                count += valid.to(tl.int32)
    return best, best_at, count, nan_at


@triton.jit
def largest(corner, start, ends, size, step, live, WINDOW: tl.constexpr, HIGH: tl.constexpr, like):
    """Do as `next_largest` for the first rank."""
    none = like.to(tl.int32) - 1
    return next_largest(corner, start, ends, size, step, live, like + float("inf"), none, WINDOW, HIGH, like)


@triton.jit
def ranked_after(
    corner, start, ends, size, step, live, after, after_at, WINDOW: tl.constexpr, HIGH: tl.constexpr, like
):
    """Return the value and position that `next_largest` finds."""
    value, at, count, nan_at = next_largest(corner, start, ends, size, step, live, after, after_at, WINDOW, HIGH, like)
    return value, at
