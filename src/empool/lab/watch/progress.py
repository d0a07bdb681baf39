"""What a study shows while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from empool.lab.watch.clock import Clock, Key, Row, key

if TYPE_CHECKING:  # Importing it would load PyTorch, which takes seconds, before anything is shown.
    from empool.lab.study.run import RunConfig

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

    def begin(self, runs: Sequence[RunConfig], records: Sequence[Mapping[str, Any]], images: int = 0) -> None:
        """Take up a study, with the records of the runs that are done already; `images` are those of an epoch."""

    def started(self, config: RunConfig) -> None:
        """Note that a run starts, or goes on."""

    def advanced(self, config: RunConfig, epochs: float, row: Row | None) -> None:
        """Note how far a run is; `row` is the epoch's metrics when one ends."""

    def finished(self, config: RunConfig, record: Mapping[str, Any]) -> None:
        """Note that a run is done."""


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

    def begin(self, runs: Sequence[RunConfig], records: Sequence[Mapping[str, Any]], images: int = 0) -> None:
        """Print how much there is to do."""
        self.clock.begin(runs, records, images)
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
        self.clock.advance(config, epochs, row)
        if time.monotonic() - self.said > _QUIET and epochs < config.recipe.epochs:
            known = ", ".join((_place(config, epochs), *_metrics(row), *_speed(self.clock, config)))
            self.say(f"{known}{self._left()}")

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

    def begin(self, runs: Sequence[RunConfig], records: Sequence[Mapping[str, Any]], images: int = 0) -> None:
        """Lay out the table."""
        self.clock.begin(runs, records, images)
        self.runs = list(runs)
        self.results = {(record["pooling"], record["seed"]): _short(record) for record in records}

    def started(self, config: RunConfig) -> None:
        """Show which run is on."""
        self.clock.start(config)
        self.current[key(config)] = config, 0.0, None

    def advanced(self, config: RunConfig, epochs: float, row: Row | None) -> None:
        """Show how far it is; the last metrics stay until the next."""
        self.clock.advance(config, epochs, row)
        _, _, before = self.current.get(key(config), (config, 0.0, None))
        self.current[key(config)] = config, epochs, row or before

    def finished(self, config: RunConfig, record: Mapping[str, Any]) -> None:
        """Fill in the result."""
        self.clock.finish(config, record["seconds"])
        self.results[config.pooling, config.seed] = _short(record)
        self.current.pop(key(config), None)

    def render(self) -> Group:
        """Draw the state as it is."""
        if not self.runs:
            return Group(Text("starting ...", style="dim"))
        poolings = list(dict.fromkeys(config.pooling for config in self.runs))
        seeds = sorted({config.seed for config in self.runs})
        latest = max((config.seed for config, _, _ in self.current.values()), default=seeds[-1])
        width = self.console.width
        shown = _around(seeds, latest, (width - max(map(len, poolings)) - 4) // len("│ seed 0 "))
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
            pieces = (_place(config, epochs), *_metrics(row), *_speed(self.clock, config))
            parts.append(Text(_filled(pieces, width)))
        if len(self.current) > _ROWS:
            parts.append(Text(f"and {len(self.current) - _ROWS} more"))
        begun = sum(self.clock.fractions.values())
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=len(self.runs), completed=done + begun, width=max(8, min(40, width - 34))),
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


def duration(seconds: float) -> str:
    """Write a time as people say it: "8 s", "12 min", "3 h 20 min"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _around(seeds: Sequence[int], seed: int, room: int) -> Sequence[int]:
    """Choose the seeds to show, the current one among them."""
    columns = max(1, min(_COLUMNS, room))
    last = max(seeds.index(seed) + 1, min(columns, len(seeds)))
    return seeds[max(0, last - columns) : last]


def _filled(pieces: Sequence[str], width: int) -> str:
    """Write pieces beside each other, and on further lines, set in, those for which there is no room."""
    lines = [pieces[0]]
    for piece in pieces[1:]:
        if len(lines[-1]) + 2 + len(piece) > width:
            lines.append("")
        lines[-1] += f"  {piece}"
    return "\n".join(lines)


def _place(config: RunConfig, epochs: float) -> str:
    epoch = min(int(epochs) + 1, config.recipe.epochs)
    return f"{config.pooling}, seed {config.seed}: epoch {epoch} of {config.recipe.epochs}"


def _metrics(row: Row | None) -> list[str]:
    if row is None:
        return []
    shown = [f"loss {row['train_loss']:.3f}", f"training error {row['train_error']:.1f} %"]
    return shown if row["test_error"] is None else [*shown, f"test error {row['test_error']:.1f} %"]


def _speed(clock: Clock, config: RunConfig) -> list[str]:
    speed = clock.speed(config)
    return [] if speed is None else [f"{speed:,.{0 if speed >= 10 else 1}f} images/s"]


def _result(record: Mapping[str, Any]) -> str:
    if not record["converged"]:
        return "did not converge"
    return f"test error {record['test_error']:.2f} %"


def _short(record: Mapping[str, Any]) -> str:
    return f"{record['test_error']:.2f}" if record["converged"] else "diverged"


def progress() -> Progress:
    """Choose how to show progress: on standard error, by whether it is a terminal."""
    console = Console(stderr=True)  # A dumb terminal cannot take back what it shows.
    return Screen(console) if console.is_terminal and not console.is_dumb_terminal else Lines()
