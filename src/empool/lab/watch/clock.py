"""How long a study will still take, and how fast its runs are."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # Importing it would load PyTorch, which takes seconds, before anything is shown.
    from empool.lab.study.run import RunConfig
Row = Mapping[str, float | None]
Key = tuple[str, int]  # of a run in its study: pooling and seed
_WINDOW = 1.0  # seconds over which a speed is worth showing


def key(config: RunConfig) -> Key:
    """Give a run's place in its study."""
    return config.pooling, config.seed


class Clock:
    """Estimates the time left, from how long runs with the same pooling took and how many run at once."""

    def __init__(self) -> None:
        self.left: list[RunConfig] = []
        self.took: dict[str, list[float]] = defaultdict(list)
        self.began: dict[Key, float] = {}  # of the runs that are on
        self.first: dict[Key, float] = {}  # epochs that a run had done when it was taken up
        self.fractions: dict[Key, float] = {}  # of the runs that are on
        self.abreast = 1  # runs that have been on at once, at most
        self.images = 0  # of an epoch
        self.speeds: dict[Key, float] = {}  # images per second of the runs that are on, where they can be told
        self.since: dict[Key, tuple[float, float]] = {}  # time and epochs at the first step seen of this epoch

    def begin(self, runs: Sequence[RunConfig], records: Sequence[Mapping[str, Any]], images: int = 0) -> None:
        """Take up a study; `images` are those of an epoch, 0 if that is not known."""
        self.images = images
        done = {(record["pooling"], record["seed"]) for record in records}
        self.left = [config for config in runs if key(config) not in done]
        for record in records:
            self.took[record["pooling"]].append(record["seconds"])

    def start(self, config: RunConfig) -> None:
        """Start a run."""
        self._forget(config)
        self.began[key(config)], self.fractions[key(config)] = time.monotonic(), 0.0
        self.abreast = max(self.abreast, len(self.began))

    def advance(self, config: RunConfig, epochs: float, row: Row | None = None) -> None:
        """Note how many epochs of the run are done; `row` is the epoch's metrics when one ends."""
        self._measure(config, epochs, row)
        self.first.setdefault(key(config), epochs)
        self.fractions[key(config)] = epochs / config.recipe.epochs

    def finish(self, config: RunConfig, seconds: float) -> None:
        """Note that a run is done."""
        self.took[config.pooling].append(seconds)
        self.left = [other for other in self.left if other != config]
        self._forget(config)

    def fraction(self, config: RunConfig) -> float:
        """Give how much of a run is done; 0 if it is not on."""
        return self.fractions.get(key(config), 0.0)

    def speed(self, config: RunConfig) -> float | None:
        """Give the images per second of a run that is on, of this epoch or the one before; None while unknown."""
        return self.speeds.get(key(config))

    def seconds_left(self) -> float | None:
        """Estimate; None while nothing is known."""
        known = [seconds for runs in self.took.values() for seconds in runs] or self._paces()
        if not known:
            return None
        typical = sum(known) / len(known)
        expected = [
            (sum(t) / len(t) if (t := self.took.get(run.pooling)) else typical) * (1 - self.fraction(run))
            for run in self.left
        ]
        return max(sum(expected) / self.abreast, *expected) if expected else 0.0

    def _paces(self) -> list[float]:
        """Give the seconds that each run would take from beginning to end as it goes, where that can be told."""
        paces = []
        for run in self.left:
            progress = self.fraction(run) - self.first.get(key(run), 0.0) / run.recipe.epochs
            if progress > 0.02 and key(run) in self.began:
                paces.append((time.monotonic() - self.began[key(run)]) / progress)
        return paces

    def _measure(self, config: RunConfig, epochs: float, row: Row | None) -> None:
        now, run = time.monotonic(), key(config)
        if row is not None:  # What follows is not training until the next step is told.
            self.since.pop(run, None)
            if speed := row.get("images_per_second"):
                self.speeds[run] = speed
            return
        then, before = self.since.setdefault(run, (now, epochs))
        if self.images and now - then >= _WINDOW:
            self.speeds[run] = self.images * (epochs - before) / (now - then)

    def _forget(self, config: RunConfig) -> None:
        kept_each: tuple[dict[Key, Any], ...] = (self.began, self.first, self.fractions, self.speeds, self.since)
        for kept in kept_each:
            kept.pop(key(config), None)
