"""What is drawn: frequencies against each distribution, and what the draws may not depend on.

Every frequency is tested by chi-square at the level `tolerances.FALSE_ALARM`. There are about 150 such tests, so that a
right generator with random seeds would fail the file about once in 70 times; the seeds are fixed, so it passes or does
not.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import empool
from cases import CASES, DISTRIBUTIONS, DTYPES, METHODS, Case, function, layer, thresholds
from empool import reference
from tolerances import assert_frequencies, assert_same_bits

SAMPLES = (125, 160)  # Images and channels: 20,000 windows at every position.


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_rank_frequencies(name: str, n: int) -> None:
    """Windows of n activations in a row; the value is the rank, and 0 is nothing drawn."""
    distribution = DISTRIBUTIONS[name]
    ranks = torch.arange(n, 0, -1.0).roll(n // 2).expand(*SAMPLES, n)
    output = empool.functional.rank_pool1d(ranks, n, distribution=distribution, seed=n)
    observed = torch.bincount(output.flatten().long(), minlength=n + 1).flip(0)  # Largest first, zero last.
    probabilities = list(distribution.probabilities(n))
    probabilities += [0.0] * (n - len(probabilities))
    assert_frequencies(observed, [*probabilities, distribution.zero_probability(n)])


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_rank_frequencies_at_the_border(name: str) -> None:
    """3x3/1 padded on 4x4: windows of 4, 6 and 9 activations, each with its own distribution."""
    distribution = DISTRIBUTIONS[name]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3)).reshape(1, 1, 4, 4) + 1.0
    output = empool.functional.rank_pool2d(order.expand(*SAMPLES, 4, 4), 3, 1, 1, distribution=distribution, seed=9)
    for row, column in itertools.product(range(4), repeat=2):
        window = order[0, 0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].flatten()
        ranked = window.sort(descending=True).values.long()
        observed = torch.bincount(output[:, :, row, column].flatten().long(), minlength=17)
        n = len(ranked)
        assert n in (4, 6, 9)
        probabilities = list(distribution.probabilities(n))
        probabilities += [0.0] * (n - len(probabilities))
        counts = torch.cat([observed[ranked], observed[:1]])
        assert counts.sum() == observed.sum()
        assert_frequencies(counts, [*probabilities, distribution.zero_probability(n)])


def test_ties_are_ranked_by_position() -> None:
    """Among equal activations the first is the first rank."""
    input = torch.tensor([2.0, 5.0, 5.0, 5.0]).expand(*SAMPLES, 4)
    _, indices = empool.functional.rank_pool1d(
        input, 4, distribution=empool.Ordinal((0.5, 0.3, 0.15, 0.05)), seed=4, return_indices=True
    )
    assert_frequencies(torch.bincount(indices.flatten(), minlength=4)[[1, 2, 3, 0]], [0.5, 0.3, 0.15, 0.05])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "window", [[1.0, 2.0, 3.0, 4.0], [0.0, 3.0, -2.0, 1.0], [7.0], [-1.0, -3.0], [2.0, 2.0, 2.0], [1e-3, 1e3]], ids=str
)
def test_value_frequencies(window: list[float], dtype: torch.dtype) -> None:
    n = len(window)
    input = torch.tensor(window, dtype=dtype)
    images = 500 if window == [1e-3, 1e3] else SAMPLES[0]
    output, drawn = torch.ops.empool.value_draw(
        input.expand(images, SAMPLES[1], n), torch.tensor(11), None, [n], [n], [0], [1], [], False, 0
    )
    positive = input.double().clamp(min=0)
    total = positive.sum()
    observed = torch.bincount(drawn.flatten().long(), minlength=256)
    if total == 0:
        assert observed[255] == observed.sum()
        assert not output.any()
    elif window == [1e-3, 1e3]:  # A millionth: too rare to count, but it may occur.
        assert observed[0] <= 3
    else:
        assert_frequencies(observed[:n], (positive / total).tolist())


def test_value_frequencies_at_the_border() -> None:
    """Padding has no weight."""
    order = torch.tensor([[3.0, 1.0], [2.0, 4.0]])
    output = empool.functional.stochastic_pool2d(order.expand(*SAMPLES, 2, 2), 2, 1, 1, seed=2)
    for row, column in itertools.product(range(3), repeat=2):
        window = order[max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1].flatten()
        observed = torch.bincount(output[:, :, row, column].flatten().long(), minlength=5)
        assert observed[window.long()].sum() == observed.sum()
        assert_frequencies(observed[window.long()], (window / window.sum()).tolist())


@pytest.mark.parametrize("p", [2.0**-32, 1e-7, 1 - 1e-7])
def test_extreme_probabilities(p: float) -> None:
    """Among 2^20 draws an event of probability 1e-7 occurs more than five times once in 10^9."""
    ranks = torch.tensor([2.0, 1.0]).repeat(64, 64, 256)
    output = empool.functional.ensemble_max_pool1d(ranks, 2, p=p, seed=6)
    rare = 1.0 if p < 0.5 else 2.0
    assert (output == rare).sum() <= 5
    assert (output != 0).all()


@pytest.mark.parametrize(("p", "rank"), [(0.0, 2.0), (1.0, 1.0)])
def test_certain_probabilities(p: float, rank: float) -> None:
    ranks = torch.tensor([2.0, 1.0]).repeat(64, 64, 256)
    assert (empool.functional.ensemble_max_pool1d(ranks, 2, p=p, seed=6) == rank).all()


@pytest.mark.parametrize("stem", METHODS)
def test_outputs_of_one_window_are_independent(stem: str) -> None:
    """Neighbouring windows that see the same values: the pairs of draws are as likely as the product says."""
    values = torch.tensor([4.0, 3.0, 2.0, 1.0])
    output = function(stem, 1)(values.repeat(2).expand(*SAMPLES, 8), 4, seed=8, **METHODS[stem]).long()
    single = torch.bincount(output.flatten(), minlength=5).double() / output.numel()
    pairs = torch.bincount((output[..., 0] * 5 + output[..., 1]).flatten(), minlength=25)
    expected = (single[:, None] * single).flatten()
    common = expected * pairs.sum() >= 5
    counts = torch.cat([pairs[common], pairs[~common].sum(dim=0, keepdim=True)])
    shares = [*expected[common].tolist(), expected[~common].sum().item()]
    assert_frequencies(counts[:-1], [share / sum(shares[:-1]) for share in shares[:-1]])


@pytest.mark.parametrize("stem", METHODS)
def test_draws_do_not_depend_on_the_layout(stem: str) -> None:
    input = torch.randn(3, 7, 13, 18)
    layouts = {
        "channels last": input.to(memory_format=torch.channels_last),
        "permuted": input.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "strided": torch.zeros(3, 7, 26, 36)[:, :, ::2, ::2].copy_(input),
    }
    for window in ((2, 2), (3, 2, 1), (3, 1, 1)):
        expected = function(stem, 2)(input, *window, seed=99, return_indices=True, **METHODS[stem])
        for name, other in layouts.items():
            result = function(stem, 2)(other, *window, seed=99, return_indices=True, **METHODS[stem])
            for r, e in zip(result, expected, strict=True):
                assert_same_bits(r, e, name, layout=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_half_precision_draws_as_float32_does(name: str, dtype: torch.dtype) -> None:
    """Selection only compares, so a half-precision input draws what the same numbers in float32 draw."""
    for case in CASES:
        if case.name in ("2x2/2 large", "3x3/2 padded large", "ceil 3x3/2 padded", "3x3/2 padded, ties, contiguous"):
            half = case.input(dtype)
            table = thresholds(DISTRIBUTIONS[name], case.counts)
            results = [
                torch.ops.empool.rank_draw(input, torch.tensor(5), table, case.counts, *case.geometry, 0)
                for input in (half, half.float(), half.double())
            ]
            for output, drawn in results[1:]:
                assert_same_bits(results[0], (output.to(dtype), drawn), case.name)


def test_an_unbatched_input_draws_as_a_batch_of_one() -> None:
    for dims in (1, 2, 3):
        input = torch.randn(1, 5, *[9] * dims)
        for stem in METHODS:
            call = function(stem, dims)
            together = call(input, 3, 2, 1, seed=4, return_indices=True, **METHODS[stem])
            alone = call(input[0], 3, 2, 1, seed=4, return_indices=True, **METHODS[stem])
            assert_same_bits(tuple(part.unsqueeze(0) for part in alone), together, stem)


def test_images_and_channels_draw_apart() -> None:
    """The same values everywhere, different draws in each image, channel and row."""
    input = torch.arange(64.0).reshape(8, 8).expand(3, 3, 8, 8)
    output = empool.functional.ensemble_max_pool2d(input, 2, p=0.5, seed=0)
    planes = output.reshape(9, 16)
    assert len({tuple(plane.tolist()) for plane in planes}) == 9


@pytest.mark.parametrize("stem", METHODS)
def test_seeds(stem: str) -> None:
    input = torch.randn(2, 3, 16, 16).abs()

    def call(seed: int | Tensor | None) -> Tensor:
        output: Tensor = function(stem, 2)(input, 2, seed=seed, **METHODS[stem])
        return output

    for seed in (0, 7, -1, -(2**63), 2**63 - 1):
        assert_same_bits(call(seed), call(torch.tensor(seed)))
        assert_same_bits(call(seed), call(torch.tensor([[seed]])))
        assert_same_bits(call(seed), call(seed))
    assert_same_bits(call(2**63), call(-(2**63)))
    assert_same_bits(call(2**64 - 1), call(-1))
    outputs = [call(seed) for seed in (0, 1, 2**32, -1, 2**63)]
    for one, other in itertools.combinations(outputs, 2):
        assert not torch.equal(one, other)


@pytest.mark.parametrize("stem", METHODS)
def test_the_default_generator(stem: str) -> None:
    input = torch.randn(2, 3, 16, 16).abs()
    module = layer(stem, 2)(2, **METHODS[stem])
    torch.manual_seed(42)
    first, second = module(input), module(input)
    assert not torch.equal(first, second)
    torch.manual_seed(42)
    assert_same_bits((module(input), module(input)), (first, second))
    state = torch.get_rng_state()
    third = module(input)
    torch.set_rng_state(state)
    assert_same_bits(module(input), third)


def test_the_generator_is_left_alone_where_nothing_is_drawn() -> None:
    input = torch.randn(2, 3, 16, 16)
    state = torch.get_rng_state()
    for p in (0.0, 0):
        empool.functional.ensemble_max_pool2d(input, 2, p=p)
        empool.functional.max_pool_dropout2d(input, 2, p=p)
    empool.functional.stochastic_max_pool2d(input, 2, drop=0.0)
    empool.functional.rank_pool2d(input, 2, distribution=empool.Max())
    empool.functional.rank_pool2d(input, 2, distribution=empool.Ordinal((1.0, 0.0)))
    empool.functional.ensemble_max_pool2d(input, 1, p=0.5)  # One activation: there is no runner-up.
    for stem, arguments in METHODS.items():
        function(stem, 2)(input, 2, training=False, **arguments)
        function(stem, 2)(input, 2, seed=3, **arguments)
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    empool.functional.ensemble_max_pool2d(input, 2, p=0.5)
    assert not torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if "always" not in name])
def test_the_testing_output_is_the_mean_of_the_training_outputs(name: str) -> None:
    """20,000 draws of windows whose values lie in [0, 1]: the standard error is at most 0.0036; five of them."""
    window = torch.rand(1, 1, 3, 4, dtype=torch.float64).expand(*SAMPLES, 3, 4)
    geometry = (2, 1, 1)
    drawn = empool.functional.rank_pool2d(window, *geometry, distribution=DISTRIBUTIONS[name], seed=1)
    mean = empool.functional.rank_pool2d(window, *geometry, distribution=DISTRIBUTIONS[name], training=False)
    torch.testing.assert_close(drawn.mean((0, 1)), mean[0, 0], rtol=0, atol=5 * 0.5 / math.sqrt(20_000))


def test_the_testing_output_of_stochastic_pooling_is_the_mean_of_the_training_outputs() -> None:
    window = torch.randn(1, 1, 3, 4, dtype=torch.float64).clamp(max=1).expand(*SAMPLES, 3, 4)
    drawn = empool.functional.stochastic_pool2d(window, 2, 1, 1, seed=1)
    mean = empool.functional.stochastic_pool2d(window, 2, 1, 1, training=False)
    torch.testing.assert_close(drawn.mean((0, 1)), mean[0, 0], rtol=0, atol=5 * 0.5 / math.sqrt(20_000))


def test_a_seed_of_its_own_for_each_share_of_the_images() -> None:
    case = Case("shares", (6, 2, 5, 7), 2, 1)
    seeds = torch.tensor([3, 4, 5])
    together = torch.ops.empool.rank_draw(
        case.input(torch.float32), seeds, torch.tensor([[[2**31]]]), [4], *case.geometry, 0
    )
    for share, seed in enumerate(seeds):
        part = case.input(torch.float32)[2 * share : 2 * share + 2]
        expected = reference.rank_draw(part, seed, torch.tensor([[[2**31]]]), [4], *case.geometry, 0)
        assert_same_bits(tuple(each[2 * share : 2 * share + 2] for each in together), expected)
