"""Properties that hold for any window, size, type and layout."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from torch import Tensor

import empool
from cases import DISTRIBUTIONS, DTYPES, LAYOUTS, Case, thresholds, weights
from empool import _window, reference
from tolerances import MEANS, assert_same_bits, plain

ops = torch.ops.empool


@st.composite
def cases(draw: st.DrawFn, values: tuple[str, ...] = ("normal", "ties", "special"), largest_dilation: int = 3) -> Case:
    """Draw a geometry that PyTorch accepts, and an input for it."""
    dims = draw(st.integers(1, 3))
    sizes = st.integers(1, {1: 40, 2: 14, 3: 6}[dims])
    spatial, kernel, stride, padding, dilation = [], [], [], [], []
    for _ in range(dims):
        k = draw(st.integers(1, 5 if dims < 3 else 3))
        spatial.append(draw(sizes))
        kernel.append(k)
        stride.append(draw(st.integers(1, 4)))
        padding.append(draw(st.integers(0, k // 2)))
        dilation.append(draw(st.integers(1, largest_dilation)))
    case = Case(
        "drawn",
        (draw(st.integers(0, 3)), draw(st.integers(1, 9)), *spatial),
        tuple(kernel),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        draw(st.booleans()),
        layout=draw(st.sampled_from(sorted(LAYOUTS))),
        values=draw(st.sampled_from(values)),
    )
    assume(all(size > 0 for size in case.output_shape[2:]))
    return case


dtypes = st.sampled_from(DTYPES)
seeds = st.integers(-(2**63), 2**63 - 1)
distributions = st.sampled_from(sorted(DISTRIBUTIONS)).map(DISTRIBUTIONS.__getitem__)


def _draw(case: Case, input: Tensor, distribution: empool.RankDistribution, seed: int) -> tuple[Tensor, Tensor]:
    table = thresholds(distribution, case.counts)
    result: tuple[Tensor, Tensor] = ops.rank_draw(input, torch.tensor(seed), table, case.counts, *case.geometry, 0)
    return result


def _mean(case: Case, input: Tensor, distribution: empool.RankDistribution) -> Tensor:
    result: Tensor = ops.rank_mean(input, weights(distribution, case.counts), case.counts, *case.geometry)
    return result


def _max_pool(case: Case, input: Tensor) -> Any:
    return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[case.dims - 1](input, *case.arguments)


@given(case=cases(), dtype=dtypes, distribution=distributions, seed=seeds)
def test_shapes_are_max_poolings(
    case: Case, dtype: torch.dtype, distribution: empool.RankDistribution, seed: int
) -> None:
    input = case.input(dtype)
    expected = _max_pool(case, input)
    output, drawn = _draw(case, input, distribution, seed)
    for result in (output, drawn, _mean(case, input, distribution)):
        assert result.shape == expected.shape
    assert output.dtype == dtype


@given(case=cases(), dtype=dtypes, distribution=distributions, seed=seeds)
def test_the_output_is_an_activation_of_its_window_or_zero(
    case: Case, dtype: torch.dtype, distribution: empool.RankDistribution, seed: int
) -> None:
    input = case.input(dtype)
    output, drawn = _draw(case, input, distribution, seed)
    windows, valid = _window.windows(input, case.geometry)
    nothing = drawn == reference.zero_drawn(drawn.dtype)
    offset = torch.where(nothing, 0, drawn.long()).unsqueeze(-1)
    drawn_is_valid = valid.expand_as(windows).gather(-1, offset).squeeze(-1)
    assert (drawn_is_valid | nothing).all()
    drawn_value = windows.gather(-1, offset).squeeze(-1)
    empty = ~valid.any(-1).expand_as(nothing)
    expected = torch.where(nothing, torch.where(empty, -math.inf, 0.0).to(dtype), drawn_value)
    assert_same_bits(output, expected, layout=False)


@given(case=cases(("normal", "ties")), dtype=dtypes, seed=seeds)
def test_the_function_says_where_the_output_comes_from(case: Case, dtype: torch.dtype, seed: int) -> None:
    assume(case.shape[0] > 0 and not case.has_empty_windows)
    input = case.input(dtype)
    call = getattr(empool.functional, f"ensemble_max_pool{case.dims}d")
    output, indices = call(input, *case.arguments, return_indices=True, p=0.5, seed=seed)
    assert_same_bits(input.flatten(2).gather(2, indices.flatten(2)).reshape(output.shape), output, layout=False)


@given(case=cases(("normal", "ties")), dtype=dtypes, distribution=distributions)
def test_the_mean_lies_in_the_window(case: Case, dtype: torch.dtype, distribution: empool.RankDistribution) -> None:
    assume(distribution.zero_probability(1) == 0 and not case.has_empty_windows)
    input = case.input(dtype)
    mean = _mean(case, input, distribution).double()
    slack = 1e-5 if dtype in (torch.float32, torch.float64) else 0.02
    wide = input.double()
    assert (mean <= _max_pool(case, wide) + slack).all()
    assert (mean >= -_max_pool(case, -wide) - slack).all()


@given(case=cases(("normal",)), distribution=distributions, seed=seeds)
def test_scatter_and_gather_are_adjoint(case: Case, distribution: empool.RankDistribution, seed: int) -> None:
    """The scalar products <scatter(g), x> and <g, gather(x)> are equal."""
    input, grad = case.input(torch.float64), case.grad_output(torch.float64)
    window = case.geometry[:5]
    _, drawn = _draw(case, input, distribution, seed)
    one = (ops.drawn_scatter(grad, drawn, case.shape[2:], *window) * input).sum()
    other = (grad * ops.drawn_gather(input, drawn, *window)).sum()
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@given(case=cases(("normal", "ties")), distribution=distributions)
def test_backward_and_jvp_of_the_mean_are_adjoint(case: Case, distribution: empool.RankDistribution) -> None:
    input, grad = case.input(torch.float64), case.grad_output(torch.float64)
    tangent = case.tensor(case.shape, torch.float64, "normal", "tangent")
    mean = (input, weights(distribution, case.counts), case.counts, *case.geometry)
    one = (ops.rank_mean_backward(grad, *mean) * tangent).sum()
    other = (grad * ops.rank_mean_jvp(tangent, *mean)).sum()
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@given(case=cases(("normal", "ties", "special")), distribution=distributions, seed=seeds)
def test_draws_follow_any_increasing_map(case: Case, distribution: empool.RankDistribution, seed: int) -> None:
    """Ranks depend on the order alone."""
    input = case.input(torch.float64)
    _, drawn = _draw(case, input, distribution, seed)
    for increasing in (lambda x: 3 * x + 1, lambda x: x**3, torch.Tensor.float):
        mapped = increasing(input)
        assert_same_bits(_draw(case, mapped, distribution, seed)[1], drawn, layout=False)


@given(case=cases(("normal", "ties")), distribution=distributions, scale=st.sampled_from([0.5, 2.0, -0.0, 1024.0]))
def test_the_mean_is_homogeneous(case: Case, distribution: empool.RankDistribution, scale: float) -> None:
    assume(not case.has_empty_windows)
    input = case.input(torch.float32)
    scaled = _mean(case, input * scale, distribution)
    torch.testing.assert_close(scaled, _mean(case, input, distribution) * scale, **MEANS[torch.float32])


@given(case=cases(("normal", "ties")), dtype=dtypes)
def test_the_average_is_over_valid_activations(case: Case, dtype: torch.dtype) -> None:
    assume(not case.has_empty_windows)
    ones = torch.ones(1, 1, *case.shape[2:], dtype=torch.float64)
    count = _window.windows(ones, case.geometry, fill=0.0)[0].sum(-1)
    mean = _mean(case, case.input(dtype), empool.Average())
    expected = _window.windows(case.input(dtype).double(), case.geometry, fill=0.0)[0].sum(-1) / count
    torch.testing.assert_close(mean, expected.to(dtype), **MEANS[dtype])


@given(case=cases(("normal", "ties"), largest_dilation=1), dtype=dtypes)
def test_the_average_is_pytorchs(case: Case, dtype: torch.dtype) -> None:
    """`count_include_pad=False` counts valid activations, as every pooling here; PyTorch's has no dilation."""
    assume(case.shape[0] > 0 and not case.has_empty_windows)
    input = case.input(dtype)
    kernel_size, stride, padding, _, ceil_mode = case.arguments
    # PyTorch's in three dimensions refuses windows that are larger than the image, whatever the padding.
    assume(case.dims < 3 or all(k <= size for k, size in zip(kernel_size, case.shape[2:], strict=True)))
    average = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[case.dims - 1]
    expected = average(input.double(), kernel_size, stride, padding, ceil_mode, count_include_pad=False)
    torch.testing.assert_close(_mean(case, input, empool.Average()), expected.to(dtype), **MEANS[dtype])


@given(case=cases(), seed=seeds)
def test_images_and_channels_do_not_meet(case: Case, seed: int) -> None:
    """Dropping the last image and channel changes nothing for the others."""
    assume(case.shape[0] > 1 and case.shape[1] > 1)
    input, distribution = case.input(torch.float32), empool.MaxDropout(0.4)
    output, drawn = _draw(case, input, distribution, seed)
    fewer = _draw(case, input[:-1, :-1], distribution, seed)
    assert_same_bits(fewer, (output[:-1, :-1], drawn[:-1, :-1]), layout=False)
    mean = _mean(case, input, distribution)
    assert_same_bits(plain(_mean(case, input[:-1, :-1], distribution)), plain(mean[:-1, :-1]), layout=False)
