"""Every message of the core, to the letter. What PyTorch's max-pooling refuses is in test_compat.py."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import empool
from empool import functional

INPUT = torch.zeros(1, 2, 4, 4)
INTEGERS = INPUT.long()
NO_FLOATS = "expected a floating-point input (float32, float64, float16 or bfloat16)"
SPELLINGS = (
    "max, average, ensemble:P, max-dropout:P, stochastic-max:DROP, stochastic, soft:BETA, top-mean:T, geometric:A, "
    "mixed:A, ordinal:W1,W2,..."
)


class _Strange(empool.Pooling):
    """A pooling that is no rank distribution."""


class _Given(empool.RankDistribution):
    """A distribution that does not look at the window."""

    def __init__(self, given: tuple[float, ...]) -> None:
        self.given = given

    def probabilities(self, n: int) -> tuple[float, ...]:
        return self.given


def _pool(stem: str, **arguments: Any) -> Callable[[], Any]:
    return functools.partial(getattr(functional, stem), INPUT, 2, **arguments)


MESSAGES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: empool.EnsembleMaxPool2d(2, 0.4),
        TypeError,
        "EnsembleMaxPool2d: expected stride to be an int, got 0.4; the method's own arguments, such as p, go by name",
    ),
    # Tensors that can be read without waiting.
    *(
        (_pool(stem, **{name: torch.tensor([0.5, bad])}), ValueError, f"{stem}: expected {name} {rest}")
        for stem, name, bad, rest in (
            ("ensemble_max_pool2d", "p", 1.5, "in [0, 1], got 1.5"),
            ("ensemble_max_pool2d", "p", -0.25, "in [0, 1], got -0.25"),
            ("max_pool_dropout2d", "p", math.nan, "in [0, 1], got nan"),
            ("stochastic_max_pool2d", "drop", 1.0, "in [0, 1), got 1.0: an activation must be left"),
            ("soft_pool2d", "beta", math.inf, "to be finite, got inf"),
        )
    ),
    # Probabilities.
    *(
        (make(1.5), ValueError, f"{owner}: expected p in [0, 1], got 1.5")
        for owner, make in {
            "ensemble_max_pool1d": lambda p: functools.partial(functional.ensemble_max_pool1d, INPUT[0], 2, p=p),
            "ensemble_max_pool2d": lambda p: _pool("ensemble_max_pool2d", p=p),
            "ensemble_max_pool3d": lambda p: _pool("ensemble_max_pool3d", p=p),
            "max_pool_dropout1d": lambda p: functools.partial(functional.max_pool_dropout1d, INPUT[0], 2, p=p),
            "max_pool_dropout2d": lambda p: _pool("max_pool_dropout2d", p=p),
            "max_pool_dropout3d": lambda p: _pool("max_pool_dropout3d", p=p),
            "EnsembleMaxPool1d": lambda p: functools.partial(empool.EnsembleMaxPool1d, 2, p=p),
            "EnsembleMaxPool2d": lambda p: functools.partial(empool.EnsembleMaxPool2d, 2, p=p),
            "EnsembleMaxPool3d": lambda p: functools.partial(empool.EnsembleMaxPool3d, 2, p=p),
            "MaxPoolDropout1d": lambda p: functools.partial(empool.MaxPoolDropout1d, 2, p=p),
            "MaxPoolDropout2d": lambda p: functools.partial(empool.MaxPoolDropout2d, 2, p=p),
            "MaxPoolDropout3d": lambda p: functools.partial(empool.MaxPoolDropout3d, 2, p=p),
            "EnsembleMax": lambda p: functools.partial(empool.EnsembleMax, p),
            "MaxDropout": lambda p: functools.partial(empool.MaxDropout, p),
        }.items()
    ),
    (_pool("ensemble_max_pool2d", p=-0.1), ValueError, "ensemble_max_pool2d: expected p in [0, 1], got -0.1"),
    (_pool("ensemble_max_pool2d", p=float("nan")), ValueError, "ensemble_max_pool2d: expected p in [0, 1], got nan"),
    (
        _pool("ensemble_max_pool2d", p="0.1"),
        TypeError,
        "ensemble_max_pool2d: expected p to be a number in [0, 1], got str",
    ),
    (
        _pool("ensemble_max_pool2d", p=True),
        TypeError,
        "ensemble_max_pool2d: expected p to be a number in [0, 1], got bool",
    ),
    (
        _pool("ensemble_max_pool2d", p=None),
        TypeError,
        "ensemble_max_pool2d: expected p to be a number in [0, 1], got NoneType",
    ),
    # Shares.
    (
        _pool("stochastic_max_pool2d", drop=1),
        ValueError,
        "stochastic_max_pool2d: expected drop in [0, 1), got 1: an activation must be left",
    ),
    (
        _pool("stochastic_max_pool3d", drop=-1),
        ValueError,
        "stochastic_max_pool3d: expected drop in [0, 1), got -1: an activation must be left",
    ),
    (
        functools.partial(empool.StochasticMaxPool2d, 2, drop=1.0),
        ValueError,
        "StochasticMaxPool2d: expected drop in [0, 1), got 1.0: an activation must be left",
    ),
    (
        functools.partial(empool.StochasticMax, 1.0),
        ValueError,
        "StochasticMax: expected drop in [0, 1), got 1.0: an activation must be left",
    ),
    (
        functools.partial(empool.StochasticMax, 2),
        ValueError,
        "StochasticMax: expected drop in [0, 1), got 2: an activation must be left",
    ),
    # Weights.
    (
        functools.partial(empool.Ordinal, (0.5, 0.2)),
        ValueError,
        "Ordinal: expected weights that sum to 1, got (0.5, 0.2); divide them by their sum",
    ),
    (
        functools.partial(empool.Ordinal, ()),
        ValueError,
        "Ordinal: expected weights that sum to 1, got (); divide them by their sum",
    ),
    (functools.partial(empool.Ordinal, (1.5, -0.5)), ValueError, "Ordinal: expected weights in [0, 1], got 1.5"),
    (
        functools.partial(empool.Ordinal, ("1",)),
        TypeError,
        "Ordinal: expected weights to be a number in [0, 1], got str",
    ),
    (
        functools.partial(empool.Ordinal, 0.5),
        TypeError,
        "Ordinal: expected weights to be numbers, one a rank, got float",
    ),
    # Distributions.
    (
        _pool("rank_pool2d", distribution=0.1),
        TypeError,
        "rank_pool2d: expected distribution to be an empool.RankDistribution, got float",
    ),
    (
        _pool("rank_pool2d", distribution=empool.Stochastic()),
        TypeError,
        "rank_pool2d: expected distribution to be an empool.RankDistribution, got Stochastic",
    ),
    (
        functools.partial(empool.RankPool1d, 2, distribution=empool.Max),
        TypeError,
        "RankPool1d: expected distribution to be an empool.RankDistribution, got ABCMeta",
    ),
    # Seeds.
    (_pool("stochastic_pool2d", seed=2**64), ValueError, f"stochastic_pool2d: expected a seed of 64 bits, got {2**64}"),
    (
        _pool("stochastic_pool2d", seed=-(2**63) - 1),
        ValueError,
        f"stochastic_pool2d: expected a seed of 64 bits, got {-(2**63) - 1}",
    ),
    (
        _pool("ensemble_max_pool2d", seed=1.0),
        TypeError,
        "ensemble_max_pool2d: expected seed to be an int, a tensor or None, got float",
    ),
    (
        _pool("ensemble_max_pool2d", seed=True),
        TypeError,
        "ensemble_max_pool2d: expected seed to be an int, a tensor or None, got bool",
    ),
    (
        _pool("ensemble_max_pool2d", seed=torch.tensor(1.0)),
        ValueError,
        "ensemble_max_pool2d: expected seed as one int64 on cpu, got () of torch.float32 on cpu",
    ),
    (
        _pool("ensemble_max_pool2d", seed=torch.tensor([1, 2])),
        ValueError,
        "ensemble_max_pool2d: expected seed as one int64 on cpu, got (2,) of torch.int64 on cpu",
    ),
    (
        _pool("ensemble_max_pool2d", seed=torch.tensor(1, device="meta")),
        ValueError,
        "ensemble_max_pool2d: expected seed as one int64 on cpu, got () of torch.int64 on meta",
    ),
    *(
        (
            functools.partial(functional.ensemble_max_pool2d, input, 2, p=p, training=training, seed="0"),
            TypeError,
            "ensemble_max_pool2d: expected seed to be an int, a tensor or None, got str",
        )
        for input, p, training in [(INPUT, 0.5, False), (INPUT, 0.0, True), (INTEGERS, 0.0, True)]
    ),
    # Integers.
    (
        functools.partial(functional.stochastic_max_pool2d, INTEGERS, 2, drop=0.4),  # The maximum of up to two.
        TypeError,
        f"stochastic_max_pool2d: {NO_FLOATS}, got torch.int64; convert it with .float()",
    ),
    (
        functools.partial(functional.ensemble_max_pool2d, INTEGERS, 2, p=0.5),
        TypeError,
        f"ensemble_max_pool2d: {NO_FLOATS}, got torch.int64; convert it with .float()",
    ),
    (
        functools.partial(functional.stochastic_pool2d, INTEGERS, 2),
        TypeError,
        f"stochastic_pool2d: {NO_FLOATS}, got torch.int64; convert it with .float()",
    ),
    (
        functools.partial(functional.rank_pool2d, INPUT.to(torch.complex64), 2, distribution=empool.Average()),
        TypeError,
        f"rank_pool2d: {NO_FLOATS}, got torch.complex64",
    ),
    (
        functools.partial(functional.max_pool_dropout2d, INPUT.to(torch.float8_e5m2), 2),
        TypeError,
        f"max_pool_dropout2d: {NO_FLOATS}, got torch.float8_e5m2; convert it with .float()",
    ),
    # Never taken for something else, nor left unread.
    (
        _pool("ensemble_max_pool2d", training="no"),
        TypeError,
        "ensemble_max_pool2d: expected training to be True or False, got 'no'",
    ),
    (
        _pool("adaptive_soft_pool2d", training=None),
        TypeError,
        "adaptive_soft_pool2d: expected training to be True or False, got None",
    ),
    (
        _pool("ensemble_max_pool2d", generator=3),
        TypeError,
        "ensemble_max_pool2d: expected a torch.Generator, got int",
    ),
    (
        functools.partial(empool.EnsembleMaxPool2d(2, generator=3), INPUT),  # type: ignore[arg-type]
        TypeError,
        "ensemble_max_pool2d: expected a torch.Generator, got int",
    ),
    (
        _pool("stochastic_max_pool2d", p=0.1),
        TypeError,
        "stochastic_max_pool2d() got an unexpected keyword argument 'p'",
    ),
    (
        _pool("rank_pool2d"),
        TypeError,
        "rank_pool2d() missing 1 required keyword-only argument: 'distribution'",
    ),
    (
        lambda: empool.EnsembleMaxPool2d(2, p=torch.nn.Parameter(torch.tensor(0.5))),
        TypeError,
        "EnsembleMaxPool2d: expected p as numbers that aren't trained, got a tensor that requires grad or a parameter; "
        "give its .tolist(), or call empool.functional.ensemble_max_pool2d to train it",
    ),
    (
        lambda: torch.jit.script(torch.nn.Sequential(empool.SoftPool1d(2))),
        TypeError,
        "SoftPool1d: torch.jit.script can't compile it; use torch.compile, torch.export or torch.jit.trace",
    ),
    (
        lambda: functional.soft_pool1d(torch.ones(1, 2, 4).to_sparse(), 2),
        TypeError,
        "soft_pool1d: expected a dense tensor, got a torch.sparse_coo one; convert it with .to_dense()",
    ),
    (
        lambda: empool.RankPool2d(2),  # type: ignore[call-arg]
        TypeError,
        "RankPool2d.__init__() missing 1 required keyword-only argument: 'distribution'",
    ),
    # Distributions of one's own.
    (
        _pool("rank_pool2d", distribution=_Given((0.5, 0.2))),
        ValueError,
        "_Given: expected probabilities of up to 4 ranks that are not negative and sum to 1 with zero_probability, for "
        "a window of 4, got (0.5, 0.2) and 0.0",
    ),
    *(
        (
            functools.partial(functional.rank_pool2d, INPUT, size, distribution=_Given(given), training=training),
            ValueError,
            f"_Given: expected probabilities of up to {size**2} ranks that are not negative and sum to 1 with "
            f"zero_probability, for a window of {size**2}, got {given} and 0.0",
        )
        for size, given in [(1, (0.7, 0.3)), (2, (1.5, -0.5)), (2, (0.0,)), (2, ())]
        for training in (True, False)
    ),
    # Spellings and layers.
    (functools.partial(empool.pooling, "mean"), ValueError, f"pooling: expected one of {SPELLINGS}, got 'mean'"),
    (functools.partial(empool.pooling, ""), ValueError, f"pooling: expected one of {SPELLINGS}, got ''"),
    (
        functools.partial(empool.pooling, 0.1),
        TypeError,
        "pooling: expected a spelling, such as 'ensemble:0.1', got float",
    ),
    (functools.partial(empool.pooling, "max:1"), ValueError, f"pooling: expected one of {SPELLINGS}, got 'max:1'"),
    (
        functools.partial(empool.pooling, "ensemble"),
        ValueError,
        f"pooling: expected one of {SPELLINGS}, got 'ensemble'",
    ),
    (
        functools.partial(empool.pooling, "ensemble:x"),
        ValueError,
        "pooling: expected numbers as in 'ensemble:P', got 'ensemble:x'",
    ),
    (
        functools.partial(empool.pooling, "ensemble:"),
        ValueError,
        "pooling: expected numbers as in 'ensemble:P', got 'ensemble:'",
    ),
    (
        functools.partial(empool.pooling, "max-dropout:0.1,0.2"),
        ValueError,
        "pooling: expected one number as in 'max-dropout:P', got 'max-dropout:0.1,0.2'",
    ),
    (functools.partial(empool.pooling, "ensemble:2"), ValueError, "EnsembleMax: expected p in [0, 1], got 2.0"),
    (functools.partial(empool.pooling, "ensemble:nan"), ValueError, "EnsembleMax: expected p in [0, 1], got nan"),
    (functools.partial(empool.layer, empool.Max(), 4, 2), ValueError, "layer: expected dims to be 1, 2 or 3, got 4"),
    (
        functools.partial(empool.layer, empool.Average(), 2, 2, dilation=2),
        ValueError,
        "layer: expected dilation 1 for average pooling, got 2; use RankPool2d",
    ),
    (
        functools.partial(empool.layer, "max", 2, 2),
        TypeError,
        "layer: expected an empool pooling, got str; see empool.pooling",
    ),
    (
        functools.partial(empool.layer, _Strange(), 2, 2),
        TypeError,
        "layer: expected an empool pooling, got _Strange; see empool.pooling",
    ),
]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("call", "error", "message"), MESSAGES, ids=[message for _, _, message in MESSAGES])
def test_message(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert type(raised.value) is error
    assert str(raised.value) == message


@pytest.mark.parametrize("training", [True, False], ids=["training", "testing"])
def test_bad_arguments_are_refused_in_either_phase(training: bool) -> None:
    with pytest.raises(ValueError, match=r"expected p in \[0, 1\]"):
        functional.ensemble_max_pool2d(INPUT, 2, p=2, training=training)
    with pytest.raises(TypeError, match="expected a floating-point input"):
        functional.ensemble_max_pool2d(INTEGERS, 2, p=0.5, training=training)
    with pytest.raises(RuntimeError, match="stride should not be zero"):
        functional.ensemble_max_pool2d(INPUT, 2, 0, training=training)


def test_an_abstract_distribution_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        empool.RankDistribution()
