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
def in_type(values, dtype: tl.constexpr):
    """Return values, a tuple of tiles, in a type."""
    found = ()
    for k in tl.static_range(len(values)):
        found = found + (values[k].to(dtype),)
    return found


_SAME = "{{ .reg .b32 one, zero; mov.b32 one, {0}; mov.b32 zero, 0x80008000; fma.rn.{1} $0, $1, one, zero; }}"
_SAME_BFLOAT16 = tl.constexpr(_SAME.format("0x3f803f80", "bf16x2"))
_SAME_FLOAT16 = tl.constexpr(_SAME.format("0x3c003c00", "f16x2"))
"""A number times 1 plus -0: the same number, sign included, by an instruction that the compiler keeps."""


@triton.jit
def as_pairs(values):
    """Return a half type's values, put together two by two once: the compiler would do it again for every use."""
    same: tl.constexpr = _SAME_BFLOAT16 if values[0].dtype == tl.bfloat16 else _SAME_FLOAT16
    found = ()
    for k in tl.static_range(len(values)):
        pair = tl.inline_asm_elementwise(same, "=r,r", [values[k]], dtype=values[k].dtype, is_pure=True, pack=2)
        found = found + (pair,)
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


_THREE = (
    "{{ .reg .b32 t; max.NaN.{0} t, $3, $4; max.NaN.{0} $0, t, $5; min.{0} t, $3, $4; min.{0} $2, t, $5;"
    " lop3.b32 t, $3, $4, $5, 0x96; lop3.b32 $1, t, $0, $2, 0x96; }}"
)
_THREE_BFLOAT16 = tl.constexpr(_THREE.format("bf16x2"))
_THREE_FLOAT16 = tl.constexpr(_THREE.format("f16x2"))


@triton.jit
def three(one, other, third):
    """Sort three, largest first: of a half type, the middle is what is left of all bits without the others'."""
    if one.dtype == tl.bfloat16 or one.dtype == tl.float16:
        assembly: tl.constexpr = _THREE_BFLOAT16 if one.dtype == tl.bfloat16 else _THREE_FLOAT16
        high, middle, low = tl.inline_asm_elementwise(
            assembly, "=&r,=&r,=&r,r,r,r", [one, other, third], dtype=(one.dtype, one.dtype, one.dtype), is_pure=True,
            pack=2,
        )  # fmt: skip
    else:
        high, low = larger(one, other), smaller(one, other)
        middle, low = larger(low, third), smaller(low, third)
        high, middle = larger(high, middle), smaller(high, middle)
    return high, middle, low


@triton.jit
def magnitude(number):
    """Return a number without its sign; of a half type two by two."""
    if number.dtype == tl.bfloat16 or number.dtype == tl.float16:
        assembly: tl.constexpr = "abs.bf16x2 $0, $1;" if number.dtype == tl.bfloat16 else "abs.f16x2 $0, $1;"
        result = tl.inline_asm_elementwise(assembly, "=r,r", [number], dtype=number.dtype, is_pure=True, pack=2)
    else:
        result = tl.abs(number)
    return result


@triton.jit
def lowest_bits(values, lowest):
    """Return the lowest of the values' bits and `lowest`, as signed numbers: the lowest of all are those of -0."""
    for k in tl.static_range(len(values)):
        bits = values[k].to(lowest.dtype, bitcast=True)
        if lowest.dtype == tl.int16:
            lowest = tl.inline_asm_elementwise(
                "min.s16x2 $0, $1, $2;", "=r,r,r", [lowest, bits], dtype=tl.int16, is_pure=True, pack=2
            )
        else:
            lowest = tl.minimum(lowest, bits)
    return lowest


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
def two_numbers(values, K: tl.constexpr):
    """Return the two largest of numbers, but for zeros' signs; the first is NaN if one of them is."""
    first = larger(values[0], values[1])
    second = smaller(values[0], values[1])
    for k in tl.static_range(2, K):
        second = larger(second, smaller(first, values[k]))
        first = larger(first, values[k])
    return first, second


_FLOAT_BITS = tl.constexpr(24)
"""So many powers of two in a row a float32 can hold the sum of."""


