"""What windows send to their largest and second largest activations, four windows at a time.

A window's code says where the two lie: see `empool._triton._places`. Codes of four windows are a word of 32 bits.
"""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment, misc, var-annotated"
# ruff: noqa: RUF005

import triton
import triton.language as tl

from empool._triton._places import ALONE, MOST_PLACES

_ALL = 0x01010101


def _products(weights: int) -> str:
    """Write the instructions for four windows' gradients times their weights.

    A weight of 0 takes no part even of an infinite gradient, and a NaN that is ALONE gets the gradient itself. Both are
    seldom, and done in a branch. (It is a loop, whose repetition does no harm, since the assembler would make
    conditions of single instructions of anything else.)
    """
    names = iter(f"${i}" for i in range(8 * weights + 5))
    products = [[next(names) for _ in range(4)] for _ in range(weights)]
    word = next(names)
    gradients, *factors = ([next(names) for _ in range(4)] for _ in range(1 + weights))
    each = [(j, i) for j in range(weights) for i in range(4)]
    mask, alone = hex(_ALL * 0xF0), hex(_ALL * (ALONE.value << 4))
    return " ".join(
        [
            "{ .reg .pred odd, its; .reg .f32 none; .reg .b32 other, its_bits;",
            *(f"mul.rn.f32 {products[j][i]}, {gradients[i]}, {factors[j][i]};" for j, i in each),
            f"mul.rn.f32 none, {gradients[0]}, 0f00000000;",
            *(f"fma.rn.f32 none, {gradient}, 0f00000000, none;" for gradient in gradients[1:]),
            "setp.nan.f32 odd, none, none;",
            f"lop3.b32 other, {word}, {mask}, {alone}, 0x6a; sub.u32 its_bits, other, {hex(_ALL * 16)};",  # a & b ^ c
            f"lop3.b32 its_bits, its_bits, other, {hex(_ALL * 128)}, 0x20;",  # a & ~b & c: set if a byte of b is 0.
            "setp.ne.u32 its, its_bits, 0; or.pred odd, odd, its; @!odd bra DONE; AGAIN:",
            *(f"setp.eq.f32 its, {factors[j][i]}, 0f00000000; @its mov.f32 {products[j][i]}, 0f00000000;"
              for j, i in each),
            *(f"and.b32 other, {word}, {hex(0xF0 << 8 * i)}; setp.eq.u32 its, other, {hex(ALONE.value << 8 * i + 4)};"
              f" @its mov.f32 {products[0][i]}, {gradients[i]};" for i in range(4)),
            "shr.u32 its_bits, its_bits, 8; setp.ne.u32 its, its_bits, 0; @its bra AGAIN; DONE: }",
        ]
    )  # fmt: skip


def _sums(k: int, weights: int) -> str:
    """Write the instructions that add what four windows send to position k.

    Four bits of a code are compared as a float16's, without a shift: two windows at a time, of which each has its own
    condition. (The highest four would be both zeros, but for a bit that no code has.)
    """
    text = ["{ .reg .pred one, other; .reg .b32 places, k;"]
    for j in range(weights):
        for i in range(2):
            shift = 8 * i + 4 * j
            mask, place = 0x000F000F << shift, (k << shift) * 0x10001
            if shift == 12:
                text.append(f"lop3.b32 places, $4, {hex(mask)}, 0x00010001, 0xea;")  # a & b | c
                place |= 0x10001
            else:
                text.append(f"and.b32 places, $4, {hex(mask)};")
            text.append(f"mov.b32 k, {hex(place)}; setp.eq.f16x2 one|other, places, k;")
            for which, window in (("one", i), ("other", i + 2)):
                text.append(f"@{which} add.rn.f32 ${window}, ${window}, ${9 + 4 * j + window};")
    return " ".join([*text, "}"])


_PRODUCTS = tl.constexpr(tuple(_products(weights) for weights in (1, 2)))
_SUMS = tl.constexpr(tuple(_sums(k, weights) for k in range(MOST_PLACES.value) for weights in (1, 2)))


@triton.jit
def sent(code, gradient, weights, PACKED: tl.constexpr):
    """Return what windows send to their activations: a tuple, one for each of their weights.

    Args:
        code: as bytes.
        weights: a tuple.
    """
    WEIGHTS: tl.constexpr = len(weights)
    if PACKED and gradient.dtype == tl.float32 and gradient.shape[1] % 4 == 0:
        first = tl.broadcast_to(weights[0], gradient.shape)
        assembly: tl.constexpr = _PRODUCTS[WEIGHTS - 1]
        if WEIGHTS == 1:
            found = (
                tl.inline_asm_elementwise(
                    assembly, "=&f,=&f,=&f,=&f,r,f,f,f,f,f,f,f,f", [code, gradient, first], dtype=tl.float32,
                    is_pure=True, pack=4,
                ),
            )  # fmt: skip
        else:
            found = tl.inline_asm_elementwise(
                assembly, "=&f,=&f,=&f,=&f,=&f,=&f,=&f,=&f,r,f,f,f,f,f,f,f,f,f,f,f,f",
                [code, gradient, first, tl.broadcast_to(weights[1], gradient.shape)], dtype=(tl.float32, tl.float32),
                is_pure=True, pack=4,
            )  # fmt: skip
    else:
        found = ()
        for i in tl.static_range(WEIGHTS):
            product = tl.where(weights[i] != 0, gradient * weights[i], 0.0)
            if i == 0:
                product = tl.where((code >> 4) == ALONE, gradient, product)
            found = found + (product,)
    return found


