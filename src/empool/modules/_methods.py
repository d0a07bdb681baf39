"""What the layers of each method keep: the function that they call, and its own arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from empool import _private, functional
from empool._call import distribution_argument
from empool._tables import Tables
from empool.distributions import (
    EnsembleMax,
    MaxDropout,
    RankDistribution,
    StochasticMax,
    Tunable,
    finite,
    probability,
    share,
)
from empool.modules._layer import Pool

Number = float | Iterable[float] | Tensor
"""A method's own number: one, or one for each channel."""


class _Tabled(Pool):
    """A layer that keeps a rank distribution's tables: not as buffers, which `half` rounds and `state_dict` saves."""

    _tables: Tables

    def _take(self, each: list[Any]) -> None:
        if "_tables" in vars(self):
            self._tables.set(each)
        else:
            self._tables = Tables(each, self._counts(), _default_device())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._tables = self._tables.copy()  # `copy.copy` of a layer shares what it holds.

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._tables.to(fn(torch.empty(0, device=self._tables.device)).device)
        return self


class Numbered(_Tabled):
    """A layer of a distribution with one number, which may differ by channel."""

    _kind: ClassVar[type[Tunable]]
    _check: ClassVar[Callable[..., float]] = staticmethod(probability)

    def _read(self) -> Any:
        values = [getattr(distribution, self._own[0]) for distribution in self._tables.each]
        return values[0] if len(values) == 1 else torch.tensor(values, dtype=torch.float64)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._own and isinstance(value, Tensor) and (value.requires_grad or isinstance(value, nn.Parameter)):
            owner, function = type(self).__name__, type(self)._function.__name__
            raise TypeError(
                f"{owner}: expected {name} as numbers that aren't trained, got a tensor that requires grad or a "
                f"parameter; give its .tolist(), or call empool.functional.{function} to train it"
            )
        super().__setattr__(name, value)

    def _write(self, number: Number) -> None:
        owner, name = type(self).__name__, self._own[0]
        each = [self._kind(type(self)._check(owner, name, value)) for value in _values(number)]  # type: ignore[call-arg]
        if not each:
            raise ValueError(f"{owner}: expected {name} as a number or one for each channel, got none")
        self._take(each)

    def _arguments(self, traced: bool) -> dict[str, Any]:
        return self._spelled() if traced else {self._own[0]: self._tables}


class EnsembleMaxed(Numbered):
    """Layers of ensemble max-pooling."""

    _functions, _own, _kind = functional._ensemble_max_pool, ("p",), EnsembleMax

    @property
    def p(self) -> Any:
        """Probability of dropping: a number, or a tensor of one for each channel."""
        return self._read()

    @p.setter
    def p(self, p: Number) -> None:
        self._write(p)


class MaxDropped(Numbered):
    """Layers of max-pooling dropout."""

    _functions, _own, _kind = functional._max_pool_dropout, ("p",), MaxDropout

    @property
    def p(self) -> Any:
        """Probability of dropping: a number, or a tensor of one for each channel."""
        return self._read()

    @p.setter
    def p(self, p: Number) -> None:
        self._write(p)


class StochasticMaxed(Numbered):
    """Layers of stochastic max-pooling."""

    _functions, _own, _kind = functional._stochastic_max_pool, ("drop",), StochasticMax
    _check = staticmethod(share)

    @property
    def drop(self) -> Any:
        """Share of each window to drop: a number, or a tensor of one for each channel."""
        return self._read()

    @drop.setter
    def drop(self, drop: Number) -> None:
        self._write(drop)


class Valued(Pool):
    """Layers of stochastic pooling, which has no arguments of its own."""

    _functions = functional._stochastic_pool


class Ranked(_Tabled):
    """Layers of any rank distribution."""

    _functions, _own = functional._rank_pool, ("distribution",)

    @property
    def distribution(self) -> RankDistribution:
        """How likely each rank is."""
        return self._tables.each[0]

    @distribution.setter
    def distribution(self, distribution: RankDistribution) -> None:
        self._take([distribution_argument(type(self).__name__, distribution)])

    def _arguments(self, traced: bool) -> dict[str, Any]:
        # What says that it cannot change has its tables kept; what may have changed is asked at every call.
        return {"distribution": self._tables if self._tables.is_unchanging and not traced else self.distribution}


class Softened(Pool):
    """Layers of soft pooling, whose beta may be a parameter."""

    _functions, _own = functional._soft_pool, ("beta",)
    beta: Any
    _start: list[float] | None = None
    """What a trainable beta starts from, unless it was given as a parameter."""
    _number: Tensor | None = None
    """A number beta in memory, for compiled graphs: they read it there, so that a new one compiles nothing anew."""

    def _set_beta(self, beta: Number, trainable: bool) -> None:
        if isinstance(beta, nn.Parameter):
            self.beta = beta
        elif trainable:
            self._start = self._checked(beta)
            self.beta = nn.Parameter(torch.empty(len(self._start)))
            self.reset_parameters()
        else:
            self.beta = beta.tolist() if isinstance(beta, Tensor) else beta

    def reset_parameters(self) -> None:
        """Let a trainable beta start once more, as after `to_empty`."""
        if self._start is not None:
            with torch.no_grad():
                self.beta.copy_(torch.tensor(self._start))

    def _checked(self, beta: Number) -> list[float]:
        return [finite(type(self).__name__, "beta", value) for value in _values(beta)]

    def __setattr__(self, name: str, value: Any) -> None:
        number = None
        if name == "beta" and not isinstance(value, Tensor):
            device = _default_device() if self._number is None else self._number.device
            checked = self._checked(value)
            with torch.inference_mode(False):
                numbers = torch.tensor(checked, dtype=torch.float64, device=device)
            value, number = (numbers, None) if _is_iterable(value) else (checked[0], numbers)
        super().__setattr__(name, value)
        if name == "beta":
            self._number = number

    def _arguments(self, traced: bool) -> dict[str, Any]:
        if self._number is None or not torch.compiler.is_compiling() or _private.is_exporting():
            return self._spelled()
        return {"beta": self._number}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name in ("beta", "_number"):
            number = getattr(self, name)
            if isinstance(number, Tensor) and not isinstance(number, nn.Parameter):
                # As a table: no call waits for it to be sent to a GPU, and it isn't rounded.
                device = fn(torch.empty(0, device=number.device)).device
                vars(self)[name] = number if device.type == "meta" else number.to(device)
        return self


def _default_device() -> torch.device:
    """Return where what a layer keeps is made: on PyTorch's default device, but for one without memory."""
    cpu = torch.device("cpu")
    if torch.compiler.is_compiling():  # Dynamo doesn't know the question.
        return cpu
    device = torch.get_default_device()
    return cpu if device.type == "meta" else device


def _is_iterable(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)


def _values(number: Any) -> list[Any]:
    values = number.detach().tolist() if isinstance(number, Tensor) else number
    return list(values) if _is_iterable(values) else [values]
