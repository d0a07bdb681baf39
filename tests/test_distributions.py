"""Rank distributions: probabilities, thresholds and weights worked out by hand, and how poolings are spelled."""

from __future__ import annotations

import dataclasses
import math
import pickle
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch.fx.experimental.proxy_tensor import make_fx

import empool
from cases import DISTRIBUTIONS
from empool.reference import NEVER

HALF = 2**31
TOP = 2**32 - 1


@pytest.mark.parametrize(
    ("pooling", "n", "probabilities", "zero"),
    [
        (empool.Max(), 4, (1.0,), 0),
        (empool.Average(), 4, (0.25, 0.25, 0.25, 0.25), 0),
        (empool.Average(), 1, (1.0,), 0),
        (empool.EnsembleMax(0.25), 4, (0.75, 0.25), 0),
        (empool.EnsembleMax(0.25), 2, (0.75, 0.25), 0),
        (empool.EnsembleMax(0.25), 1, (1.0,), 0),
        (empool.EnsembleMax(1), 3, (0.0, 1.0), 0),
        (empool.MaxDropout(0.5), 3, (0.5, 0.25, 0.125), 0.125),
        (empool.MaxDropout(0.5), 1, (0.5,), 0.5),
        (empool.MaxDropout(0), 2, (1.0, 0.0), 0),
        (empool.MaxDropout(1), 2, (0.0, 0.0), 1),
        (empool.StochasticMax(0.5), 4, (1 / 2, 1 / 3, 1 / 6), 0),
        (empool.StochasticMax(0.5), 3, (2 / 3, 1 / 3), 0),
        (empool.StochasticMax(0.5), 2, (0.5, 0.5), 0),
        (empool.StochasticMax(0.5), 1, (1.0,), 0),
        (empool.StochasticMax(0), 4, (1.0,), 0),
        (empool.StochasticMax(0.9), 4, (0.25, 0.25, 0.25, 0.25), 0),
        (empool.Ordinal((0.5, 0.25, 0.25)), 4, (0.5, 0.25, 0.25), 0),
        (empool.Ordinal((0.5, 0.25, 0.25)), 2, (2 / 3, 1 / 3), 0),
        (empool.Ordinal((0.0, 0.0, 1.0)), 2, (0.0, 1.0), 0),
    ],
)
def test_probabilities(pooling: empool.RankDistribution, n: int, probabilities: tuple[float, ...], zero: float) -> None:
    assert pooling.probabilities(n) == pytest.approx(probabilities, abs=1e-15)
    assert pooling.zero_probability(n) == zero


@pytest.mark.parametrize(
    ("pooling", "counts", "thresholds", "weights"),
    [
        (empool.Max(), (1, 2), ((), ()), ((1.0,), (1.0,))),
        (empool.EnsembleMax(0), (4,), ((NEVER,),), ((1.0, 0.0),)),
        (empool.EnsembleMax(0.5), (4,), ((HALF,),), ((0.5, 0.5),)),
        (empool.EnsembleMax(1), (4,), ((0,),), ((0.0, 1.0),)),
        (empool.EnsembleMax(0.5), (1, 4), ((NEVER,), (HALF,)), ((1.0, 0.0), (0.5, 0.5))),
        (empool.EnsembleMax(0.5), (1,), ((),), ((1.0,),)),
        (empool.EnsembleMax(2.0**-40), (2,), ((TOP,),), ((1 - 2.0**-40, 2.0**-40),)),
        (empool.Average(), (4,), ((2**30, 2**31, 3 * 2**30),), ((0.25, 0.25, 0.25, 0.25),)),
        (empool.Average(), (3,), ((1431655765, 2863311531),), ((1 / 3, 1 / 3, 1 / 3),)),
        (empool.MaxDropout(0.5), (1, 2), ((HALF, NEVER), (HALF, 3 * 2**30)), ((0.5, 0.0), (0.5, 0.25))),
        (empool.MaxDropout(1), (2,), ((0, 0),), ((0.0, 0.0),)),
        (empool.MaxDropout(0), (1, 2), ((NEVER, NEVER), (NEVER, NEVER)), ((1.0, 0.0), (1.0, 0.0))),
        (empool.MaxDropout(1e-20), (2,), ((TOP, TOP),), ((1.0, 1e-20),)),
        (empool.StochasticMax(0.5), (2,), ((HALF,),), ((0.5, 0.5),)),
        (empool.StochasticMax(0.4), (2,), ((NEVER,),), ((1.0, 0.0),)),
        (empool.Ordinal((0.5, 0.5, 0.0)), (4,), ((HALF, NEVER),), ((0.5, 0.5, 0.0),)),
        (empool.Ordinal((0.0, 1.0)), (1, 2), ((NEVER,), (0,)), ((1.0, 0.0), (0.0, 1.0))),
        (empool.Ordinal((1.0,)), (1, 2), ((), ()), ((1.0,), (1.0,))),
    ],
)
def test_tables(
    pooling: empool.RankDistribution,
    counts: tuple[int, ...],
    thresholds: tuple[tuple[int, ...], ...],
    weights: tuple[tuple[float, ...], ...],
) -> None:
    assert pooling.threshold_table(counts) == thresholds
    assert pooling.weight_table(counts) == weights


