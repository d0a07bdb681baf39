"""Which pooling, apart from its geometry; most are a rank distribution, P(the r-th largest of n is the output)."""

from __future__ import annotations

import abc
import dataclasses
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from empool.reference import NEVER


def probability(owner: str, name: str, value: Any) -> float:
    """Return the value as a float, or say that it is no probability; `owner` and `name` are whose argument it is."""
    number = _number(owner, name, value, "[0, 1]")
    if not 0 <= number <= 1:
        raise ValueError(f"{owner}: expected {name} in [0, 1], got {value}")
    return number


def share(owner: str, name: str, value: Any) -> float:
    """Return the value as a float, or say that it is no share that leaves something."""
    number = _number(owner, name, value, "[0, 1)")
    if not 0 <= number < 1:
        raise ValueError(f"{owner}: expected {name} in [0, 1), got {value}: an activation must be left")
    return number


def _number(owner: str, name: str, value: Any, interval: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: expected {name} to be a number in {interval}, got {type(value).__name__}")
    return float(value)


class Pooling:
    """Which pooling, apart from its geometry; `str` spells it and `empool.pooling` reads the spelling."""

    name: ClassVar[str] = ""

    def __str__(self) -> str:
        if not self.name or not hasattr(self, "__dataclass_fields__"):
            return repr(self)
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        parts = [n for value in values for n in (value if isinstance(value, tuple) else (value,))]
        return ":".join([self.name, *filter(None, [",".join(repr(n).removesuffix(".0") for n in parts)])])


class RankDistribution(Pooling, abc.ABC):
    """How likely each rank is to be the output of a window.

    To add a pooling, subclass it and give `probabilities`; `empool.RankPool2d(2, distribution=...)` and its 1d and 3d
    twins do the rest.

    Example:
        >>> from empool import EnsembleMax
        >>> EnsembleMax(0.25).probabilities(4)
        (0.75, 0.25)
    """

    @abc.abstractmethod
    def probabilities(self, n: int) -> tuple[float, ...]:
        """Return P(rank 1), P(rank 2), ... of a window of n valid activations, n >= 1; at most n of them.

        Ranks left out have probability 0. The sum is 1 - `zero_probability`.
        """

    def zero_probability(self, n: int) -> float:
        """Return the probability that a window of n valid activations gives 0 and none of them."""
        return 0.0

    def threshold_table(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Return, for each count of valid activations, what a 32-bit number must reach to pass each rank.

        One row of equal length for each count; a rank that is always enough has no threshold after it, written as
        2^32, which no number reaches.
        """
        rows = [self._threshold_row(n) for n in counts]
        columns = max([len(row) for row in rows])  # Of lists, which torch.compile understands.
        return tuple(t for row in rows for t in (row + [NEVER] * columns)[:columns])

    def weight_table(self, counts: Sequence[int]) -> tuple[float, ...]:
        """Return, for each count of valid activations, the probabilities of the ranks; one row of equal length each."""
        rows = [list(self._checked(n)) for n in counts]
        columns = max([1, *(rank for row in rows for rank, p in enumerate(row, 1) if p > 0)])
        return tuple(p for row in rows for p in (row + [0.0] * columns)[:columns])

    def _checked(self, n: int) -> tuple[float, ...]:
        """Return the probabilities of the ranks, or say what is wrong with them: they may be a user's own."""
        probabilities, zero = tuple(self.probabilities(n)), self.zero_probability(n)
        whole = math.fsum((*probabilities, zero))
        if len(probabilities) > n or min((*probabilities, zero)) < 0 or not abs(whole - 1) <= 1e-5:
            raise ValueError(
                f"{type(self).__name__}: expected probabilities of up to {n} ranks that are not negative and sum to 1 "
                f"with zero_probability, for a window of {n}, got {probabilities} and {zero}"
            )
        return probabilities

    def _threshold_row(self, n: int) -> list[int]:
        probabilities = self._checked(n)
        if self.zero_probability(n) == 0:
            last = max(rank for rank, p in enumerate(probabilities) if p > 0)
            probabilities = probabilities[:last]  # The last rank is never passed, whatever rounding makes of the sum.
        elif len(probabilities) < n:
            probabilities += (0.0,) * (n - len(probabilities))
        cumulative = (math.fsum(probabilities[: r + 1]) for r in range(len(probabilities)))
        return [min(round(c * 2**32), 2**32 - 1) for c in cumulative]


@dataclasses.dataclass(frozen=True)
class Max(RankDistribution):
    """Max-pooling: always the largest activation."""

    name: ClassVar[str] = "max"

    def probabilities(self, n: int) -> tuple[float, ...]:
        return (1.0,)


@dataclasses.dataclass(frozen=True)
class Average(RankDistribution):
    """Average pooling: every activation is as likely as any other."""

    name: ClassVar[str] = "average"

    def probabilities(self, n: int) -> tuple[float, ...]:
        return (1 / n,) * n


@dataclasses.dataclass(frozen=True)
class EnsembleMax(RankDistribution):
    """Ensemble max-pooling: the second largest activation with probability p, the largest otherwise.

    Source: Zhang and Wu, J. USTC 47(10), 2017.
    """

    name: ClassVar[str] = "ensemble"
    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", probability("EnsembleMax", "p", self.p))

    def probabilities(self, n: int) -> tuple[float, ...]:
        return (1.0,) if n == 1 else (1 - self.p, self.p)


@dataclasses.dataclass(frozen=True)
class MaxDropout(RankDistribution):
    """Max-pooling dropout: every activation is dropped with probability p, then the largest that is left wins.

    Source: Wu and Gu, "Towards dropout training for convolutional neural networks", 2015 (their p retains, ours drops).
    """

    name: ClassVar[str] = "max-dropout"
    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", probability("MaxDropout", "p", self.p))

    def probabilities(self, n: int) -> tuple[float, ...]:
        return tuple((1 - self.p) * self.p**r for r in range(n))

    def zero_probability(self, n: int) -> float:
        return self.p**n


@dataclasses.dataclass(frozen=True)
class StochasticMax(RankDistribution):
    """Stochastic max-pooling: ``floor(drop * n)`` of the n activations are dropped, then the largest that is left wins.

    Source: Huang et al., "Channel-max, channel-drop and stochastic max-pooling", CVPRW 2015.
    """

    name: ClassVar[str] = "stochastic-max"
    drop: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "drop", share("StochasticMax", "drop", self.drop))

    def probabilities(self, n: int) -> tuple[float, ...]:
        kept = n - math.floor(self.drop * n)
        return tuple(math.comb(n - r, kept - 1) / math.comb(n, kept) for r in range(1, n - kept + 2))


@dataclasses.dataclass(frozen=True)
class Ordinal(RankDistribution):
    """Ordinal pooling: rank r has weight r; in a window with fewer activations the first weights are renormalised."""

    name: ClassVar[str] = "ordinal"
    weights: tuple[float, ...]

    def __init__(self, weights: Sequence[float]) -> None:
        if not isinstance(weights, Iterable):
            raise TypeError(f"Ordinal: expected weights to be numbers, one a rank, got {type(weights).__name__}")
        weights = tuple(probability("Ordinal", "weights", w) for w in weights)
        if abs(math.fsum(weights) - 1) > 1e-6:
            raise ValueError(f"Ordinal: expected weights that sum to 1, got {weights}; divide them by their sum")
        object.__setattr__(self, "weights", weights)

    def probabilities(self, n: int) -> tuple[float, ...]:
        if n >= len(self.weights):
            return self.weights
        total = math.fsum(self.weights[:n])
        # Where the first n ranks have no weight, the last one there is stands for those beyond it.
        return tuple(w / total for w in self.weights[:n]) if total > 0 else (0.0,) * (n - 1) + (1.0,)


@dataclasses.dataclass(frozen=True)
class Stochastic(Pooling):
    """Stochastic pooling: an activation is drawn with a probability proportional to its positive part.

    Not a rank distribution: it draws by value.
    Source: Zeiler and Fergus, "Stochastic pooling for regularization of deep convolutional neural networks", 2013.
    """

    name: ClassVar[str] = "stochastic"