@triton.jit
def plus_sent(total, code, parts, k: tl.constexpr, PACKED: tl.constexpr):
    """Add what windows send to position k."""
    if PACKED and total.dtype == tl.float32 and total.shape[1] % 4 == 0:
        assembly: tl.constexpr = _SUMS[2 * k + len(parts) - 1]
        if len(parts) == 1:
            total = tl.inline_asm_elementwise(
                assembly, "=&f,=&f,=&f,=&f,r,0,1,2,3,f,f,f,f", [code, total, parts[0]], dtype=tl.float32, is_pure=True,
                pack=4,
            )  # fmt: skip
        else:
            total = tl.inline_asm_elementwise(
                assembly, "=&f,=&f,=&f,=&f,r,0,1,2,3,f,f,f,f,f,f,f,f", [code, total, parts[0], parts[1]],
                dtype=tl.float32, is_pure=True, pack=4,
            )  # fmt: skip
    else:
        total = tl.where((code & 15) == k, total + parts[0], total)
        if len(parts) == 2:
            total = tl.where((code >> 4) == k, total + parts[1], total)
    return total


@triton.jit
def sent_of_word(word, gradients, weights, PACKED: tl.constexpr):
    """Do as `sent` for four windows whose codes are a word: first parts of all four, then second ones.

    Args:
        weights: four tuples.
    """
    WEIGHTS: tl.constexpr = len(weights[0])
    if PACKED:
        assembly: tl.constexpr = _PRODUCTS[WEIGHTS - 1]
        like = gradients[0]
        factors = ()
        for j in tl.static_range(WEIGHTS):
            for i in tl.static_range(4):
                factors = factors + (tl.broadcast_to(weights[i][j], like.shape),)
        if WEIGHTS == 1:
            found = tl.inline_asm_elementwise(
                assembly, "=&f,=&f,=&f,=&f,r,f,f,f,f,f,f,f,f",
                [word, gradients[0], gradients[1], gradients[2], gradients[3], factors[0], factors[1], factors[2],
                factors[3]],
                dtype=(tl.float32,) * 4, is_pure=True, pack=1,
            )  # fmt: skip
        else:
            found = tl.inline_asm_elementwise(
                assembly, "=&f,=&f,=&f,=&f,=&f,=&f,=&f,=&f,r,f,f,f,f,f,f,f,f,f,f,f,f",
                [word, gradients[0], gradients[1], gradients[2], gradients[3], factors[0], factors[1], factors[2],
                factors[3], factors[4], factors[5], factors[6], factors[7]],
                dtype=(tl.float32,) * 8, is_pure=True, pack=1,
            )  # fmt: skip
    else:
        found = ()
        for j in tl.static_range(WEIGHTS):
            for i in tl.static_range(4):
                found = found + (sent((word >> (8 * i)) & 255, gradients[i], weights[i], False)[j],)
    return found


@triton.jit
def plus_sent_of_word(totals, word, parts, k: tl.constexpr, PACKED: tl.constexpr):
    """Add what four windows, whose codes are a word, send to position k, each to its own total."""
    if PACKED:
        assembly: tl.constexpr = _SUMS[2 * k + len(parts) // 4 - 1]
        if len(parts) == 4:
            totals = tl.inline_asm_elementwise(
                assembly, "=&f,=&f,=&f,=&f,r,0,1,2,3,f,f,f,f",
                [word, totals[0], totals[1], totals[2], totals[3], parts[0], parts[1], parts[2], parts[3]],
                dtype=(tl.float32,) * 4, is_pure=True, pack=1,
            )  # fmt: skip
        else:
            totals = tl.inline_asm_elementwise(
                assembly, "=&f,=&f,=&f,=&f,r,0,1,2,3,f,f,f,f,f,f,f,f",
                [word, totals[0], totals[1], totals[2], totals[3], parts[0], parts[1], parts[2], parts[3], parts[4],
                parts[5], parts[6], parts[7]],
                dtype=(tl.float32,) * 4, is_pure=True, pack=1,
            )  # fmt: skip
    else:
        found = ()
        for i in tl.static_range(4):
            code = (word >> (8 * i)) & 255
            its = (parts[i],) if len(parts) == 4 else (parts[i], parts[4 + i])
            found = found + (plus_sent(totals[i], code, its, k, False),)
        totals = found
    return totals
