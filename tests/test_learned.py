"""Learned weights of ranks: derivatives in the weights to every order, and layers that learn known weights back."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import empool
from cases import Case, tie_free
from empool import functional
from tolerances import assert_same_bits

# Raised by PyTorch's own forward mode, the first time that it is used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

ops = torch.ops.empool
TINY = (
    Case("1d padded", (2, 2, 5), 3, 2, 1),
    Case("2x2/2", (2, 2, 4, 2), 2, 2),
    Case("3x3/2 padded, channels last", (1, 2, 4, 3), 3, 2, 1, layout="channels last"),
    Case("adaptive", (1, 2, 5, 2), 0, 0, output_size=(2, 3)),
)


@pytest.mark.parametrize("case", TINY, ids=str)
def test_every_form_of_the_mean_is_differentiable_in_everything(case: Case) -> None:
    counts, volume, sets = case.counts, case.geometry.volume, 1 if case == TINY[1] else case.shape[1]
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(sets, len(counts), min(3, volume), dtype=torch.float64, generator=generator)
    input, tangent = tie_free(case.shape), tie_free(case.shape, seed=1)
    grad = tie_free(case.output_shape, seed=2)
    forms: dict[str, tuple[Tensor, ...]] = {
        "rank_mean": (input, weights),
        "rank_mean_backward": (grad, input, weights),
        "rank_mean_jvp": (tangent, input, weights),
        "rank_mean_weight_grad": (grad, input, weights),
        "rank_mean_weight_grad_jvp": (grad, tangent, input, weights),
    }
    for name, tensors in forms.items():
        operator = getattr(ops, name)

        def call(*given: Tensor, operator: Any = operator) -> Tensor:
            result: Tensor = operator(*given, counts, *case.geometry)
            return result

        tensors = tuple(tensor.clone().requires_grad_() for tensor in tensors)
        assert gradcheck(call, tensors, check_forward_ad=True, check_undefined_grad=False), name
        assert gradgradcheck(call, tensors, check_fwd_over_rev=True, check_undefined_grad=False), name


@pytest.mark.parametrize("beta", [[0.7], [-1.0, 2.0]], ids=str)
def test_beta_has_derivatives(beta: list[float]) -> None:
    case = TINY[1]
    tensors = tie_free(case.shape).requires_grad_(), torch.tensor(beta, dtype=torch.float64, requires_grad=True)

    def call(input: Tensor, beta: Tensor) -> Tensor:
        return functional.soft_pool2d(input / 3, 2, beta=beta, training=False)

    assert gradcheck(call, tensors, check_forward_ad=True)
    assert gradgradcheck(call, tensors)


def test_soft_pooling_is_the_published_definition() -> None:
    """SoftPool (Stergiou 2021): the activations weighted by their softmax, in float64; at any size without overflow."""
    input = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    windows = F.unfold(input, 2, stride=2).reshape(2, 3, 4, 16)
    for beta in (1.0, -2.5, 0.0, 30.0):
        expected = (windows * (beta * windows).softmax(2)).sum(2).reshape(2, 3, 4, 4)
        torch.testing.assert_close(functional.soft_pool2d(input, 2, beta=beta, training=False), expected)
        for scale in (1e4, -1e4):
            pooled = functional.soft_pool2d(input.float() * scale, 2, beta=beta, training=False)
            assert pooled.isfinite().all()
    torch.testing.assert_close(functional.soft_pool2d(input, 2, beta=0.0, training=False), F.avg_pool2d(input, 2))
    torch.testing.assert_close(functional.soft_pool2d(input, 2, beta=1e6, training=False), F.max_pool2d(input, 2))


def _train(layer: nn.Module, target: Any, steps: int = 150, shape: tuple[int, ...] = (16, 2, 8, 8)) -> None:
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    for step in range(steps):
        input = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        (layer(input) - target(input)).square().mean().backward()
        optimiser.step()


def test_known_weights_are_learned_back() -> None:
    known = empool.Ordinal((0.5, 0.3, 0.15, 0.05))
    layer = empool.LearnedRankPool2d(2)
    _train(layer, lambda input: functional.rank_pool2d(input, 2, distribution=known, training=False))
    torch.testing.assert_close(layer.weights[0], torch.tensor(known.weights), rtol=0, atol=0.01)


def test_each_channel_learns_its_own() -> None:
    each = (empool.Max(), empool.Average())
    layer = empool.LearnedRankPool2d(3, 2, 1, ranks=9, channels=2, start=empool.Average())
    assert layer.weights.shape == (2, 9)

    def target(input: Tensor) -> Tensor:
        pooled = [functional.rank_pool2d(input, 3, 2, 1, distribution=d, training=False) for d in each]
        return torch.stack([pooled[0][:, 0], pooled[1][:, 1]], 1)

    _train(layer, target)
    assert layer.weights[0, 0] > 0.95
    torch.testing.assert_close(layer.weights[1], torch.full((9,), 1 / 9), rtol=0, atol=0.03)


def test_beta_is_learned_back() -> None:
    layer = empool.SoftPool2d(2, beta=0.1, trainable=True).eval()
    assert [name for name, _ in layer.named_parameters()] == ["beta"]
    _train(layer, lambda input: functional.soft_pool2d(input, 2, beta=2.0, training=False))
    torch.testing.assert_close(layer.beta.detach(), torch.tensor([2.0]), rtol=0, atol=0.02)


def test_it_starts_as_max_pooling_or_as_any_distribution() -> None:
    input = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(
        empool.LearnedRankPool2d(3, 2, 1)(input), F.max_pool2d(input, 3, 2, 1), rtol=0, atol=5e-3
    )
    for start in (empool.Average(), empool.EnsembleMax(0.3), empool.Geometric(0.4)):
        layer = empool.LearnedRankPool2d(2, start=start)
        expected = functional.rank_pool2d(input, 2, distribution=start, training=False)
        torch.testing.assert_close(layer(input), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_samples_have_the_expectations_gradient(dims: int) -> None:
    input = torch.randn(64, 3, *[4] * dims)
    kind = getattr(empool, f"LearnedRankPool{dims}d")
    layer = kind(2, channels=3, start=empool.Average(), sample=True, seed=3)
    expected = copy.deepcopy(layer).eval()
    drawn = layer(input)
    assert set(drawn.detach().flatten().tolist()) <= set(input.flatten().tolist())  # An activation, to the bit.
    assert (drawn - expected(input)).mean().detach().abs() < 0.1
    drawn.sum().backward()
    expected(input).sum().backward()
    torch.testing.assert_close(layer.logits.grad, expected.logits.grad)


def test_training_without_samples_is_the_expectation() -> None:
    layer, input = empool.LearnedRankPool2d(2, start=empool.Average()), torch.randn(1, 2, 4, 4)
    assert_same_bits(layer(input), copy.deepcopy(layer).eval()(input))
    half = layer.to(torch.bfloat16)
    assert half(input.bfloat16()).dtype == torch.bfloat16
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(input.bfloat16()), layer(input.bfloat16()))


def test_a_window_with_fewer_activations_renormalises() -> None:
    layer = empool.LearnedRankPool1d(3, 1, 1)
    with torch.no_grad():
        layer.logits.copy_(torch.tensor([[0.5, 0.3, 0.2]]).log())
    pooled = layer(torch.tensor([[[8.0, 0.0, 0.0]]]))
    torch.testing.assert_close(pooled, torch.tensor([[[8 * 0.5 / 0.8, 8 * 0.5, 0.0]]]))


def test_wrong_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="LearnedRankPool2d: expected ranks to be an int of at least 1, got 0"):
        empool.LearnedRankPool2d(2, ranks=0)


@pytest.mark.parametrize(
    ("distribution", "n", "expected"),
    [
        (empool.TopMean(2), 4, (0.5, 0.5)),
        (empool.TopMean(3), 2, (0.5, 0.5)),
        (empool.TopMean(1), 4, (1.0,)),
        (empool.Geometric(0.5), 2, (2 / 3, 1 / 3)),
        (empool.Geometric(1.0), 3, (1.0, 0.0, 0.0)),
        (empool.Geometric(0.25), 1, (1.0,)),
        (empool.Mixed(1.0), 2, (1.0, 0.0)),
        (empool.Mixed(0.0), 4, (0.25,) * 4),
        (empool.Mixed(0.5), 4, (0.625, 0.125, 0.125, 0.125)),
    ],
)
def test_the_family(distribution: empool.RankDistribution, n: int, expected: tuple[float, ...]) -> None:
    assert distribution.probabilities(n) == pytest.approx(expected)
    assert empool.pooling(str(distribution)) == distribution
    image = torch.randn(3, 2, n)
    ranked = image.sort(-1, descending=True).values[..., : len(expected)]
    pooled = functional.rank_pool1d(image, n, distribution=distribution, training=False)
    torch.testing.assert_close(pooled[..., 0], (ranked * torch.tensor(expected)).sum(-1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: empool.TopMean(0), "TopMean: expected t to be a whole number of at least 1, got 0"),
        (lambda: empool.TopMean(1.5), "TopMean: expected t to be a whole number of at least 1, got 1.5"),
        (lambda: empool.Geometric(0), r"Geometric: expected a in \(0, 1\], got 0"),
        (lambda: empool.Mixed(1.1), r"Mixed: expected a in \[0, 1\], got 1.1"),
        (lambda: empool.Soft(math.inf), "Soft: expected beta to be finite, got inf"),
        (lambda: functional.soft_pool2d(torch.zeros(1, 1, 2, 2), 2, beta=math.nan), "soft_pool2d: expected beta to be"),
        (lambda: empool.SoftPool2d(2, beta=math.inf), "SoftPool2d: expected beta to be finite, got inf"),
    ],
)
def test_the_familys_numbers_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
