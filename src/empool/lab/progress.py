"""What a study shows while it runs."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # Importing it would load PyTorch, which takes seconds, before anything is shown.
    from empool.lab.run import RunConfig

Row = Mapping[str, float | None]
Key = tuple[str, int]  # of a run in its study: pooling and seed
_QUIET = 30.0  # seconds between lines on one run, where lines cannot be taken back
_COLUMNS = 8  # seeds shown side by side
_ROWS = 8  # runs shown that are on at once


class Progress(Protocol):
    """Is told what happens; a context, in which it shows that."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def begin(self, runs: Sequence[RunConfig], records: Sequence[Mapping[str, Any]]) -> None:
        """Take up a study, with the records of the runs that are done already."""

    def started(self, config: RunConfig) -> None:
        """Note that a run starts, or goes on."""

    def advanced(self, config: RunConfig, epochs: float, row: Row | None) -> None:
        """Note how far a run is; `row` is the epoch's metrics when one ends."""

    def finished(self, config: RunConfig, record: Mapping[str, Any]) -> None:
        """Note that a run is done."""


class Clock:
    """Estimates the time left, from how long runs with the same pooling took and how many run at once."""

    def __init__(self) -> None:
        self.left: list[RunConfig] = []
        self.took: dict[str, list[float]] = defaultdict(list)
        self.began: dict[Key, float] = {}  # of the runs that are on
        self.first: dict[Key, float] = {}  # epochs that a run had done when it was taken up
        self.fractions: dict[Key, float] = {}  # of the runs that are on
        self.abreast = 1  # runs that have been on at once, at most

    def begin(self, runs: Sequence[RunConfig], records: Sequence[Mapping[str, Any]]) -> None:
        """Take up a study."""
        done = {(record["pooling"], record["seed"]) for record in records}
        self.left = [config for config in runs if _key(config) not in done]
        for record in records:
            self.took[record["pooling"]].append(record["seconds"])

    def start(self, config: RunConfig) -> None:
        """Start a run."""
        self._forget(config)
        self.began[_key(config)], self.fractions[_key(config)] = time.monotonic(), 0.0
        self.abreast = max(self.abreast, len(self.began))

    def advance(self, config: RunConfig, epochs: float) -> None:
        """Note how many epochs of the run are done."""
        self.first.setdefault(_key(config), epochs)
        self.fractions[_key(config)] = epochs / config.recipe.epochs

    def finish(self, config: RunConfig, seconds: float) -> None:
        """Note that a run is done."""
        self.took[config.pooling].append(seconds)
        self.left = [other for other in self.left if other != config]
        self._forget(config)

    def fraction(self, config: RunConfig) -> float:
        """Give how much of a run is done; 0 if it is not on."""
        return self.fractions.get(_key(config), 0.0)

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
            progress = self.fraction(run) - self.first.get(_key(run), 0.0) / run.recipe.epochs
            if progress > 0.02 and _key(run) in self.began:
                paces.append((time.monotonic() - self.began[_key(run)]) / progress)
        return paces

    def _forget(self, config: RunConfig) -> None:
        for kept in (self.began, self.first, self.fractions):
            kept.pop(_key(config), None)


class Lines:
    """Progress as plain lines, for a file or a pipe.

    Args:
        file: where they go; by default standard error.
    """

    def __init__(self, file: Any = None) -> None:
        self.file = file or sys.stderr
        self.clock = Clock()
        self.total = 0
        self.said = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=self.file, flush=True)
        self.said = time.monotonic()

    def begin(self, runs: Sequence[RunConfig], records: Sequence[Mapping[str, Any]]) -> None:
        """Print how much there is to do."""
        self.clock.begin(runs, records)
        self.total = len(runs)
        done = self.total - len(self.clock.left)
        counted = "1 run" if self.total == 1 else f"{self.total} runs"
        self.say(f"{counted}, {done} of them done already" if done else counted)

    def started(self, config: RunConfig) -> None:
        """Start the clock."""
        self.clock.start(config)
        self.said = time.monotonic()

    def advanced(self, config: RunConfig, epochs: float, row: Row | None) -> None:
        """Print the state of a run that takes long."""
        self.clock.advance(config, epochs)
        if time.monotonic() - self.said > _QUIET and epochs < config.recipe.epochs:
            metrics = f", {_metrics(row)}" if row else ""
            self.say(f"{_place(config, epochs)}{metrics}{self._left()}")

    def finished(self, config: RunConfig, record: Mapping[str, Any]) -> None:
        """Print the result of a run."""
        self.clock.finish(config, record["seconds"])
        done = self.total - len(self.clock.left)
        self.say(
            f"[{done}/{self.total}] {config.pooling}, seed {config.seed}: {_result(record)} "
            f"({duration(record['seconds'])}){self._left()}"
        )

    def _left(self) -> str:
        seconds = self.clock.seconds_left()
        return f", about {duration(seconds)} left" if seconds else ""