@triton.jit
def one_of_two(values, first, second, number, threshold, K: tl.constexpr, like):
    """Find where the largest of every window lies, of numbers alone: quickly. Or, where a random number reaches the
    threshold, where the second largest does.

    Every activation is compared with it; of equal ones the first is meant, or for the second largest of two equal ones
    the second. Activation k adds 2^(K-2-k) to a sum if it is equal, the last one always: so the sum's exponent is
    where the first one lies. (A comparison and a product, which take turns in different parts of the GPU.)

    Args:
        values: in window order.
        first, second: the two largest, as `two_numbers` gives.
    Returns:
        The value, but for the sign of zero, and the position.
    """
    if values[0].dtype.primitive_bitwidth == 16:
        value, place = _one_of_two_halves(values, first, second, number, threshold, K)
    else:
        reached = number >= threshold
        value = tl.where(reached, second, first)
        EARLY: tl.constexpr = K - 1 if K <= _FLOAT_BITS else _FLOAT_BITS
        total = tl.full(like.shape, 0.5 if K <= _FLOAT_BITS else 0.0, tl.float32)
        for k in tl.static_range(EARLY):
            total = tl.fma(
                (values[k] == value).to(tl.float32), tl.full(like.shape, 2.0 ** (K - 2 - k), tl.float32), total
            )
        later = total
        if K > _FLOAT_BITS:
            later = tl.full(like.shape, 0.5, tl.float32)
            for k in tl.static_range(EARLY, K - 1):
                later = tl.fma(
                    (values[k] == value).to(tl.float32), tl.full(like.shape, 2.0 ** (K - 2 - k), tl.float32), later
                )
        first_at = tl.where(total > 0, total, later) if K > _FLOAT_BITS else total
        top = (first_at.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        second_at = first_at - top
        if K > _FLOAT_BITS:
            second_at = tl.where(second_at > 0, second_at, later)
        place = tl.where(reached & (first == second), second_at, first_at)
        place = (125 + K) - (place.to(tl.int32, bitcast=True) >> 23)
    return value, place


# Instructions for two windows at a time; of a half, `reached` and `same` have all bits set or none.
_CHOICE = (
    "{{ .reg .pred one, other; .reg .b32 reached, same; setp.ge.u32 one, $4, $6; setp.ge.u32 other, $5, $7;"
    " selp.b32 reached, 0x0000ffff, 0, one; @other or.b32 reached, reached, 0xffff0000;"
    " set.eq.u32.{0} same, $2, $3; and.b32 $1, same, reached; lop3.b32 $0, reached, $3, $2, 0xca; }}"
)
_ADD = "{{ .reg .b32 one; set.eq.{0}.{0} one, $1, $2; fma.rn.{0} $0, one, $3, $4; }}"
_PLACE = (
    "{{ .reg .b32 top, minus, half; mov.b32 minus, {2}; mov.b32 half, {3}; lop3.b32 top, $1, $2, {1}, 0x80;"
    " fma.rn.{0} top, top, minus, $1; max.{0} top, top, half; shr.b32 top, top, {4}; and.b32 top, top, {5};"
    " sub.u32 $0, $3, top; }}"
)
_OF_BFLOAT16 = ("bf16x2", "0x7f807f80", "0xbf80bf80", "0x3f003f00", "7", "0x00ff00ff")
_OF_FLOAT16 = ("f16x2", "0x7c007c00", "0xbc00bc00", "0x38003800", "10", "0x001f001f")
_CHOICE_BFLOAT16, _ADD_BFLOAT16, _PLACE_BFLOAT16 = (
    tl.constexpr(text.format(*_OF_BFLOAT16)) for text in (_CHOICE, _ADD, _PLACE)
)
_CHOICE_FLOAT16, _ADD_FLOAT16, _PLACE_FLOAT16 = (
    tl.constexpr(text.format(*_OF_FLOAT16)) for text in (_CHOICE, _ADD, _PLACE)
)


@triton.jit
def _one_of_two_halves(values, first, second, number, threshold, K: tl.constexpr):
    """Do as `one_of_two` for a half type, two windows at a time. Of bfloat16 a sum takes eight activations."""
    choice: tl.constexpr = _CHOICE_BFLOAT16 if first.dtype == tl.bfloat16 else _CHOICE_FLOAT16
    add: tl.constexpr = _ADD_BFLOAT16 if first.dtype == tl.bfloat16 else _ADD_FLOAT16
    where: tl.constexpr = _PLACE_BFLOAT16 if first.dtype == tl.bfloat16 else _PLACE_FLOAT16
    BIAS: tl.constexpr = 127 if first.dtype == tl.bfloat16 else 15
    value, tie = tl.inline_asm_elementwise(
        choice, "=&r,=&r,r,r,r,r,r,r", [first, second, number, threshold], dtype=(first.dtype, tl.int16), is_pure=True,
        pack=2,
    )  # fmt: skip
    total = tl.zeros(first.shape, first.dtype)
    for k in tl.static_range(K - 1):
        total = tl.inline_asm_elementwise(
            add, "=r,r,r,r,r", [values[k], value, tl.full(first.shape, 2.0 ** (K - 2 - k), first.dtype), total],
            dtype=first.dtype, is_pure=True, pack=2,
        )  # fmt: skip
    place = tl.inline_asm_elementwise(
        where, "=r,r,r,r", [total, tie, tl.full(first.shape, BIAS + K - 2, tl.int16)], dtype=tl.int16, is_pure=True,
        pack=2,
    )  # fmt: skip
    return value, place


@triton.jit
def rank_by_pairs(values, valids, K: tl.constexpr, like):
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
        NETWORK: a sorting network, pairs of places, one pair after another; as `_plan.sorting_network` gives. Of no
            EXCHANGES, nine values are three columns, sorted each.
    """
    if K == 9 and EXCHANGES == 0:
        values = _nine(values)
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
def _nine(columns):
    """Sort three columns of three, which are sorted each: each row, what lies across, and neighbours."""
    first, a, b = three(columns[0], columns[3], columns[6])
    c, d, e = three(columns[1], columns[4], columns[7])
    f, g, last = three(columns[2], columns[5], columns[8])
    b, middle, f = three(b, d, f)
    second, a = larger(a, c), smaller(a, c)
    g, eighth = larger(e, g), smaller(e, g)
    return first, second, larger(a, b), smaller(a, b), middle, larger(g, f), smaller(g, f), eighth, last


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
def five_of_nine(columns):
    """Do as `_nine` for the first five. Of the others, return a tuple of which nothing is smaller than the fifth.

    That is: one, another, and three; of these the largest is left out.
    """
    first, a, b = three(columns[0], columns[3], columns[6])
    c, d, e = three(columns[1], columns[4], columns[7])
    f = larger(larger(columns[2], columns[5]), columns[8])
    b, middle, f = three(b, d, f)
    second, a = larger(a, c), smaller(a, c)
    return (first, second, larger(a, b), smaller(a, b), middle), (e, f, columns[2], columns[5], columns[8])


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
