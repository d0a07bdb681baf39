"""What a study shows while it runs, and how long it will still take."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import progress as bars
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:  # Importing it would load PyTorch, which takes seconds, before anything is shown.
    from typing_extensions import Self

    from empool.lab.study.run import RunConfig

_QUIET = 30.0  # seconds between lines on one run, where lines cannot be taken back
_LEAST = 0.02  # share of the work that must be done before the rest is estimated
Row = Mapping[str, Any]


class Progress(logging.Handler):
    """Is told what happens, and shows it; a context, in which it shows what the lab logs too.

    Attributes:
        runs: of the study.
        left: epochs that each run has before it, of those that are not done.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.runs: Sequence[RunConfig] = ()
        self.left: dict[RunConfig, float] = {}
        self.first: dict[RunConfig, float] = {}  # epochs that a run had before it when it was taken up
        self.began = self.worked = 0.0

    def __enter__(self) -> Self:
        self.log = logging.getLogger("empool.lab")
        self.before = self.log.handlers[:], self.log.level, self.log.propagate
        self.log.handlers[:], self.log.propagate = [self], False
        self.log.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.log.handlers[:], level, self.log.propagate = self.before
        self.log.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        """Show what was logged."""
        self.say(record.getMessage())

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def begin(self, runs: Sequence[RunConfig], records: Sequence[Mapping[str, Any]]) -> None:
        """Take up a study, with the records of the runs that are done already."""
        done = {(record["pooling"], record["seed"]) for record in records}
        self.runs = runs
        self.left = {run: float(run.training.epochs) for run in runs if (run.pooling, run.seed) not in done}
        self.began = time.monotonic()
        counted = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
        before = len(runs) - len(self.left)
        self.say(f"{counted}, {before} of them done already" if before else counted)

    def started(self, run: RunConfig) -> None:
        """Note that a run starts, or goes on."""
        self.first.pop(run, None)

    def advanced(self, run: RunConfig, epochs: float, row: Row | None) -> None:
        """Note how far a run is; `row` is the epoch's metrics when one ends."""
        left = run.training.epochs - epochs
        before = self.left.get(run, left) if run in self.first else left
        self.first.setdefault(run, left)
        self.worked += max(0.0, before - left)
        self.left[run] = left

    def finished(self, run: RunConfig, record: Mapping[str, Any]) -> None:
        """Note that a run is done."""
        self.left.pop(run, None)
        result = f"test error {record['test_error']:.2f} %" if record["converged"] else "did not converge"
        done = len(self.runs) - len(self.left)
        self.say(f"[{done}/{len(self.runs)}] {run.title}: {result} ({duration(record['seconds'])}){self._rest()}")

    def seconds_left(self) -> float | None:
        """Estimate the time that is left, from that of the epochs done; None while too little is known."""
        left = sum(self.left.values())
        if self.worked < _LEAST * (left + self.worked):
            return None
        return (time.monotonic() - self.began) / self.worked * left if self.worked else None

    def _rest(self) -> str:
        seconds = self.seconds_left()
        return f", about {duration(seconds)} left" if seconds else ""


class Quiet(Progress):
    """Shows nothing."""


class Lines(Progress):
    """Progress as plain lines, for a file or a pipe.

    Args:
        file: where they go; by default standard error.
    """

    def __init__(self, file: Any = None) -> None:
        super().__init__()
        self.file = file or sys.stderr
        self.said = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=self.file, flush=True)
        self.said = time.monotonic()

    def advanced(self, run: RunConfig, epochs: float, row: Row | None) -> None:
        """Print the state of a run that takes long."""
        super().advanced(run, epochs, row)
        if time.monotonic() - self.said > _QUIET and epochs < run.training.epochs:
            self.say(f"{run.title}: {state(run, epochs, row)}{self._rest()}")


class Screen(Progress):
    """Progress on a terminal: a bar for the study and one for each run that is on.

    Args:
        console: by default that of standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or Console(stderr=True)
        self.bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=20),
            bars.TextColumn("{task.fields[known]}", style="dim"),
            console=self.console,
            transient=True,
        )
        self.whole = self.bars.add_task("study", total=None, known="starting ...")
        self.tasks: dict[RunConfig, bars.TaskID] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bars.stop()
        super().__exit__(kind, error, traceback)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(Text(line), soft_wrap=True)

    def started(self, run: RunConfig) -> None:
        """Add the run's bar."""
        super().started(run)
        if run not in self.tasks:
            self.tasks[run] = self.bars.add_task(run.title, total=run.training.epochs, known="")

    def advanced(self, run: RunConfig, epochs: float, row: Row | None) -> None:
        """Move the bars; the last metrics stay until the next."""
        super().advanced(run, epochs, row)
        if run in self.tasks:
            self.bars.update(self.tasks[run], completed=epochs)
            if row is not None:
                self.bars.update(self.tasks[run], known=state(run, epochs, row))
        total = sum(other.training.epochs for other in self.runs)
        done = f"{len(self.runs) - len(self.left)} of {len(self.runs)} runs{self._rest()}"
        self.bars.update(self.whole, total=total, completed=total - sum(self.left.values()), known=done)

    def finished(self, run: RunConfig, record: Mapping[str, Any]) -> None:
        """Take the run's bar away, and leave its result."""
        super().finished(run, record)
        if run in self.tasks:
            self.bars.remove_task(self.tasks.pop(run))


def state(run: RunConfig, epochs: float, row: Row | None) -> str:
    """Say how far a run is, and how good."""
    parts = [f"epoch {min(int(epochs) + 1, run.training.epochs)} of {run.training.epochs}"]
    if row is not None:
        parts += [f"loss {row['train_loss']:.3f}", f"training error {row['train_error']:.1f} %"]
        parts += [f"test error {row['test_error']:.1f} %"] if row["test_error"] is not None else []
        parts += [f"{row['images_per_second']:,.0f} images/s"]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Write a time as people say it: "8 s", "12 min", "3 h 20 min"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def progress() -> Progress:
    """Choose how to show progress: on standard error, by whether it is a terminal."""
    console = Console(stderr=True)  # A dumb terminal cannot take back what it shows.
    return Screen(console) if console.is_terminal and not console.is_dumb_terminal else Lines()
