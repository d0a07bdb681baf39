"""Tables of thresholds and weights: made once, kept where they are used, and changed there in place."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from empool import _private
from empool.distributions import RankDistribution, Tunable
from empool.reference import NEVER

Made = TypeVar("Made")
_CPU = torch.device("cpu")
_DTYPES = {False: torch.float64, True: torch.int64}
"""Of tables for testing and for training."""


class Table(NamedTuple):
    """A table, and what its numbers come to.

    Attributes:
        entries: thresholds or weights, ``(S, K, columns)``.
        draws: whether a draw by it needs random numbers.
        zeros: whether a draw by it may be no activation.
    """

    entries: Tensor
    draws: bool
    zeros: bool


class Tables:
    """The tables of a rank distribution; or of one for each channel, of a kind.

    Attributes:
        each: the distributions, one or one a channel.
        counts: how many activations the windows of a layer can hold: their tables are always there. None are known if
            that depends on the input, or if tables would be large. It is None where there is no layer.
        device: where these are.
        number: where there is a kind that has one, the distributions' numbers, in memory: ``(S,)``.
        kept: all tables that are there.
        read: those on the device, for graphs.
        prepared: `empool._prepared`'s calls with these tables, which end with them.
    """

    def __init__(
        self, each: Sequence[RankDistribution], counts: tuple[int, ...] | None = None, device: torch.device = _CPU
    ) -> None:
        self.each, self.counts, self.device = tuple(each), counts, device
        kind: Any = type(each[0])
        self.kind: type[Tunable] | None = kind if "weights_of" in vars(kind) else None  # Not a subclass's own.
        self.is_unchanging = all(vars(type(distribution)).get("unchanging", False) for distribution in each)
        self.kept: dict[Any, Table] = {}
        self.read = _Read()
        self.prepared: dict[Any, Any] = {}
        if counts == () and self.is_unchanging and not torch.compiler.is_compiling():
            _open.add(self)
        self._fill()

    def _fill(self) -> None:
        self.number = None if self.kind is None else _numbers(self.each, self.device)
        if self.counts and self.is_unchanging and not torch.compiler.is_compiling():
            with contextlib.suppress(Exception):  # A user's own may refuse a count, and says so when it is asked for.
                for training in (False, True):
                    self.get(self.counts, training, self.device)

    def get(self, counts: tuple[int, ...], training: bool, device: torch.device) -> Table:
        """Return a table on a device, made at the first call.

        A compiled graph reads what is in memory, the table or else the numbers, and so serves every number.
        """
        if torch.compiler.is_compiling():
            return self._in_graph(counts, training, device)
        if _private.has_dispatch_mode():  # Its tensors, such as fake ones, are no one else's.
            return _table(self.each, counts, training, device)
        key, kept = (counts, training, device), self.kept
        found = kept.get(key)
        if found is None:
            found = _table(self.each, counts, training, device)
            # What is made in a capture belongs to the graph.
            if not (device.type == "cuda" and _private.is_capturing()):
                kept[key] = found
                if device == self.device:
                    setattr(self.read, _name(counts, training), found)
        return found

    def _in_graph(self, counts: tuple[int, ...], training: bool, device: torch.device) -> Table:
        if _private.is_exporting():
            return _traced(self.each, counts, training, device, trim=True)
        counts = _private.specialised(counts)
        if self.counts == ():
            _make_everywhere(counts, training)
        found: Table | None = getattr(self.read, _name(counts, training), None)
        if found is not None:
            entries = found.entries if device == self.device else found.entries.to(device)
            draws, zeros = (found.draws, found.zeros) if self.kind is None else (True, self.kind.may_be_zero)
            return Table(entries, draws, zeros)
        if self.kind is not None and self.number is not None:
            return Numbers(self.kind, self.number).get(counts, training, device)
        if self.is_unchanging and is_known(self.each[0]):
            return Known(self.each[0]).get(counts, training, device)
        return _traced(self.each, counts, training, device)

    def set(self, each: Sequence[RankDistribution]) -> None:
        """Take other distributions of the kind: the numbers change where they are, for graphs that read them there."""
        if len(each) != len(self.each) or type(each[0]) is not type(self.each[0]):
            self.__init__(each, self.counts, self.device)  # type: ignore[misc]
            return
        with torch.no_grad():
            if self.number is not None and not self.number.is_meta:
                # Before all else: within a transform of torch.func it is refused.
                self.number.copy_(_numbers(each, self.device))
            self.each = tuple(each)
            kept = {}  # What another thread makes meanwhile of the numbers before goes into the old one.
            for key, table in list(self.kept.items()):
                kept[key] = fresh = _table(self.each, *key)
                # A CPU has no graph that knows an address, but may have a backward to come that needs the old table.
                if table.entries.is_cuda and fresh.entries.shape == table.entries.shape:
                    kept[key] = fresh = fresh._replace(entries=table.entries.copy_(fresh.entries))
                if key[2] == self.device:
                    setattr(self.read, _name(*key[:2]), fresh)
        self.kept = kept
        self.prepared = {}  # Last: what is prepared meanwhile with an old table goes into the old one.

    def to(self, device: torch.device) -> None:
        """Move what is in memory; from the meta device it is made anew."""
        if self.device != device:
            self.device, self.read = device, _Read()
            self._fill()

    def copy(self) -> Tables:
        """Return the same in memory of its own."""
        twin = Tables(self.each, self.counts, self.device)
        for key in list(self.kept):  # A graph may read more than what a new layer has.
            twin.get(*key)
        return twin

    def __deepcopy__(self, memo: Any) -> Tables:
        return self.copy()

    def __getstate__(self) -> dict[str, Any]:
        return {"each": self.each, "counts": self.counts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["each"], state.get("counts", ()))  # type: ignore[misc]


class _Read:
    """Tables that graphs read, as attributes: Dynamo looks into a dictionary once, at these when it comes to them."""


def _name(counts: tuple[int, ...], training: bool) -> str:
    return f"{training}{counts}"


_open: weakref.WeakSet[Tables] = weakref.WeakSet()
"""Those of layers whose counts aren't known."""


