"""Draws by softmax from powers that are nearly right, which a GPU makes fast, and how far they can be trusted."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, var-annotated"
# ruff: noqa: RUF005

import triton
import triton.language as tl

from empool.reference import LOG2E

_LOG2E = tl.constexpr(LOG2E)
SURE = tl.constexpr(2.0**-100)
"""Of a total that is less, powers may be missing."""
_FURTHER = tl.constexpr(
    "{ .reg .pred beyond; setp.gt.f32 beyond, $2, 0f00000000; mov.f32 $0, $1; @!beyond add.rn.f32 $0, $1, $3; }"
)


@triton.jit
def _further(place, distance, number: tl.constexpr, PACKED: tl.constexpr):
    """Move on by a number of places where the distance is not positive."""
    if PACKED:
        place = tl.inline_asm_elementwise(
            _FURTHER,
            "=&f,f,f,f",
            [place, distance, tl.full(place.shape, number, tl.float32)],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        place = tl.where(distance > 0, place, place + number)
    return place


@triton.jit
def _log2(number, PACKED: tl.constexpr):
    """Return a positive number's logarithm, to a few digits; of 0, anything."""
    if PACKED:
        logarithm = tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [number], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        logarithm = tl.log2(tl.maximum(number, 2.0**-126))
    return logarithm


@triton.jit
def scale_of(factor):
    """Return what activations are multiplied by so that two to that power is their weight."""
    return factor * tl.full([1, 1], _LOG2E, factor.dtype)


@triton.jit
def shift_of(values, factor):
    """Return what to add to the scale times each value, so that the largest one is near 0.

    By their bits, the largest value is found, or the least one if all are negative: a GPU finds the largest of three
    whole numbers as fast as of two numbers.
    """
    top = values[0].to(tl.int32, bitcast=True)
    for k in tl.static_range(1, len(values)):
        top = tl.maximum(top, values[k].to(tl.int32, bitcast=True))
    return top.to(tl.float32, bitcast=True) * -scale_of(factor)


@triton.jit
def rough_powers(values, factor, shifts):
    """Return two to the power of the scale times each value, and its shift; right to some 2^-22."""
    scale = scale_of(factor)
    powers = ()
    for k in tl.static_range(len(values)):
        powers = powers + (tl.exp2(tl.fma(values[k], scale, shifts[k])),)
    return powers


@triton.jit
def error_of(shift, factor, K: tl.constexpr, dtype: tl.constexpr):
    """Return by how much the sums of K rough powers and the exact ones may differ, divided by their totals.

    In units of 2^-24: at the bound, errors of powers before and behind it count half, so that seven units of each power
    do four (`exp2` is off by four at most on NVIDIA's GPUs, `_power` by three); exponents are rounded four times, which
    does five, as powers are the smaller, the larger their exponents (but for what `drawn_by_powers` adds); a score's
    rounding does half of the score, unless beta has so few digits that it is exact; a sum one for each addition, in
    both; the bound itself two. The rest is for GPUs whose `exp2` is worse.
    """
    DIGITS: tl.constexpr = 8 if dtype == tl.bfloat16 else 11 if dtype == tl.float16 else 23
    exact = (factor.to(tl.int32, bitcast=True) & ((1 << DIGITS) - 1)) == 0
    return tl.fma(tl.abs(shift), tl.where(exact, 0.0, 2.0**-25), tl.full([1, 1], (18 + 2 * K) * 2.0**-24, tl.float32))


@triton.jit
def drawn_by_powers(
    values, powers, error, number, COLUMNS: tl.constexpr, KW: tl.constexpr, LEFT: tl.constexpr, PACKED: tl.constexpr,
    like,
):  # fmt: skip
    """Draw a value in proportion to its rough power.

    Args:
        values, powers: row by row, so many COLUMNS of each row's KW, of which LEFT are missing on the left.
        error: as `error_of` says.
    Returns:
        The value, its position, and how much farther from the bound than the error sums are: more than SURE, or unsure.
    """
    K: tl.constexpr = len(values)
    total = powers[0]
    sums = (total,)
    for k in tl.static_range(1, K):
        total += powers[k]
        sums = sums + (total,)
    taken = number.to(tl.float32) * -2.3283064365386963e-10
    near = total
    place = like + (8388608.0 + (LEFT if LEFT > 0 else 0))  # 2^23: then the place is in the lowest bits.
    kept = sums[:COLUMNS]
    found = values[:COLUMNS]
    for row in tl.static_range(1, K // COLUMNS):
        distance = tl.fma(taken, total, sums[row * COLUMNS - 1])
        near = tl.minimum(near, tl.abs(distance))
        beyond = distance > 0
        its_sums = ()
        its_values = ()
        for c in tl.static_range(COLUMNS):
            its_sums = its_sums + (tl.where(beyond, kept[c], sums[row * COLUMNS + c]),)
            its_values = its_values + (tl.where(beyond, found[c], values[row * COLUMNS + c]),)
        kept = its_sums
        found = its_values
        place = _further(place, distance, KW, PACKED)
    value = found[0]
    for c in tl.static_range(1, COLUMNS):
        distance = tl.fma(taken, total, kept[c - 1])
        near = tl.minimum(near, tl.abs(distance))
        value = tl.where(distance > 0, value, found[c])
        place = _further(place, distance, 1, PACKED)
    position = place.to(tl.int32, bitcast=True) & 255
    # The total's exponent is about the largest one's.
    error = tl.fma(tl.abs(_log2(total, PACKED)), tl.full([1, 1], 2.0**-24, tl.float32), error)
    return value, position, tl.fma(total, -error, near)
