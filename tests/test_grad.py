"""Derivatives: by differences in float64 on inputs without ties, and what is kept for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from cases import METHODS, SMALL, Case, function, tie_free

# Raised by PyTorch's own forward mode, the first time that it is used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

KINDS = tuple(
    case
    for case in SMALL
    if case.layout in ("contiguous", "channels last")
    and "normal" not in case.name
    and not case.name.startswith("2x2/2, ")
)


def _call(stem: str, case: Case, training: bool) -> Callable[[Tensor], Tensor]:
    """Return the method as a function of its input alone: its seed is fixed."""

    def call(input: Tensor) -> Tensor:
        output: Tensor = function(stem, case.dims)(
            input, *case.arguments, training=training, seed=20171124, **METHODS[stem]
        )
        # A window of padding only is -inf, whose differences are NaN.
        return torch.where(output.isinf(), 0, output)

    return call


def _input(case: Case, values: str = "any") -> Tensor:
    input = tie_free(case.shape).clone()
    if values == "positive":
        input += 0.2 - input.min() if input.numel() else 0
    if case.layout == "channels last":
        input = input.movedim(1, -1).contiguous().movedim(-1, 1)
    return input.requires_grad_()


@pytest.mark.parametrize("training", [True, False], ids=["training", "testing"])
@pytest.mark.parametrize("stem", METHODS)
@pytest.mark.parametrize("case", KINDS, ids=str)
def test_first_derivatives(case: Case, stem: str, training: bool) -> None:
    """Fast mode projects onto random directions; the full one is below. A draw by value depends on the values: at a
    difference of 1e-6 no draw changes here."""
    call = _call(stem, case, training)
    assert gradcheck(call, (_input(case),), fast_mode=True, check_forward_ad=True, check_batched_grad=False)


TINY = (
    Case("1d dilated", (2, 2, 7), 3, 2, 1, 2),
    Case("3x3/2 padded", (1, 2, 4, 3), 3, 2, 1),
    Case("3x3/2 padded, channels last", (2, 2, 3, 2), 3, 2, 1, layout="channels last"),
    Case("ceil 2x2/2", (1, 2, 3, 3), 2, 2, ceil_mode=True),
    Case("padding only", (1, 1, 3, 4), 2, 1, 1, 4),
    Case("3d 2x2x2/2", (1, 1, 2, 4, 2), 2, 2),
)
"""So small that every direction can be taken."""


@pytest.mark.parametrize("training", [True, False], ids=["training", "testing"])
@pytest.mark.parametrize("stem", METHODS)
@pytest.mark.parametrize("case", TINY, ids=str)
def test_all_derivatives(case: Case, stem: str, training: bool) -> None:
    call, input = _call(stem, case, training), _input(case, "positive" if stem == "stochastic_pool" else "any")
    batched = {"check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(call, (input,), check_forward_ad=True, **batched)
    assert gradgradcheck(call, (input,), check_fwd_over_rev=True, check_rev_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("stem", METHODS)
def test_the_gradient_goes_to_the_drawn_activation_alone(stem: str) -> None:
    input = tie_free((2, 3, 8, 8)).requires_grad_()
    output, indices = function(stem, 2)(input, 2, return_indices=True, seed=5, **METHODS[stem])
    output.backward(torch.arange(1.0, 1 + output.numel(), dtype=torch.float64).reshape(output.shape))
    expected = torch.zeros(2, 3, 64, dtype=torch.float64)
    gradient = torch.arange(1.0, 1 + output.numel(), dtype=torch.float64).reshape(2, 3, 16)
    drawn_zero = output == 0
    expected.scatter_(2, indices.flatten(2), torch.where(drawn_zero.flatten(2), 0, gradient))
    torch.testing.assert_close(input.grad, expected.reshape(input.shape), rtol=0, atol=0)


def _kept(call: Callable[[], Any]) -> list[Tensor]:
    """Return what a call keeps for its backward."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stem", METHODS)
def test_training_keeps_one_byte_for_each_output(stem: str, dtype: torch.dtype) -> None:
    input = torch.randn(2, 3, 9, 9, dtype=dtype, requires_grad=True)
    for unbatched in (False, True):
        given = input[0] if unbatched else input
        results: list[Tensor] = []
        kept = _kept(
            lambda given=given, results=results: results.append(function(stem, 2)(given, 3, 2, 1, **METHODS[stem]))
        )
        assert sum(tensor.nbytes for tensor in kept) == results[0].numel()


def test_training_keeps_four_bytes_for_each_output_of_large_windows() -> None:
    input = torch.randn(1, 2, 17, 17, requires_grad=True)
    kept = _kept(lambda: function("ensemble_max_pool", 2)(input, 16, 1, p=0.5))
    assert [tensor.nbytes for tensor in kept] == [2 * 2 * 2 * 4]


@pytest.mark.parametrize("stem", METHODS)
def test_the_backward_makes_no_gradient_for_what_has_none(stem: str) -> None:
    """That is, no zeros for `drawn`."""
    input = torch.randn(2, 3, 8, 8, requires_grad=True)
    output = function(stem, 2)(input, 2, **METHODS[stem])
    with torch.profiler.profile() as profile:
        output.sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert "empool::drawn_scatter" in names
    assert not names & {"aten::zeros", "aten::zero_"}


@pytest.mark.parametrize("training", [True, False], ids=["training", "testing"])
@pytest.mark.parametrize("stem", METHODS)
def test_nothing_is_kept_for_an_input_without_gradient(stem: str, training: bool) -> None:
    call = function(stem, 2)
    plain, learned = torch.randn(2, 3, 9, 9), torch.randn(2, 3, 9, 9, requires_grad=True)
    assert not _kept(lambda: call(plain, 3, 2, 1, training=training, **METHODS[stem]))
    with torch.no_grad():
        assert not _kept(lambda: call(learned, 3, 2, 1, training=training, **METHODS[stem]))
    assert not call(plain, 3, 2, 1, training=training, **METHODS[stem]).requires_grad


@pytest.mark.parametrize("stem", METHODS)
def test_indices_and_draws_have_no_gradient(stem: str) -> None:
    input = torch.randn(2, 3, 9, 9, requires_grad=True)
    output, indices = function(stem, 2)(input, 3, 2, 1, return_indices=True, **METHODS[stem])
    assert output.requires_grad
    assert not indices.requires_grad
    drawn = torch.ops.empool.value_draw(input, torch.tensor(0), None, [2, 2], [2, 2], [0, 0], [1, 1], [], False, 0)[1]
    assert not drawn.requires_grad


def test_third_derivatives() -> None:
    """Draws are linear: scatter and gather are each other's derivative without end."""
    input = tie_free((1, 2, 6, 6)).requires_grad_()
    weights = tie_free((1, 2, 3, 3), seed=1)

    def cube(input: Tensor) -> Tensor:
        output = function("ensemble_max_pool", 2)(input, 2, p=0.5, seed=3)
        return (weights * output**3).sum()

    (first,) = torch.autograd.grad(cube(input), input, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), input, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), input)
    _, drawn = function("ensemble_max_pool", 2)(input, 2, return_indices=True, p=0.5, seed=3)
    expected = torch.zeros(1, 2, 36, dtype=torch.float64).scatter(2, drawn.flatten(2), 6 * weights.flatten(2))
    torch.testing.assert_close(third, expected.reshape(third.shape))