@pytest.mark.parametrize("n", [*range(1, 30), 64, 300])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_invariants(name: str, n: int) -> None:
    pooling = DISTRIBUTIONS[name]
    probabilities, zero = pooling.probabilities(n), pooling.zero_probability(n)
    assert len(probabilities) <= n
    assert all(0 <= p <= 1 for p in (*probabilities, zero))
    assert math.fsum((*probabilities, zero)) == pytest.approx(1, abs=1e-12)
    (thresholds,) = pooling.threshold_table((n,))
    assert list(thresholds) == sorted(thresholds)
    assert all(0 <= t <= NEVER for t in thresholds)
    # Rank n, one beyond the last, is the zero; without one it cannot be reached.
    assert len(thresholds) <= (n if zero else n - 1)
    (weights,) = pooling.weight_table((n,))
    assert weights[: len(probabilities)] == tuple(probabilities)
    assert not any(weights[len(probabilities) :])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("counts", [(1,), (4,), (1, 2, 3, 4, 6, 9)], ids=str)
@pytest.mark.parametrize("kind", [empool.EnsembleMax, empool.MaxDropout, empool.StochasticMax])
def test_tables_of_numbers_in_memory_are_those_of_numbers(kind: Any, counts: tuple[int, ...], training: bool) -> None:
    """Same shape whatever the number is, same entries but for the last bit of float64."""
    numbers = [0.0, 0.1, 0.25, 0.4, 0.5, 0.75, 0.9, *([1.0] if kind is not empool.StochasticMax else [])]
    each = [kind(number) for number in numbers]
    tables = [d.threshold_table(counts) if training else d.weight_table(counts) for d in each]
    make = kind.threshold_tensor if training else kind.weight_tensor
    graph = make_fx(lambda number: make(number, counts))(torch.tensor(numbers, dtype=torch.float64))
    made = graph(torch.tensor(numbers, dtype=torch.float64))
    torch.testing.assert_close(made, torch.tensor(tables, dtype=made.dtype).reshape(made.shape), rtol=0, atol=1e-15)
    assert len(graph.graph.nodes) < 45, "what torch.compile has to compile: all counts at once"


@given(drop=st.integers(0, 99), n=st.integers(1, 30))
def test_stochastic_max_pooling_is_dropping_without_replacement(drop: int, n: int) -> None:
    """P(rank r): of the n - 1 others, the r - 1 larger ones are all dropped."""
    share = drop / 100
    dropped = math.floor(share * n)
    expected = []
    for rank in range(1, dropped + 2):
        probability = Fraction(n - dropped, n - rank + 1)
        for larger in range(rank - 1):
            probability *= Fraction(dropped - larger, n - larger)
        expected.append(float(probability))
    assert empool.StochasticMax(share).probabilities(n) == pytest.approx(expected, rel=1e-12)


