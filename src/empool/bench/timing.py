"""Times of contestants that take turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import math
import random
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

try:
    import resource
except ModuleNotFoundError:  # Not on Windows.
    resource = None  # type: ignore[assignment]

Call = Callable[[int], object]
"""Does the work once, on the input set of this number."""

SAMPLE = 3e-3
"""Seconds that a sample lasts at least: several calls where one is shorter."""

MOST_ROUNDS, FEWEST_ROUNDS = 25, 5
_FILLER, _MOST_FILLERS = 1 << 30, 64
"""Bytes that are overwritten to keep a GPU busy, and its cache empty, while a sample is queued; how often at most."""


@dataclass(frozen=True)
class Quartiles:
    """The middle of some numbers, and where the middle half of them lies."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Quartiles:
        """Summarise numbers, at least one."""
        if len(numbers) == 1:
            return cls(numbers[0], numbers[0], numbers[0])
        return cls(*statistics.quantiles(numbers, n=4, method="inclusive"))


@dataclass(frozen=True)
class Timing:
    """What one contestant needed.

    Attributes:
        seconds: of a call.
        ratio: of its time to the baseline's in the same round.
        rounds: how many samples it gave.
        calls: how many calls a sample was.
        faults: page faults of a call, the median; None where the system does not tell.
    """

    seconds: Quartiles
    ratio: Quartiles
    rounds: int
    calls: int
    faults: float | None

    def as_json(self) -> dict[str, Any]:
        """Return plain dictionaries and numbers."""
        return asdict(self)


class Clock(Protocol):
    """Runs some calls and returns the seconds that they took together."""

    def __call__(self, call: Call, first: int, calls: int) -> float: ...


def wall_clock(call: Call, first: int, calls: int) -> float:
    """Time what returns when it is done."""
    start = time.perf_counter()
    for index in range(first, first + calls):
        call(index)
    return time.perf_counter() - start


def synchronised_clock(call: Call, first: int, calls: int) -> float:
    """Time what a GPU does, and the queueing of it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for index in range(first, first + calls):
        call(index)
    torch.cuda.synchronize()
    return time.perf_counter() - start


class EventClock:
    """Times what a GPU does, as in a training that keeps the GPU's queue full.

    Work is queued ahead of the first event for as long as the host needs to queue the sample.
    """

    def __init__(self) -> None:
        self._filler = torch.empty(_FILLER, dtype=torch.uint8, device="cuda")
        self._filler.zero_()
        self._filler_seconds = min(synchronised_clock(lambda _: self._filler.zero_(), 0, 1) for _ in range(5))
        self._queueing: weakref.WeakKeyDictionary[Call, float] = weakref.WeakKeyDictionary()

    def __call__(self, call: Call, first: int, calls: int) -> float:
        torch.cuda.synchronize()
        fillers = 1 + math.ceil(1.5 * calls * self._queueing.get(call, 0.0) / self._filler_seconds)
        for _ in range(min(fillers, _MOST_FILLERS)):
            self._filler.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begun = time.perf_counter()
        start.record()
        for index in range(first, first + calls):
            call(index)
        end.record()
        self._queueing[call] = (time.perf_counter() - begun) / calls
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) * 1e-3


def alternate(contestants: Mapping[str, Call], clock: Clock, seconds: float) -> dict[str, Timing]:
    """Let contestants take turns, in an order that changes with every round.

    The first one, the baseline, is in every round. One that is slower is in as many as its time allows, spread evenly.

    Args:
        contestants: what they do.
        clock: how they are timed.
        seconds: about how long all of it may take, unless the fewest rounds take longer.
    """
    for call in contestants.values():
        clock(call, 0, 1)  # Compiles, allocates, fills caches.
    once = {name: clock(call, 0, 1) for name, call in contestants.items()}
    calls = {name: max(1, math.ceil(SAMPLE / max(one, 1e-9))) for name, one in once.items()}
    sample = {name: one * calls[name] for name, one in once.items()}
    base = sample[next(iter(contestants))]
    rounds = _clamp(seconds / sum(min(one, base) for one in sample.values()), FEWEST_ROUNDS, MOST_ROUNDS)
    share = {
        name: _share(one, max(base, seconds / len(sample) / FEWEST_ROUNDS), rounds) for name, one in sample.items()
    }

    times: dict[str, list[float]] = {name: [] for name in contestants}
    ratios: dict[str, list[float]] = {name: [] for name in contestants}
    faults: dict[str, list[float]] = {name: [] for name in contestants}
    shuffle = random.Random(0).shuffle
    for number in range(rounds):
        order = [name for name in contestants if number * share[name] // rounds != (number - 1) * share[name] // rounds]
        shuffle(order)
        this: dict[str, float] = {}
        for name in order:
            before = _faults()
            this[name] = clock(contestants[name], number, calls[name]) / calls[name]
            times[name].append(this[name])
            faults[name] += [] if before is None else [((_faults() or 0) - before) / calls[name]]
        for name in order:
            ratios[name].append(this[name] / this[next(iter(contestants))])
    return {
        name: Timing(
            Quartiles.of(times[name]),
            Quartiles.of(ratios[name]),
            len(times[name]),
            calls[name],
            statistics.median(faults[name]) if faults[name] else None,
        )
        for name in contestants
    }


def _share(sample: float, usual: float, rounds: int) -> int:
    """Return in how many of the rounds a contestant takes part, whose sample takes this long."""
    if sample <= usual:
        return rounds
    return min(rounds, _clamp(rounds * usual / sample, 3 if sample < 1 else 1, rounds))


def _clamp(value: float, least: int, most: int) -> int:
    return max(least, min(most, int(value)))


def _faults() -> int | None:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else None


def copy_bandwidth(device: str, size: int, seconds: float) -> float:
    """Return the bytes a second, read and written together, at which a large tensor is copied onto another.

    Args:
        device: "cpu" or "cuda".
        size: bytes of the tensor; more than fit into any cache.
        seconds: about how long it may take.
    """
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    clock = wall_clock if device == "cpu" else EventClock()
    timing = alternate({"copy": lambda _: target.copy_(source)}, clock, seconds)["copy"]
    return 2 * size / timing.seconds.median
