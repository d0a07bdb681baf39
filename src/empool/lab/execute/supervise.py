"""The one loop that does a study's runs, wherever they go."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from empool.lab.data.sets import Data
from empool.lab.errors import LabError
from empool.lab.files import read_object, remove_unfinished
from empool.lab.study.run import RunConfig
from empool.lab.train import signals
from empool.lab.train.loop import Row, Watch, fit
from empool.lab.watch.loggers import Loggers
from empool.lab.watch.progress import Progress

_log = logging.getLogger(__name__)
RETRIES = 2  # times that a run is taken up again after its process died

Hear = Callable[..., None]  # a run and what is heard of it: "started"; "advanced", epochs, row; "said", line


class Died(Exception):
    """The process that did a run is gone; the message says of what."""


class Place(Protocol):
    """Where runs are done.

    Attributes:
        slots: runs that it takes at once.
    """

    slots: int

    def device_named(self, device: str) -> str:
        """Choose "cpu" or "cuda", which "auto" stands for.

        Raises:
            LabError: for a device that isn't where the runs go.
        """

    def opened(self, data: Data, directory: Path, loggers: Loggers) -> AbstractContextManager[object]:
        """Get ready for runs of a study; at the end of the context those that are on end after their step."""

    def close(self) -> None:
        """Leave what was joined."""

    def submit(self, run: RunConfig) -> None:
        """Begin a run, or what is left of it."""

    def wait(self, hear: Hear) -> Iterator[tuple[RunConfig, dict[str, Any] | Died]]:
        """Tell what is heard of the runs, and yield those that ended, with their records; soon, even if none has.

        Raises:
            Exception: what a run raised.
        """


def do(run: RunConfig, data: Data, directory: Path, watch: Watch, loggers: Loggers) -> dict[str, Any]:
    """Do a run, in this process."""
    folder = run.folder(directory)
    remove_unfinished(folder)
    if (folder / "result.json").exists():  # The process that wrote it died before it could say so.
        return read_object(folder / "result.json")
    with loggers.journal(run, directory) as journal:
        return fit(run, data, directory, watch, journal)


def supervise(
    place: Place, runs: Sequence[RunConfig], data: Data, directory: Path, progress: Progress, loggers: Loggers
) -> Iterator[dict[str, Any]]:
    """Do runs, beginning them in their order, and yield their records in the order in which they end.

    A run whose process died is taken up again from its checkpoint; if that is in vain, the others go on.

    Raises:
        LabError: after all others if a run could not be done.
        Exception: what a run raised, after the others have ended as SIGTERM ends them.
    """
    left, on = deque(runs), 0
    deaths: Counter[RunConfig] = Counter()
    lost: list[str] = []

    def hear(run: RunConfig, what: str, *rest: Any) -> None:
        if what == "started":
            progress.started(run)
        elif what == "advanced":
            epochs: float = rest[0]
            row: Row | None = rest[1]
            progress.advanced(run, epochs, row)
        else:
            _log.warning("%s: %s", run.title, rest[0])

    with signals.deferred() as term, place.opened(data, directory, loggers):
        while (left or on) and not term.came:
            while left and on < place.slots:
                place.submit(left.popleft())
                on += 1
            for run, outcome in place.wait(hear):
                on -= 1
                if not isinstance(outcome, Died):
                    progress.finished(run, outcome)
                    yield outcome
                    continue
                deaths[run] += 1
                if deaths[run] <= RETRIES:
                    left.appendleft(run)
                    _log.warning("%s: %s; the run goes on in another", run.title, outcome)
                else:
                    lost.append(f"{run.title}: {outcome}, for the {deaths[run]}rd time")
                    _log.warning("%s", lost[-1])
    if lost:
        raise LabError(f"{len(lost)} of {len(runs)} runs were lost ({lost[0]}); the same command tries them again")