@_private.called_by_dynamo
def _make_everywhere(counts: tuple[int, ...], training: bool) -> bool:
    """Make tables for windows that are only known now that Dynamo sees an input, so that its graph can read them.

    Those of all such layers, for any of which the graph may be called: it must not be compiled anew for each.
    """
    for tables in list(_open):
        key, name = (counts, training, tables.device), _name(counts, training)
        if not hasattr(tables.read, name):
            with contextlib.suppress(Exception):  # As above.
                tables.kept[key] = made = _table(tables.each, *key)
                setattr(tables.read, name, made)
    return True


class Numbers:
    """The tables of a kind of distribution with numbers that only their device or a graph knows."""

    def __init__(self, kind: type[Tunable], number: float | Tensor) -> None:
        self.kind, self.number = kind, number

    def get(self, counts: tuple[int, ...], training: bool, device: torch.device) -> Table:
        """Work a table out."""
        number = self.number
        number = number.to(device, torch.float64) if isinstance(number, Tensor) else in_graph(number, device)
        make = self.kind.threshold_tensor if training else self.kind.weight_tensor
        return Table(make(number, counts), draws=True, zeros=self.kind.may_be_zero)


class Known:
    """The tables of a distribution for a graph that is compiled for it alone."""

    number = None

    def __init__(self, distribution: RankDistribution) -> None:
        self.distribution = distribution

    def get(self, counts: tuple[int, ...], training: bool, device: torch.device) -> Table:
        """Return a table, made while Dynamo traces."""
        kind, fields = type(self.distribution), _fields(self.distribution)
        return read_by_graph(_known, kind, fields, _private.specialised(counts), training, device)


def _known(kind: Callable[..., RankDistribution], fields: tuple[Any, ...], *where: Any) -> Table:
    return _table([kind(*fields)], *where)


def read_by_graph(make: Callable[..., Made], *arguments: Any) -> Made:
    """Return what a function makes of constants, made while Dynamo traces, so that a graph reads it."""
    made: Made = getattr(_read, _make(make, *arguments))
    return made


_read = _Read()
_names: dict[Any, str] = {}
_count = itertools.count()


@_private.called_by_dynamo
def _make(make: Callable[..., Any], *arguments: Any) -> str:
    key = (make, *arguments)
    if key not in _names:
        name = f"{make.__name__} {next(_count)}"
        setattr(_read, name, make(*arguments))
        _names[key] = name  # After it is there, for other threads.
    return _names[key]


@dataclasses.dataclass(eq=False)
class Learned:
    """Tables of logits, ``(S, ranks)``: the softmax of as many as a window has activations."""

    number: Tensor

    def get(self, counts: tuple[int, ...], training: bool, device: torch.device) -> Table:
        """Work a table out."""
        logits = self.number[:, : max(counts)]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        rank = torch.arange(logits.size(-1), device=device)
        rows = [logits.masked_fill(rank >= n, -math.inf) if n < logits.size(-1) else logits for n in counts]
        weights = torch.stack(rows, 1).softmax(-1)
        if not training:
            return Table(weights, draws=False, zeros=False)
        with torch.no_grad():
            passed = (weights.double().cumsum(-1) * 2.0**32).round().clamp(max=2.0**32 - 1).to(torch.int64)
            last = torch.stack([torch.where(rank >= n - 1, NEVER, 0) for n in counts])
            return Table(torch.maximum(passed, last)[..., :-1], draws=True, zeros=False)