SPELLED = {
    "max": empool.Max(),
    "average": empool.Average(),
    "ensemble:0.1": empool.EnsembleMax(0.1),
    "ensemble:1": empool.EnsembleMax(1.0),
    "ensemble:1e-05": empool.EnsembleMax(1e-5),
    "max-dropout:0.2": empool.MaxDropout(0.2),
    "stochastic-max:0.5": empool.StochasticMax(0.5),
    "stochastic": empool.Stochastic(),
    "ordinal:0.7,0.2,0.1": empool.Ordinal((0.7, 0.2, 0.1)),
    "ordinal:1": empool.Ordinal((1.0,)),
}


@pytest.mark.parametrize("text", SPELLED)
def test_spelling(text: str) -> None:
    assert str(SPELLED[text]) == text
    assert empool.pooling(text) == SPELLED[text]
    assert hash(empool.pooling(text)) == hash(SPELLED[text])
    assert pickle.loads(pickle.dumps(SPELLED[text])) == SPELLED[text]
    assert empool.pooling(f"  {text} ") == SPELLED[text]


@given(p=st.floats(0, 1))
def test_spelling_keeps_every_digit(p: float) -> None:
    for pooling in (empool.EnsembleMax(p), empool.MaxDropout(p)):
        assert empool.pooling(str(pooling)) == pooling


@pytest.mark.parametrize("pooling", SPELLED.values(), ids=str)
def test_poolings_are_frozen(pooling: empool.Pooling) -> None:
    for name in [field.name for field in dataclasses.fields(pooling)] or ["p"]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(pooling, name, 0.5)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("text", SPELLED)
def test_layer(text: str, dims: int) -> None:
    layer = empool.layer(SPELLED[text], dims, 3, 2, 1)
    names = {
        "max": "MaxPool",
        "average": "AvgPool",
        "ensemble": "EnsembleMaxPool",
        "max-dropout": "MaxPoolDropout",
        "stochastic-max": "StochasticMaxPool",
        "stochastic": "StochasticPool",
        "ordinal": "RankPool",
    }
    assert type(layer).__name__ == f"{names[text.partition(':')[0]]}{dims}d"
    assert layer.kernel_size in (3, (3,))
    assert layer.stride in (2, (2,))
    assert layer.padding in (1, (1,))


def test_a_distribution_of_ones_own() -> None:
    class Second(empool.RankDistribution):
        def probabilities(self, n: int) -> tuple[float, ...]:
            return (1.0,) if n == 1 else (0.0, 1.0)

    image = torch.tensor([[[1.0, 5.0, 3.0, 2.0]]])
    for training in (True, False):
        output = empool.functional.rank_pool1d(image, 2, distribution=Second(), training=training)
        torch.testing.assert_close(output, torch.tensor([[[1.0, 2.0]]]), rtol=0, atol=0)
    assert str(Second()).startswith("<")


def test_the_rest_of_a_distribution_with_a_zero_is_the_zeros() -> None:
    """Its ranks beyond those it names have no probability: what is not the largest is 0, not the second."""

    class HalfOrNothing(empool.RankDistribution):
        def probabilities(self, n: int) -> tuple[float, ...]:
            return (0.5,)

        def zero_probability(self, n: int) -> float:
            return 0.5

    assert HalfOrNothing().threshold_table((1, 4)) == ((HALF, NEVER, NEVER, NEVER), (HALF,) * 4)
    image = torch.tensor([[[7.0, 5.0, 3.0, 2.0]]]).repeat(1, 1, 500)
    output = empool.functional.rank_pool1d(image, 4, distribution=HalfOrNothing(), seed=1)
    assert {*output.flatten().tolist()} == {0.0, 7.0}
    # 500 tosses of a fair coin leave these bounds once in 10^14.
    assert 165 < int((output == 0).sum()) < 335


