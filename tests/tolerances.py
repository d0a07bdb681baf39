"""How near is near enough, in one table; and what bit for bit means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MEANS: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-3},  # Two units in the last place.
    torch.float16: {"rtol": 2e-3, "atol": 1e-4},
}
"""For sums that may be taken in another order."""

FALSE_ALARM = 1e-4
"""Chance that `assert_frequencies` fails on right draws; seeds are fixed, so it was taken once and for all."""

_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def bits(tensor: Tensor) -> Tensor:
    """View floats as integers, so that NaN equals NaN and -0.0 is not 0.0."""
    return tensor.view(_INTEGERS[tensor.dtype.itemsize]) if tensor.dtype.is_floating_point else tensor


def plain(tensor: Tensor) -> Tensor:
    """Make every NaN the same: conversions, and sums of infinities, set its spare bits as they like."""
    return torch.where(tensor.isnan(), math.nan, tensor) if tensor.dtype.is_floating_point else tensor


def strides(tensor: Tensor) -> list[int]:
    """Return the strides that matter: those of dimensions longer than one, of a tensor that is not empty."""
    lengths = zip(tensor.stride(), tensor.shape, strict=True)
    return [stride for stride, size in lengths if size > 1] if tensor.numel() else []


def assert_same_bits(actual: Any, expected: Any, what: str = "", layout: bool = True) -> None:
    """Compare tensors, or tuples of them, bit for bit, with their types, shapes and layouts."""
    if isinstance(expected, Tensor):
        actual, expected = (actual,), (expected,)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype, f"{what}: {a.dtype} is not {e.dtype}"
        torch.testing.assert_close(bits(a), bits(e), rtol=0, atol=0, msg=lambda text: f"{what}\n{text}")
        if layout:
            assert strides(a) == strides(e), f"{what}: strides {a.stride()} are not {e.stride()} of {tuple(e.shape)}"


def assert_frequencies(observed: Tensor, probabilities: Sequence[float]) -> None:
    """Compare counts with probabilities by chi-square; what is impossible must not occur at all."""
    expected = torch.tensor(probabilities, dtype=torch.float64) * observed.sum()
    impossible = expected == 0
    assert observed[impossible].sum() == 0
    observed, expected = observed[~impossible].double(), expected[~impossible]
    assert expected.min() >= 5, "too few samples for chi-square"
    if len(expected) > 1:
        statistic = ((observed - expected) ** 2 / expected).sum()
        freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
        assert torch.special.gammaincc(freedom, statistic / 2) > FALSE_ALARM, (observed.tolist(), expected.tolist())
    else:
        assert observed[0] == observed.sum()


def assert_same_numbers(actual: Any, expected: Any, what: str = "") -> None:
    """Compare bit for bit but for the spare bits of NaN, whatever the layout."""
    if isinstance(expected, Tensor):
        actual, expected = (actual,), (expected,)
    assert_same_bits(tuple(map(plain, actual)), tuple(map(plain, expected)), what, layout=False)
