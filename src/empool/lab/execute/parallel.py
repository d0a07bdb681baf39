"""Several runs of a study at once on this machine, each in a process of its own."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from traceback import format_exc
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from empool.lab.data.sets import Data
from empool.lab.errors import LabError, refusal
from empool.lab.execute.words import Words, named
from empool.lab.files import read_json, remove_unfinished
from empool.lab.study.run import RunConfig
from empool.lab.train import signals
from empool.lab.watch.progress import Progress

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

    from typing_extensions import Self

    from empool.lab.watch.loggers import Loggers

RETRIES = 1  # times that a run is taken up again after its process died
_IMPORTED = ["empool.lab.train.training"]  # what takes seconds to import, so not at the top here either
_POLL = 0.2  # seconds between two looks whether SIGTERM came
_GRACE = 15.0  # seconds that runs have to end by themselves after Ctrl-C or an error
_EXIT = 5.0  # seconds that the system may take to tell what a process died of


def warm_up(device: str) -> None:
    """Begin to import what the runs' processes need, in the one that they are forked from, and do not wait for it.

    Args:
        device: "auto", "cpu" or "cuda".
    """
    context = _context(device)
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(_IMPORTED)
        with signals.uninterrupted():
            forkserver.ensure_running()


@dataclass(eq=False)
class _Worker:
    """A process that does one run after another.

    Attributes:
        process: it.
        pipe: to it.
        run: that it does, or will do once it is ready; None if there is no more to do.
    """

    process: BaseProcess
    pipe: Connection[Any, Any]
    run: RunConfig | None


class OnThisMachine:
    """What the launchers have in common that send runs nowhere else."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def device_named(self, device: str) -> str:
        """Look at this machine."""
        from empool.lab.train import options

        return options.device_named(device)