def _numbers(each: Sequence[RankDistribution], device: torch.device) -> Tensor:
    values = [getattr(distribution, distribution.parameter) for distribution in each]  # type: ignore[attr-defined]
    with torch.inference_mode(False):
        return _sent(values, torch.float64, device)


def _table(each: Sequence[RankDistribution], counts: tuple[int, ...], training: bool, device: torch.device) -> Table:
    sets, draws, zeros = _numbers_of(each, counts, training)
    with torch.inference_mode(False), _private.untraced():
        entries = _made(sets, _DTYPES[training], device)
    return Table(_private.read_by_graphs(_private.unwrapped(entries)), draws, zeros)


def _traced(
    each: Sequence[RankDistribution], counts: tuple[int, ...], training: bool, device: torch.device, trim: bool = False
) -> Table:
    """Return a table that a graph makes.

    Args:
        trim: leave out columns that do nothing, which no other p will need.
    """
    sets, draws, zeros = _numbers_of(each, counts, training)
    if trim:
        empty, least = (NEVER, 0) if training else (0, 1)
        width = max(
            [least] + [i + 1 for table in sets for row in table for i, entry in enumerate(row) if entry != empty]
        )
        sets = [[row[:width] for row in table] for table in sets]
    return Table(torch.tensor(sets, dtype=_DTYPES[training], device=device), draws, zeros)


def _numbers_of(each: Sequence[RankDistribution], counts: tuple[int, ...], training: bool) -> tuple[Any, bool, bool]:
    made: dict[int, Any] = {}  # Channels may share a distribution.
    for distribution in each:
        if id(distribution) not in made:
            made[id(distribution)] = (distribution.threshold_table if training else distribution.weight_table)(counts)
    sets = [made[id(distribution)] for distribution in each]
    zeros = any(distribution.zero_probability(n) > 0 for distribution in each for n in counts)
    draws = training and any(entry != NEVER for table in made.values() for row in table for entry in row)
    return sets, draws, zeros


def _made(sets: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    if not (device.type == "cuda" and _private.is_capturing()):
        return _sent(sets, dtype, device)
    # A capture takes no copy from the host, but it does take fills.
    columns = len(sets[0][0])
    entries = [torch.full((1,), entry, dtype=dtype, device=device) for table in sets for row in table for entry in row]
    empty = torch.empty(0, dtype=dtype, device=device)
    return torch.cat([empty, *entries]).reshape(len(sets), len(sets[0]), columns)


def _sent(numbers: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a tensor on a device, without waiting for it."""
    if device.type != "cuda" or _private.has_dispatch_mode():
        return torch.tensor(numbers, dtype=dtype, device=device)
    return torch.tensor(numbers, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


def in_graph(number: float, device: torch.device) -> Tensor:
    """Return a number as a tensor, by arithmetic: a compiled graph then serves every number."""
    return torch.ones(1, dtype=torch.float64, device=device) * number


def of(distribution: RankDistribution) -> Tables | Known:
    """Return the tables of a distribution: those of an earlier call where it says that it cannot change."""
    is_unchanging = vars(type(distribution)).get("unchanging", False)
    if is_unchanging and torch.compiler.is_compiling() and not _private.is_exporting() and is_known(distribution):
        return Known(distribution)
    return remembered(_of, distribution) if is_unchanging else _of(distribution)


def is_known(distribution: RankDistribution) -> bool:
    """Tell of a distribution that Dynamo sees whether it is one of ours and compiled for its numbers alone."""
    if type(distribution).__module__ != RankDistribution.__module__:
        return False
    numbers = [each for field in _fields(distribution) for each in (field if type(field) is tuple else (field,))]
    return all(_private.is_known(number) for number in numbers)


def _fields(distribution: RankDistribution) -> tuple[Any, ...]:
    return tuple([getattr(distribution, field.name) for field in dataclasses.fields(distribution)])  # type: ignore


def of_kind(kind: type[Tunable], number: float) -> Tables:
    """Return the tables of a kind of distribution with its number."""
    return Tables([kind(number)])  # type: ignore[call-arg]


def _of(distribution: RankDistribution) -> Tables:
    return Tables([distribution])


def remembered(make: Callable[..., Made], *arguments: Any) -> Made:
    """Return what a function makes of plain numbers and what cannot change, made once; anew where something compiles.

    It is the one cache of calls: to make a plan or a table takes longer than to pool a small tensor.
    """
    if not torch.compiler.is_compiling():
        with contextlib.suppress(TypeError):  # Sizes that are symbols can't be looked up.
            found: Made = cached(make, *arguments)
            return found
    return make(*arguments)


@functools.lru_cache(maxsize=4096)
def cached(make: Callable[..., Any], *arguments: Any) -> Any:
    """Return the same, where nothing compiles."""
    return make(*arguments)
