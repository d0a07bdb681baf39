"""Which pooling, apart from its geometry; most are a rank distribution, P(the r-th largest of n is the output)."""

from __future__ import annotations

import abc
import dataclasses
import math
import numbers
import sys
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

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


def finite(owner: str, name: str, value: Any) -> float:
    """Return the value as a float, or say that it is no finite number."""
    number = _number(owner, name, value, "(-inf, inf)")
    if not -sys.float_info.max <= number <= sys.float_info.max:  # Of a symbol, a tracer takes "< inf" for granted.
        raise ValueError(f"{owner}: expected {name} to be finite, got {value}")
    return number


def _number(owner: str, name: str, value: Any, interval: str) -> float:
    if type(value) is float:  # At every call.
        return value
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

    To add a pooling, subclass it and define `probabilities`, and `zero_probability` if the output can be 0;
    `empool.RankPool2d(2, distribution=...)` and its 1d and 3d twins do the rest. Set ``unchanging = True`` if instances
    never change and equal ones always give the same: their tables are then kept from call to call, and layers compile
    even if `probabilities` computes with tensors or NumPy.

    Example:
        >>> from empool import EnsembleMax
        >>> EnsembleMax(0.25).probabilities(4)
        (0.75, 0.25)
    """

    unchanging: ClassVar[bool] = False

    @abc.abstractmethod
    def probabilities(self, n: int) -> tuple[float, ...]:
        """Return P(rank 1), P(rank 2), ... of a window of n valid activations, n >= 1; at most n of them.

        Ranks left out have probability 0. The sum is 1 - `zero_probability`.
        """

    def zero_probability(self, n: int) -> float:
        """Return the probability that a window of n valid activations gives 0 and none of them."""
        return 0.0

    def threshold_table(self, counts: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Return, for each count of valid activations, what a 32-bit number must reach to pass each rank.

        One row of equal length for each count; a rank that is always enough has no threshold after it, written as
        2^32, which no number reaches.
        """
        rows = [self._threshold_row(n) for n in counts]
        columns = max([len(row) for row in rows])  # Of lists, which torch.compile understands.
        return tuple([tuple((row + [NEVER] * columns)[:columns]) for row in rows])

    def weight_table(self, counts: Sequence[int]) -> tuple[tuple[float, ...], ...]:
        """Return, for each count of valid activations, the probabilities of the ranks; one row of equal length each."""
        rows = [list(self._checked(n)) for n in counts]
        columns = max([self._ranks(n, row) for n, row in zip(counts, rows, strict=True)])
        return tuple([tuple((row + [0.0] * columns)[:columns]) for row in rows])

    def _ranks(self, n: int, probabilities: Sequence[float]) -> int:
        """Return how many ranks a table has for windows of n: as many whatever the probabilities are."""
        return max(len(probabilities), 1)

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
        probabilities, zero = list(self._checked(n)), self.zero_probability(n)
        may_be_zero = type(self).zero_probability is not RankDistribution.zero_probability
        passed = n if may_be_zero else self._ranks(n, probabilities) - 1
        # The last rank is never passed, whatever rounding makes of the sum.
        last = n if zero > 0 else max([rank for rank, p in enumerate(probabilities) if p > 0])
        sums = _running_sums(probabilities + [0.0] * (n - len(probabilities)))
        return [min(round(c * 2**32), 2**32 - 1) if rank < last else NEVER for rank, c in enumerate(sums[:passed])]


def _running_sums(values: Sequence[float]) -> list[float]:
    """Return `math.fsum` of every beginning of the values, each exact but for one rounding."""
    parts: list[float] = []  # Numbers whose bits do not overlap and whose sum is exact (Shewchuk 1997).
    sums = []
    for value in values:
        kept = []
        for part in parts:
            larger, smaller = (value, part) if abs(value) >= abs(part) else (part, value)
            value = larger + smaller
            lost = smaller - (value - larger)
            if lost:
                kept.append(lost)
        parts = [*kept, value]
        sums.append(math.fsum(parts))
    return sums