class Screen:
    """Progress on a terminal: a table that fills, what runs, the time left.

    Args:
        console: by default that of standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.clock = Clock()
        self.runs: list[RunConfig] = []
        self.results: dict[tuple[str, int], str] = {}
        self.current: dict[Key, tuple[RunConfig, float, Row | None]] = {}
        self.live = Live(console=self.console, get_renderable=self.render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Screen:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.live.stop()

    def say(self, line: str) -> None:
        """Print a line above the table."""
        self.console.print(Text(line, style="dim"), soft_wrap=True)

    def begin(self, runs: Sequence[RunConfig], records: Sequence[Mapping[str, Any]]) -> None:
        """Lay out the table."""
        self.clock.begin(runs, records)
        self.runs = list(runs)
        self.results = {(record["pooling"], record["seed"]): _short(record) for record in records}

    def started(self, config: RunConfig) -> None:
        """Show which run is on."""
        self.clock.start(config)
        self.current[_key(config)] = config, 0.0, None

    def advanced(self, config: RunConfig, epochs: float, row: Row | None) -> None:
        """Show how far it is; the last metrics stay until the next."""
        self.clock.advance(config, epochs)
        _, _, before = self.current.get(_key(config), (config, 0.0, None))
        self.current[_key(config)] = config, epochs, row or before

    def finished(self, config: RunConfig, record: Mapping[str, Any]) -> None:
        """Fill in the result."""
        self.clock.finish(config, record["seconds"])
        self.results[config.pooling, config.seed] = _short(record)
        self.current.pop(_key(config), None)

    def render(self) -> Group:
        """Draw the state as it is."""
        if not self.runs:
            return Group(Text("starting ...", style="dim"))
        poolings = list(dict.fromkeys(config.pooling for config in self.runs))
        seeds = sorted({config.seed for config in self.runs})
        latest = max((config.seed for config, _, _ in self.current.values()), default=seeds[-1])
        shown = _around(seeds, latest)
        table = Table(title="test error %", title_justify="left", title_style="dim")
        table.add_column("pooling")
        for seed in shown:
            table.add_column(f"seed {seed}", justify="right")
        for pooling in poolings:
            table.add_row(pooling, *(self._cell(pooling, seed) for seed in shown))
        done = len(self.runs) - len(self.clock.left)
        seconds = self.clock.seconds_left()
        left = f"about {duration(seconds)} left" if seconds is not None else ""
        parts: list[Any] = [table]
        for config, epochs, row in list(self.current.values())[:_ROWS]:
            metrics = f"  {_metrics(row)}" if row else ""
            parts.append(Text(_place(config, epochs) + metrics, no_wrap=True, overflow="ellipsis"))
        if len(self.current) > _ROWS:
            parts.append(Text(f"and {len(self.current) - _ROWS} more"))
        begun = sum(self.clock.fractions.values())
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=len(self.runs), completed=done + begun, width=40),
            f"{done} of {len(self.runs)} runs",
            left,
        )
        return Group(*parts, bar)

    def _cell(self, pooling: str, seed: int) -> Text:
        if (pooling, seed) in self.results:
            return Text(self.results[pooling, seed])
        if (pooling, seed) in self.current:
            return Text(f"{self.clock.fractions.get((pooling, seed), 0.0):.0%}", style="cyan")
        return Text("")


def _key(config: RunConfig) -> Key:
    return config.pooling, config.seed


def duration(seconds: float) -> str:
    """Write a time as people say it: "8 s", "12 min", "3 h 20 min"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _around(seeds: Sequence[int], seed: int) -> Sequence[int]:
    """Choose the seeds to show, the current one among them."""
    last = max(seeds.index(seed) + 1, min(_COLUMNS, len(seeds)))
    return seeds[max(0, last - _COLUMNS) : last]


def _place(config: RunConfig, epochs: float) -> str:
    epoch = min(int(epochs) + 1, config.recipe.epochs)
    return f"{config.pooling}, seed {config.seed}: epoch {epoch} of {config.recipe.epochs}"


def _metrics(row: Row) -> str:
    shown = f"loss {row['train_loss']:.3f}, training error {row['train_error']:.1f} %"
    return shown if row["test_error"] is None else f"{shown}, test error {row['test_error']:.1f} %"


def _result(record: Mapping[str, Any]) -> str:
    if not record["converged"]:
        return "did not converge"
    return f"test error {record['test_error']:.2f} %"


def _short(record: Mapping[str, Any]) -> str:
    return f"{record['test_error']:.2f}" if record["converged"] else "diverged"


def progress() -> Progress:
    """Choose how to show progress: on standard error, by whether it is a terminal."""
    return Screen() if Console(stderr=True).is_terminal else Lines()
