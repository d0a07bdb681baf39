"""Ranking the activations of every window of a tile: value descending, equal values by position, first first."""

# Kernels are compiled from a subset of Python: no type annotations, no starred tuples, no throwaway names.
# mypy: disable-error-code="no-untyped-def, assignment"
# ruff: noqa: RUF059

import triton
import triton.language as tl

from empool._triton._tile import activation


@triton.jit
def two_largest(values, valids, K: tl.constexpr, SECOND: tl.constexpr, CHECKED: tl.constexpr, like):
    """Find the largest and, if asked, the second largest of every window, and the last NaN.

    Backwards through the window, so that an equal value before it wins, a -inf included; a NaN never wins here.

    Args:
        values, valids: as `load_window` gives.
        CHECKED: whether a window can hold padding.
        like: a tile of zeros in the values' type.
    Returns:
        The largest, its position, the second, its position, the last NaN's position; -1 for a position where
        there is none.
    """
    first = like - float("inf")
    second = first
    none = like.to(tl.int32) - 1
    first_at = none
    second_at = none
    nan_at = none
    for k in tl.static_range(K - 1, -1, -1):
        leads = values[k] >= first
        if CHECKED:
            leads = leads & valids[k]
        if SECOND:
            follows = values[k] >= second
            if CHECKED:
                follows = follows & valids[k]
            second = tl.where(leads, first, tl.where(follows, values[k], second))
            second_at = tl.where(leads, first_at, tl.where(follows, k, second_at))
        first = tl.where(leads, values[k], first)
        first_at = tl.where(leads, k, first_at)
    for k in tl.static_range(K):
        nan_at = tl.where(values[k] != values[k], k, nan_at)
    return first, first_at, second, second_at, nan_at


@triton.jit
def next_largest(
    corner,
    d,
    h,
    w,
    D,
    H,
    W,
    step,
    live,
    after,
    after_at,
    WINDOW: tl.constexpr,
    HIGH: tl.constexpr,
    like,
):
    """Find the activation that is ranked right after a given one, reading all of the window.

    Returns:
        Its value and position, the number of valid activations, and the last NaN's position; value -inf and
        position -1 if there is none.
    """
    KD: tl.constexpr = WINDOW[0]
    KH: tl.constexpr = WINDOW[1]
    KW: tl.constexpr = WINDOW[2]
    best = like - float("inf")
    best_at = like.to(tl.int32) - 1
    nan_at = best_at
    count = like.to(tl.int32)
    for kd in range(KD):
        for kh in range(KH):
            for kw in range(KW):
                k = (kd * KH + kh) * KW + kw
                value, valid = activation(corner, d, h, w, kd, kh, kw, D, H, W, step, live, WINDOW, HIGH)
                value = value.to(like.dtype)
                later = (value < after) | ((value == after) & (k > after_at))
                better = valid & later & ((value > best) | (best_at < 0))
                best = tl.where(better, value, best)
                best_at = tl.where(better, k, best_at)
                nan_at = tl.where(value != value, k, nan_at)
                count += valid.to(tl.int32)
    return best, best_at, count, nan_at


@triton.jit
def largest(corner, d, h, w, D, H, W, step, live, WINDOW: tl.constexpr, HIGH: tl.constexpr, like):
    """Do as `next_largest` for the first rank."""
    none = like.to(tl.int32) - 1
    return next_largest(corner, d, h, w, D, H, W, step, live, like + float("inf"), none, WINDOW, HIGH, like)


@triton.jit
def ranked_after(corner, d, h, w, D, H, W, step, live, after, after_at, WINDOW: tl.constexpr, HIGH: tl.constexpr, like):
    """Return the value and position that `next_largest` finds."""
    value, at, count, nan_at = next_largest(corner, d, h, w, D, H, W, step, live, after, after_at, WINDOW, HIGH, like)
    return value, at