class Tunable(RankDistribution):
    """A distribution of one number that may be a tensor's: then the probabilities are worked out on its device.

    For all counts of valid activations at once: `torch.compile` takes every operation into its graph.
    """

    parameter: ClassVar[str]
    may_be_zero: ClassVar[bool] = False
    most_ranks: ClassVar[int | None] = None
    """How many ranks can have a probability, if it isn't all."""

    @classmethod
    @abc.abstractmethod
    def weights_of(cls, number: Tensor, n: Tensor, rank: Tensor) -> Tensor:
        """Return the probabilities of ranks, counted from 0: for S numbers, ``(S, 1, 1)``, and K counts, ``(K, 1)``.

        Those of ranks from n on are left out.
        """

    @classmethod
    def zero_of(cls, number: Tensor, n: Tensor) -> Tensor:
        """Return the probability of a 0, ``(S, K, 1)``, if there can be one."""
        raise NotImplementedError

    @classmethod
    def weight_tensor(cls, number: Tensor, counts: Sequence[int]) -> Tensor:
        """Return `weight_table` for each of the numbers: ``(S, K, columns)``."""
        return cls._shares(number, counts, False)[0]

    @classmethod
    def threshold_tensor(cls, number: Tensor, counts: Sequence[int]) -> Tensor:
        """Return `threshold_table` for each of the numbers: ``(S, K, columns)``."""
        shares, rank = cls._shares(number, counts, cls.may_be_zero)
        passed = (shares.cumsum(-1) * 2.0**32).round().clamp(max=2.0**32 - 1).to(torch.int64)
        last = torch.where(shares > 0, rank, 0).amax(-1, keepdim=True)
        return torch.where(rank < last, passed, NEVER)[..., :-1]

    @classmethod
    def _shares(cls, number: Tensor, counts: Sequence[int], zero: bool) -> tuple[Tensor, Tensor]:
        """Return the probabilities of ranks, the zero's after the last of each count if it is asked for; and ranks."""
        number, most = number.reshape(-1, 1, 1), max(counts)
        n = _column(counts, number.device)
        rank = torch.arange(min(most, cls.most_ranks or most) + zero, device=number.device)
        weights = cls.weights_of(number, n, rank)
        if zero:
            return torch.where(rank < n, weights, torch.where(rank == n, cls.zero_of(number, n), 0)), rank
        return torch.where(rank < n, weights, 0) if rank.numel() > counts[0] else weights, rank


