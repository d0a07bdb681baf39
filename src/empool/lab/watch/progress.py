"""What a study shows while it runs, and how long it will still take."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from rich import progress as bars
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:  # Importing it would load PyTorch, which takes seconds, before anything is shown.
    from empool.lab.study.run import RunConfig

_log = logging.getLogger("empool.lab")
_QUIET = 30.0  # seconds between lines on one run, where there are no bars
_LEAST = 0.02  # share of the work that must be done before the rest is estimated


class Progress(logging.Handler):
    """Shows what happens and, while it is entered, what the lab logs: lines, and on a terminal bars below them."""

    def __init__(self, file: IO[str] | None = None, *, quiet: bool = False, console: Console | None = None) -> None:
        super().__init__(logging.INFO)
        self.console = console or Console(file=file, stderr=file is None, quiet=quiet)
        self.bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=20),
            bars.TextColumn("{task.fields[known]}", style="dim"),
            console=self.console,
            transient=True,
            disable=not self.console.is_interactive,
        )
        self.whole = self.bars.add_task("study", total=None, known="starting ...")
        self.tasks: dict[RunConfig, bars.TaskID] = {}
        self.runs: Sequence[RunConfig] = ()
        self.left: dict[RunConfig, float] = {}  # epochs before each run that is not done
        self.on: set[RunConfig] = set()  # runs of which it is known where they started or went on
        self.worked = 0.0  # epochs done since the beginning
        self.began = self.said = time.monotonic()

    def __enter__(self) -> Progress:
        self.before = _log.level, _log.propagate
        _log.addHandler(self)
        _log.setLevel(logging.INFO)
        _log.propagate = False
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()
        _log.removeHandler(self)
        level, _log.propagate = self.before
        _log.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        """Show what was logged."""
        self.say(record.getMessage())

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self.console.print(Text(line), soft_wrap=True)
        self.said = time.monotonic()

    def begin(self, runs: Sequence[RunConfig], missing: Sequence[RunConfig]) -> None:
        """Take up a study."""
        self.runs, self.left = runs, {run: float(run.training.epochs) for run in missing}
        self.began = time.monotonic()
        before = len(runs) - len(self.left)
        done = f", {before} done already" if before else ""
        self.say(f"{len(runs)} run{'s' * (len(runs) > 1)}{done}")

    def started(self, run: RunConfig) -> None:
        """Note that a run starts, or goes on."""
        self.on.discard(run)
        if run not in self.tasks:
            self.tasks[run] = self.bars.add_task(run.title, total=run.training.epochs, known="")

    def advanced(self, run: RunConfig, epochs: float, row: Mapping[str, Any] | None) -> None:
        """Note how far a run is; `row` is the epoch's metrics when one ends."""
        left = run.training.epochs - epochs
        if run in self.on:
            self.worked += max(0.0, self.left[run] - left)
        self.on.add(run)
        self.left[run] = left
        known: Any = {} if row is None else {"known": state(run, epochs, row)}
        self.bars.update(self.tasks[run], completed=epochs, **known)
        total = sum(other.training.epochs for other in self.runs)
        done = f"{len(self.runs) - len(self.left)} of {len(self.runs)} runs{self.rest()}"
        self.bars.update(self.whole, total=total, completed=total - sum(self.left.values()), known=done)
        if not self.console.is_interactive and time.monotonic() - self.said > _QUIET and left > 0:
            self.say(f"{run.title}: {state(run, epochs, row)}{self.rest()}")

    def finished(self, run: RunConfig, record: Mapping[str, Any]) -> None:
        """Note that a run is done, and show its result."""
        self.left.pop(run, None)
        self.bars.remove_task(self.tasks.pop(run))
        done = f"[{len(self.runs) - len(self.left)}/{len(self.runs)}]"
        self.say(f"{done} {run.title}: {result(record)} ({duration(record['seconds'])}){self.rest()}")

    def rest(self) -> str:
        """Estimate the time that is left, from that of the epochs done; say nothing while too little is known."""
        left = sum(self.left.values())
        if not left or not self.worked or self.worked < _LEAST * (left + self.worked):
            return ""
        return f", about {duration((time.monotonic() - self.began) / self.worked * left)} left"


def state(run: RunConfig, epochs: float, row: Mapping[str, Any] | None) -> str:
    """Say how far a run is, and how good."""
    parts = [f"epoch {min(int(epochs) + 1, run.training.epochs)} of {run.training.epochs}"]
    if row is not None:
        parts += [f"loss {row['train_loss']:.3f}", f"training error {row['train_error']:.1f} %"]
        parts += [f"test error {row['test_error']:.1f} %"] if row["test_error"] is not None else []
        parts += [f"{row['images_per_second']:,.0f} images/s"]
    return ", ".join(parts)


def result(record: Mapping[str, Any]) -> str:
    """Say what a run came to."""
    return f"test error {record['test_error']:.2f} %" if record["converged"] else "did not converge"


def duration(seconds: float) -> str:
    """Write a time as people say it: "8 s", "12 min", "3 h 20 min"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
