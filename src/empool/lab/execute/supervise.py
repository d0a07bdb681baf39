"""The one loop that does a study's missing runs, wherever they go; by default one after another in this process."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from empool.lab.data.sets import DataSet
from empool.lab.errors import LabError
from empool.lab.files import read_object, remove_unfinished
from empool.lab.study import folder
from empool.lab.study.run import RunConfig
from empool.lab.train import processes, signals
from empool.lab.train.device import device_named
from empool.lab.train.loop import Row, Watch, fit
from empool.lab.watch.loggers import Loggers
from empool.lab.watch.progress import Progress

_log = logging.getLogger(__name__)
RETRIES = 2  # times that a run is taken up again after its process died
POLL = 0.2  # seconds between two looks at what the runs say
_PAUSE = 0.5  # seconds between two words of a run within an epoch

Record = dict[str, Any]
Hear = Callable[..., None]  # a run and what is heard of it: "started"; "advanced", epochs, row; "said", line


class Died(Exception):
    """The process that did a run is gone; the message says of what."""


class Here:
    """Where runs are done: in this process and those that `follow`, one after another, or as a subclass says."""

    slots = 1  # runs that it takes at once

    def __init__(self, device: str = "auto") -> None:
        self.device = device_named(device)

    @contextmanager
    def opened(self, data: DataSet, directory: Path, hear: Hear) -> Iterator[None]:
        """Get ready for the runs of a study; at the end of the context those that are on end after their step."""
        self.given, self.hear = (data, directory), hear
        yield
        processes.connected().tell(None)

    def close(self) -> None:
        """Leave what was joined."""

    def submit(self, run: RunConfig) -> Future[Record]:
        """Begin a run, or what is left of it."""
        self.hear(run, "started")
        processes.connected().tell(run)
        done: Future[Record] = Future()
        done.set_result(do(run, lambda epochs, row: self.hear(run, "advanced", epochs, row), *self.given))
        return done

    def listen(self) -> None:
        """Tell `hear` what the runs have said since."""

    def result(self, run: RunConfig, future: Future[Record]) -> Record:
        """Take the record of a run that ended, or raise what it raised; `Died` if its process did."""
        return future.result()


def follow(data: DataSet, directory: Path, together: processes.Processes) -> None:
    """Do a process's share of the runs that the first process does."""
    while (run := together.tell(None)) is not None:
        fit(run, data, directory)


def do(run: RunConfig, watch: Watch, data: DataSet, directory: Path) -> Record:
    """Do a run, in this process."""
    where = run.folder(directory)
    remove_unfinished(where)
    if (where / "result.json").exists():  # The process that wrote it died before it could say so.
        return read_object(where / "result.json")
    return fit(run, data, directory, watch)


class _Words(logging.Handler):
    """Sends how far a run is, not more often than someone would look, and what is logged."""

    def __init__(self, send: Callable[[tuple[Any, ...]], object]) -> None:
        super().__init__(logging.INFO)
        self.send, self.sent = send, 0.0

    def watch(self, epochs: float, row: Row | None) -> None:
        """Say how far it is; what `fit` takes to watch it."""
        now = time.monotonic()
        if row is not None or now - self.sent > _PAUSE:
            self.sent = now
            self.send(("advanced", epochs, row))

    def emit(self, record: logging.LogRecord) -> None:
        """Say what was logged."""
        self.send(("said", record.getMessage()))


def do_telling(send: Callable[[tuple[Any, ...]], object], threads: int, run: RunConfig, *given: Any) -> Record:
    """Do a run in a process of its own, which sends to that of the study what `hear` takes there."""
    torch.set_num_threads(threads)
    words, log = _Words(send), logging.getLogger("empool.lab")
    log.handlers[:], log.propagate = [words], False
    log.setLevel(logging.INFO)
    send(("started",))
    return do(run, words.watch, *given)


def carry_out(
    directory: Path, runs: list[RunConfig], data: DataSet, place: Here, shown: Progress, loggers: Loggers, command: str
) -> list[Record]:
    """Do the runs of a study that are missing, and gather all results in results.json after each.

    The loggers are told of runs too that had ended before these were asked for.
    """
    with folder.opened(directory):
        folder.claim(directory, runs, command)
        done = {(record["pooling"], record["seed"]): record for record in folder.gather(directory)}
        missing = [run for run in runs if (run.pooling, run.seed) not in done]
        with loggers.opened(directory):
            for run in runs:
                if record := done.get((run.pooling, run.seed)):
                    loggers.finished(run, record)
            shown.begin(runs, missing)
            try:
                for record in _supervise(place, missing, data, directory, shown, loggers):
                    done[record["pooling"], record["seed"]] = record
                    folder.gather(directory)
            finally:
                folder.gather(directory)  # A run may have ended just before an interrupt.
        return [done[run.pooling, run.seed] for run in runs]


def _supervise(
    place: Here, runs: Sequence[RunConfig], data: DataSet, directory: Path, shown: Progress, loggers: Loggers
) -> Iterator[Record]:
    """Do runs, beginning them in their order, and yield their records in the order in which they end.

    A run whose process died is taken up again from its checkpoint; if that is in vain, LabError says so after all
    others. What else a run raises is raised after the others have ended as SIGTERM ends them.
    """
    left, on = deque(runs), dict[Future[Record], RunConfig]()
    deaths: Counter[RunConfig] = Counter()
    lost: list[RunConfig] = []

    def hear(run: RunConfig, what: str, *rest: Any) -> None:
        if what == "said":
            _log.warning("%s: %s", run.title, *rest)
        else:
            getattr(shown, what)(run, *rest)
        if what == "advanced":
            loggers.advanced(run, *rest)

    with signals.deferred() as term, place.opened(data, directory, hear):
        while (left or on) and not term:
            while left and len(on) < place.slots:
                run = left.popleft()
                on[place.submit(run)] = run
            ended, _ = wait(on, POLL, FIRST_COMPLETED)
            place.listen()
            for future in ended:
                run = on.pop(future)
                try:
                    record = place.result(run, future)
                except Died as death:
                    deaths[run] += 1
                    again = deaths[run] <= RETRIES
                    (left.appendleft if again else lost.append)(run)
                    then = "the run goes on in another" if again else "it is left out"
                    _log.warning("%s: %s; %s", run.title, death, then)
                else:
                    shown.finished(run, record)
                    loggers.finished(run, record)
                    yield record
    if lost:
        named = "; ".join(run.title for run in lost)
        raise LabError(f"{len(lost)} of {len(runs)} runs were lost ({named}); the same command tries them again")