def _column(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Return ascending numbers, ``(K, 1)``, made of ranges: a CUDA graph captures these, but no copy from the host."""
    if len(numbers) == 1:
        return torch.full((1, 1), numbers[0], device=device)
    first = [i for i, number in enumerate(numbers) if i == 0 or number != numbers[i - 1] + 1]
    ranges = [(numbers[i], numbers[j - 1] + 1) for i, j in zip(first, [*first[1:], len(numbers)], strict=True)]
    return torch.cat([torch.arange(*ends, device=device) for ends in ranges]).unsqueeze(-1)


@dataclasses.dataclass(frozen=True)
class Max(RankDistribution):
    """Max-pooling: always the largest activation.

    Example:
        >>> empool.Max().probabilities(4)
        (1.0,)
    """

    name: ClassVar[str] = "max"
    unchanging: ClassVar[bool] = True

    def probabilities(self, n: int) -> tuple[float, ...]:
        return (1.0,)


@dataclasses.dataclass(frozen=True)
class Average(RankDistribution):
    """Average pooling: every activation is as likely as any other.

    Example:
        >>> empool.Average().probabilities(4)
        (0.25, 0.25, 0.25, 0.25)
    """

    name: ClassVar[str] = "average"
    unchanging: ClassVar[bool] = True

    def probabilities(self, n: int) -> tuple[float, ...]:
        return (1 / n,) * n


@dataclasses.dataclass(frozen=True)
class EnsembleMax(Tunable):
    """Ensemble max-pooling: the second largest activation with probability p, the largest otherwise.

    Args:
        p: probability of dropping the largest activation.

    Raises:
        ValueError: if p is outside [0, 1].

    Example:
        >>> empool.EnsembleMax(0.1).probabilities(4)
        (0.9, 0.1)

    Source: Zhang and Wu, J. USTC 47(10), 2017.
    """

    name: ClassVar[str] = "ensemble"
    unchanging: ClassVar[bool] = True
    parameter: ClassVar[str] = "p"
    most_ranks: ClassVar[int | None] = 2
    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", probability("EnsembleMax", "p", self.p))

    def probabilities(self, n: int) -> tuple[float, ...]:
        return (1.0,) if n == 1 else (1 - self.p, self.p)

    @classmethod
    def weights_of(cls, number: Tensor, n: Tensor, rank: Tensor) -> Tensor:
        second = torch.where(n > 1, number, 0)
        return torch.where(rank == 0, 1 - second, second)


@dataclasses.dataclass(frozen=True)
class MaxDropout(Tunable):
    """Max-pooling dropout: every activation is dropped with probability p, then the largest that is left wins.

    Args:
        p: probability of dropping an activation.

    Raises:
        ValueError: if p is outside [0, 1].

    Example:
        >>> empool.MaxDropout(0.5).probabilities(4)
        (0.5, 0.25, 0.125, 0.0625)

    Source: Wu and Gu, "Towards dropout training for convolutional neural networks", 2015 (their p retains, ours drops).
    """

    name: ClassVar[str] = "max-dropout"
    may_be_zero: ClassVar[bool] = True
    unchanging: ClassVar[bool] = True
    parameter: ClassVar[str] = "p"
    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", probability("MaxDropout", "p", self.p))

    def probabilities(self, n: int) -> tuple[float, ...]:
        return tuple((1 - self.p) * self.p**r for r in range(n))

    def zero_probability(self, n: int) -> float:
        return self.p**n

    @classmethod
    def weights_of(cls, number: Tensor, n: Tensor, rank: Tensor) -> Tensor:
        return (1 - number) * number**rank

    @classmethod
    def zero_of(cls, number: Tensor, n: Tensor) -> Tensor:
        return number**n


@dataclasses.dataclass(frozen=True)
class StochasticMax(Tunable):
    """Stochastic max-pooling: ``floor(drop * n)`` of the n activations are dropped, then the largest that is left wins.

    Args:
        drop: share of the activations to drop.

    Raises:
        ValueError: if drop is outside [0, 1).

    Example:
        >>> empool.StochasticMax(0.25).probabilities(4)
        (0.75, 0.25)

    Source: Huang et al., "Channel-max, channel-drop and stochastic max-pooling", CVPRW 2015.
    """

    name: ClassVar[str] = "stochastic-max"
    unchanging: ClassVar[bool] = True
    parameter: ClassVar[str] = "drop"
    drop: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "drop", share("StochasticMax", "drop", self.drop))

    def probabilities(self, n: int) -> tuple[float, ...]:
        kept = n - math.floor(self.drop * n)
        ways, all_ways, found = math.comb(n - 1, kept - 1), math.comb(n, kept), []
        for rank in range(1, n - kept + 2):
            found.append(ways / all_ways)
            ways = ways * (n - rank - kept + 1) // max(n - rank, 1)  # C(n - rank - 1, kept - 1)
        return tuple(found)

    def _ranks(self, n: int, probabilities: Sequence[float]) -> int:
        return n

    @classmethod
    def weights_of(cls, number: Tensor, n: Tensor, rank: Tensor) -> Tensor:
        dropped = (number * n).floor()
        factors = (dropped - rank + 1).clamp(min=0) / (n - rank).clamp(min=1)
        return torch.where(rank == 0, (n - dropped) / n, factors).cumprod(-1)


@dataclasses.dataclass(frozen=True)
class Ordinal(RankDistribution):
    """Ordinal pooling: rank r has weight r; in a window with fewer activations the first weights are renormalised.

    Args:
        weights: the probability of each rank, that of the largest activation first.

    Raises:
        ValueError: if a weight is outside [0, 1], or they do not sum to 1.

    Example:
        >>> empool.Ordinal((0.6, 0.3, 0.1)).probabilities(4)
        (0.6, 0.3, 0.1)

    Source: Kumar, "Ordinal pooling networks", arXiv 1804.02702, 2018.
    """

    name: ClassVar[str] = "ordinal"
    unchanging: ClassVar[bool] = True
    weights: tuple[float, ...]

    def __init__(self, weights: Sequence[float] | Tensor) -> None:
        weights = weights.tolist() if isinstance(weights, Tensor) else weights
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
class TopMean(RankDistribution):
    """Rank-based average pooling: the t largest activations are equally likely; all of them where there are fewer.

    Args:
        t: number of activations.

    Raises:
        ValueError: if t is not a whole number of at least 1.

    Example:
        >>> empool.TopMean(2).probabilities(4)
        (0.5, 0.5)

    Source: Shi, Ye and Wu, "Rank-based pooling for deep convolutional neural networks", Neural Networks 83, 2016.
    """

    name: ClassVar[str] = "top-mean"
    unchanging: ClassVar[bool] = True
    t: int

    def __post_init__(self) -> None:
        number = _number("TopMean", "t", self.t, "1, 2, 3, ...")
        if not (1 <= number < math.inf and number == int(number)):
            raise ValueError(f"TopMean: expected t to be a whole number of at least 1, got {self.t}")
        object.__setattr__(self, "t", int(number))

    def probabilities(self, n: int) -> tuple[float, ...]:
        return (1 / min(self.t, n),) * min(self.t, n)


@dataclasses.dataclass(frozen=True)
class Geometric(RankDistribution):
    """Rank-based weighted and stochastic pooling: each rank is 1 - a times as likely as the one before.

    Args:
        a: 1 is max-pooling; the smaller, the nearer to average pooling.

    Raises:
        ValueError: if a is outside (0, 1].

    Example:
        >>> empool.Geometric(0.75).probabilities(2)
        (0.8, 0.2)

    Source: Shi, Ye and Wu, "Rank-based pooling for deep convolutional neural networks", Neural Networks 83, 2016.
    """

    name: ClassVar[str] = "geometric"
    unchanging: ClassVar[bool] = True
    a: float

    def __post_init__(self) -> None:
        a = probability("Geometric", "a", self.a)
        if a == 0:
            raise ValueError("Geometric: expected a in (0, 1], got 0: that is average pooling, empool.Average()")
        object.__setattr__(self, "a", a)

    def probabilities(self, n: int) -> tuple[float, ...]:
        weights = [self.a * (1 - self.a) ** rank for rank in range(n)]
        total = math.fsum(weights)
        return tuple([weight / total for weight in weights])


@dataclasses.dataclass(frozen=True)
class Mixed(RankDistribution):
    """Mixed pooling: the largest activation with probability a, any of them alike otherwise.

    Args:
        a: share of max-pooling; the rest is average pooling.

    Raises:
        ValueError: if a is outside [0, 1].

    Example:
        >>> empool.Mixed(0.5).probabilities(4)
        (0.625, 0.125, 0.125, 0.125)

    Source: Lee, Gallagher and Tu, "Generalizing pooling functions in convolutional neural networks", AISTATS 2016.
    """

    name: ClassVar[str] = "mixed"
    unchanging: ClassVar[bool] = True
    a: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "a", probability("Mixed", "a", self.a))

    def probabilities(self, n: int) -> tuple[float, ...]:
        rest = (1 - self.a) / n
        return (self.a + rest, *[rest] * (n - 1))


@dataclasses.dataclass(frozen=True)
class Stochastic(Pooling):
    """Stochastic pooling: an activation is sampled with a probability proportional to its positive part.

    Not a rank distribution: it samples by value.

    Example:
        >>> empool.layer(empool.Stochastic(), 2, kernel_size=2)
        StochasticPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)

    Source: Zeiler and Fergus, "Stochastic pooling for regularization of deep convolutional neural networks", 2013.
    """

    name: ClassVar[str] = "stochastic"


@dataclasses.dataclass(frozen=True)
class Soft(Pooling):
    """Soft pooling: an activation is sampled with its probability under the softmax of beta times the activations.

    Not a rank distribution: it samples by value.

    Args:
        beta: 0 is average pooling; the larger, the nearer to max-pooling.

    Raises:
        ValueError: if beta is not finite.

    Example:
        >>> empool.layer(empool.Soft(1.0), 2, kernel_size=2)
        SoftPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False, beta=1.0)

    Source: Stergiou, Poppe and Kalliatakis, "Refining activation downsampling with SoftPool", ICCV 2021.
    """

    name: ClassVar[str] = "soft"
    beta: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", finite("Soft", "beta", self.beta))