class Parallel(OnThisMachine):
    """Several runs at once on this machine, which share its cores, or its one GPU; a launcher.

    Args:
        jobs: runs at once; each takes this process's number of PyTorch's threads divided by it.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.workers: list[_Worker] = []
        self.left: deque[RunConfig] = deque()
        self.deaths: Counter[RunConfig] = Counter()
        self.lost: list[str] = []  # runs that could not be done, with what they died of

    def launch(
        self, runs: Sequence[RunConfig], data: Data, directory: Path, progress: Progress, loggers: Loggers
    ) -> Iterator[dict[str, Any]]:
        """Do runs, beginning them in their order, and yield their records in the order in which they end.

        A run whose process died is taken up again from its checkpoint; if that is in vain, the others go on.

        Raises:
            LabError: after all others if a run could not be done.
            Exception: what a run raised, after the others have ended as SIGTERM ends them.
        """
        self.left, self.deaths, self.lost = deque(runs), Counter(), []
        with signals.deferred() as term:
            try:
                yield from self._launch(pickle.dumps((data, loggers)), directory, progress, term)
            finally:
                workers, self.workers = self.workers, []
                _end(workers, None if term.came else _GRACE)
        if self.lost:
            raise LabError(
                f"{len(self.lost)} of {len(runs)} runs were lost ({self.lost[0]}); the same command tries them again"
            )

    def _launch(
        self, common: bytes, directory: Path, progress: Progress, term: signals.Deferred
    ) -> Iterator[dict[str, Any]]:
        while (self.left or any(worker.run for worker in self.workers)) and not term.came:
            while self.left and len(self.workers) < self.jobs:
                self.workers.append(_start(self.left.popleft(), directory, self.jobs))
            for worker, word in _heard(self.workers):
                config = worker.run
                if word is None:
                    self._bury(worker, progress)
                    continue
                assert config is not None
                what, *rest = word
                if what == "ready":
                    with contextlib.suppress(ConnectionError):  # Its death is heard next.
                        worker.pipe.send_bytes(common)
                    _give(worker, progress)
                elif what == "finished":
                    progress.finished(config, rest[0])
                    worker.run = self.left.popleft() if self.left else None
                    if worker.run is not None:
                        _give(worker, progress)
                    yield rest[0]
                elif what == "failed":
                    error, traceback = rest
                    raise error from RuntimeError(traceback)
                elif what == "said":
                    progress.say(f"{named(config)}: {rest[0]}")
                else:
                    progress.advanced(config, *rest)

    def _bury(self, worker: _Worker, progress: Progress) -> None:
        """Have the run of a process that died done by another, if it is the first time."""
        self.workers.remove(worker)
        died, config = _death(worker), worker.run
        if config is None:
            return
        self.deaths[config] += 1
        if self.deaths[config] <= RETRIES:
            self.left.appendleft(config)
            progress.say(f"{named(config)}: {died}; the run goes on in another")
        else:
            self.lost.append(f"{named(config)}: {died}, like the one before")
            progress.say(self.lost[-1])


def _context(device: str) -> ForkServerContext | SpawnContext:
    """Choose how processes are started.

    Those that are forked from one that has imported everything start at once. On a GPU they are not, since an import
    may have asked CUDA for its devices, after which no fork can use them; elsewhere than on Linux, system libraries
    forbid it.
    """
    if sys.platform == "linux" and device != "cuda":
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


def _start(run: RunConfig, directory: Path, jobs: int) -> _Worker:
    """Start a process, and say which run it will do."""
    warm_up(run.device)
    ours, theirs = multiprocessing.Pipe()
    arguments = (theirs, directory, max(1, torch.get_num_threads() // jobs))
    # Not a daemon, since those may not have processes of their own, such as load images.
    process = _context(run.device).Process(target=_work, args=arguments, daemon=False)
    with signals.uninterrupted():
        process.start()
    theirs.close()  # So that ours ends when the process does.
    return _Worker(process, ours, run)


def _give(worker: _Worker, progress: Progress) -> None:
    """Let it do its run."""
    assert worker.run is not None
    progress.started(worker.run)
    with contextlib.suppress(ConnectionError):  # Its death is heard next.
        worker.pipe.send(worker.run)


def _heard(workers: Sequence[_Worker]) -> Iterator[tuple[_Worker, tuple[Any, ...] | None]]:
    """Give a word of each process that has said one, or None for one that has died."""
    speaking = connection.wait([worker.pipe for worker in workers], _POLL)
    for worker in [worker for worker in workers if worker.pipe in speaking]:
        try:
            yield worker, worker.pipe.recv()
        except (EOFError, ConnectionError):
            yield worker, None


def _death(worker: _Worker) -> str:
    """Say how a process died."""
    worker.process.join(_EXIT)
    worker.pipe.close()
    code = worker.process.exitcode
    if code is None or code >= 0:
        return f"its process {worker.process.pid} ended with exit code {code}"
    memory = ", often for want of memory" if code == -signal.SIGKILL else ""
    return f"its process {worker.process.pid} was killed by {signal.Signals(-code).name}{memory}"


def _end(workers: Sequence[_Worker], grace: float | None) -> None:
    """End runs after their step, and their processes; what they did up to the last whole epoch stays.

    Args:
        workers: the processes.
        grace: seconds that they have before they are killed; None: as long as it takes.
    """
    end = math.inf if grace is None else time.monotonic() + grace
    alive = list(workers)
    try:
        for worker in workers:
            worker.process.terminate()
        while alive and time.monotonic() < end:
            alive = [worker for worker in alive if worker not in {dead for dead, word in _heard(alive) if word is None}]
    finally:
        for worker in workers:
            if worker in alive:
                worker.process.kill()
            worker.process.join(_EXIT)
            worker.pipe.close()


class _ToParent(Words):
    """Tells the process of the study how far a run is."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        super().__init__()
        self.pipe = pipe

    def say(self, *words: object) -> None:
        self.pipe.send(words)


def _work(pipe: Connection[Any, Any], directory: Path, threads: int) -> None:
    """Do the runs that come through a pipe, and send back each record, or the error that ends the study."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The terminal sends Ctrl-C to all; the parent ends its processes.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    pipe.send(("ready",))
    try:
        data, loggers = pickle.loads(pipe.recv_bytes())
        while True:
            pipe.send(_done(pipe.recv(), data, directory, _ToParent(pipe), loggers))
    except (EOFError, ConnectionError):  # There is no parent any more.
        return
    except signals.Terminated as terminated:
        sys.exit(signals.exit_code(terminated))


def _end_with_parent() -> None:
    """Die when the parent does: what it would have gathered, another study may already be doing again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _done(config: RunConfig, data: Data, directory: Path, words: Words, loggers: Loggers) -> tuple[Any, ...]:
    """Do a run; return its record, or its error with the traceback."""
    from empool.lab.train.training import fit

    folder = config.folder(directory)
    result = folder / "result.json"
    try:
        remove_unfinished(folder)
        if result.exists():  # The process that wrote it died before it could say so.
            return "finished", read_json(result)
        return "finished", fit(config, data, directory, words, lambda line: words.say("said", line), loggers)
    except Exception as error:
        return "failed", _sendable(error), format_exc()


def _sendable(error: Exception) -> Exception:
    """Give an error that can be pickled, and says itself what its cause, which is left behind, said."""
    refused = refusal(error)
    if refused is not None:  # PyTorch reports it as its own.
        return OSError(refused.errno, refused.strerror, refused.filename)
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