@pytest.mark.parametrize("decorate", [lambda kind: kind, dataclasses.dataclass(eq=False), dataclasses.dataclass])
def test_a_distribution_that_changes_pools_by_what_it_is_now(decorate) -> None:
    class Changing(empool.RankDistribution):
        q: float = 0.0

        def probabilities(self, n: int) -> tuple[float, ...]:
            return (1.0,) if n == 1 else (1 - self.q, self.q)

    distribution, image = decorate(Changing)(), torch.tensor([[[1.0, 5.0]]])
    for q, mean in ((0.0, 5.0), (1.0, 1.0), (0.5, 3.0)):
        distribution.q = q
        output = empool.functional.rank_pool1d(image, 2, distribution=distribution, training=False)
        torch.testing.assert_close(output, torch.tensor([[[mean]]]), rtol=0, atol=0)


def test_distributions_that_are_alike_in_what_they_inherit_are_told_apart() -> None:
    class Warm(empool.EnsembleMax):
        def __init__(self, p: float, factor: float) -> None:
            super().__init__(p)
            object.__setattr__(self, "factor", factor)

        def probabilities(self, n: int) -> tuple[float, ...]:
            return (1.0,) if n == 1 else (1 - self.p * self.factor, self.p * self.factor)

    image = torch.tensor([[[1.0, 5.0]]])
    for factor, mean in ((0.0, 5.0), (1.0, 3.0)):
        assert Warm(0.5, factor) == Warm(0.5, 0.0)
        output = empool.functional.rank_pool1d(image, 2, distribution=Warm(0.5, factor), training=False)
        torch.testing.assert_close(output, torch.tensor([[[mean]]]), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [empool.Max, empool.Average])
def test_a_distribution_that_extends_max_or_average_is_not_taken_for_it(kind: type[empool.RankDistribution]) -> None:
    class Least(kind):  # type: ignore[misc, valid-type]
        def probabilities(self, n: int) -> tuple[float, ...]:
            return (0.0,) * (n - 1) + (1.0,)

    pool = empool.layer(Least(), 1, 2)
    for training in (True, False):
        output = pool.train(training)(torch.tensor([[[1.0, 5.0]]]))
        torch.testing.assert_close(output, torch.tensor([[[1.0]]]), rtol=0, atol=0)


def test_a_name_makes_no_spelling_for_a_distribution_that_is_no_dataclass() -> None:
    class Named(empool.RankDistribution):
        name = "named"

        def probabilities(self, n: int) -> tuple[float, ...]:
            return (1.0,)

    assert "Named" in repr(empool.RankPool2d(2, distribution=Named()))


def test_weights_may_miss_1_by_rounding_and_no_more() -> None:
    assert empool.Ordinal((0.7, 0.3 + 1e-7)).weights == (0.7, 0.3 + 1e-7)
    assert empool.Ordinal((0.7, 0.3 + 1e-7)).probabilities(1000) == (0.7, 0.3 + 1e-7)
    with pytest.raises(ValueError, match="expected weights that sum to 1"):
        empool.Ordinal((0.7, 0.3 + 1e-5))


@pytest.mark.parametrize("p", [Fraction(1, 2), np.float32(0.5), np.float64(0.5)], ids=repr)
def test_any_real_number_becomes_a_float(p) -> None:
    pooling = empool.EnsembleMax(p)
    assert type(pooling.p) is float
    assert str(pooling) == "ensemble:0.5"


@pytest.mark.parametrize("weights", [[0.75, 0.25], np.array([0.75, 0.25]), torch.tensor([0.75, 0.25])], ids=repr)
def test_weights_may_be_an_array_or_a_tensor(weights) -> None:
    assert empool.Ordinal(weights) == empool.Ordinal((0.75, 0.25))
