"""Several runs at once on this machine, each in a process of its own."""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from traceback import format_exc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

    from empool.lab.data.sets import Data
    from empool.lab.execute.supervise import Died, Hear
    from empool.lab.study.run import RunConfig
    from empool.lab.watch.loggers import Loggers

_IMPORTED = ["empool.lab.execute.supervise"]  # what takes seconds to import
_POLL = 0.2  # seconds between two looks whether SIGTERM came
_GRACE = 15.0  # seconds that runs have to end by themselves after Ctrl-C or an error
_EXIT = 5.0  # seconds that the system may take to tell what a process died of
_PAUSE = 0.5  # seconds between two words within an epoch


def warm_up(device: str) -> None:
    """Begin to import what the runs' processes need, in the one that they are forked from, and do not wait for it.

    Args:
        device: "auto", "cpu" or "cuda".
    """
    context = _context(device)
    if context.get_start_method() == "forkserver":
        from empool.lab.train import signals

        context.set_forkserver_preload(_IMPORTED)
        with signals.uninterrupted():
            forkserver.ensure_running()


def _context(device: str) -> ForkServerContext | SpawnContext:
    """Choose how processes are started.

    Those that are forked from one that has imported everything start at once. On a GPU they are not, since an import
    may have asked CUDA for its devices, after which no fork can use them; elsewhere than on Linux, system libraries
    forbid it.
    """
    if sys.platform == "linux" and device != "cuda":
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


class Processes:
    """Processes on this machine, which share its cores, or its one GPU.

    Args:
        slots: runs at once; each takes this process's number of PyTorch's threads divided by it.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.on: dict[Connection[Any, Any], tuple[RunConfig, BaseProcess]] = {}  # by the pipe from it

    def device_named(self, device: str) -> str:
        """Look at this machine."""
        from empool.lab.train.device import device_named

        return device_named(device)

    def close(self) -> None:
        """There is nothing to leave."""

    @contextmanager
    def opened(self, data: Data, directory: Path, loggers: Loggers) -> Iterator[None]:
        """Take what the processes are given; end them at the end, and at once after an error."""
        import torch.multiprocessing  # Processes then share the images' memory.

        self.given = data, directory, loggers, max(1, torch.get_num_threads() // self.slots)
        try:
            yield
        except BaseException:
            self._end(_GRACE)
            raise
        self._end(None)

    def submit(self, run: RunConfig) -> None:
        """Start a process for a run."""
        from empool.lab.train import signals

        warm_up(run.device)
        ours, theirs = multiprocessing.Pipe(duplex=False)
        # Not a daemon, since those may not have processes of their own, such as load images.
        process = _context(run.device).Process(target=_work, args=(theirs, run, *self.given), daemon=False)
        with signals.uninterrupted():
            process.start()
        theirs.close()  # So that ours ends when the process does.
        self.on[ours] = run, process

    def wait(self, hear: Hear) -> Iterator[tuple[RunConfig, dict[str, Any] | Died]]:
        """Listen to the processes."""
        from empool.lab.execute.supervise import Died

        for pipe in connection.wait(list(self.on), _POLL):
            assert isinstance(pipe, Connection)
            run, process = self.on[pipe]
            try:
                what, *rest = pipe.recv()
            except (EOFError, ConnectionError):
                del self.on[pipe]
                pipe.close()
                yield run, Died(_death(process))
                continue
            if what == "failed":
                error, traceback = rest
                raise error from RuntimeError(traceback)
            if what != "finished":
                hear(run, what, *rest)
                continue
            del self.on[pipe]
            pipe.close()
            process.join(_EXIT)
            yield run, rest[0]

    def _end(self, grace: float | None) -> None:
        """End runs after their step, and their processes; what they did up to the last whole epoch stays.

        Args:
            grace: seconds that they have before they are killed; None: as long as it takes.
        """
        end = math.inf if grace is None else time.monotonic() + grace
        on, self.on = list(self.on.items()), {}
        try:
            for _, (_, process) in on:
                process.terminate()
            while any(process.is_alive() for _, (_, process) in on) and time.monotonic() < end:
                for pipe in connection.wait([pipe for pipe, _ in on if not pipe.closed], _POLL):
                    assert isinstance(pipe, Connection)
                    try:
                        pipe.recv()  # So that its process need not wait to say something.
                    except (EOFError, ConnectionError):
                        pipe.close()
                if all(pipe.closed for pipe, _ in on):
                    break
        finally:
            for pipe, (_, process) in on:
                if not pipe.closed:
                    process.kill()
                process.join(_EXIT)
                pipe.close()


def _death(process: BaseProcess) -> str:
    """Say how a process died."""
    process.join(_EXIT)
    code = process.exitcode
    if code is None or code >= 0:
        return f"its process {process.pid} ended with exit code {code}"
    memory = ", often for want of memory" if code == -signal.SIGKILL else ""
    return f"its process {process.pid} was killed by {signal.Signals(-code).name}{memory}"


class Words(logging.Handler):
    """Tells the process of the study how far a run is, not more often than there is someone to look, and what it logs.

    Args:
        send: takes words.
    """

    def __init__(self, send: Any) -> None:
        super().__init__(logging.INFO)
        self.send, self.said = send, 0.0
        log = logging.getLogger("empool.lab")
        log.handlers[:] = [self]
        log.setLevel(logging.INFO)
        log.propagate = False

    def watch(self, epochs: float, row: Any) -> None:
        """Say how far it is; what `fit` takes to watch it."""
        now = time.monotonic()
        if row is not None or now - self.said > _PAUSE:
            self.said = now
            self.send(("advanced", epochs, row))

    def emit(self, record: logging.LogRecord) -> None:
        """Say what was logged."""
        self.send(("said", record.getMessage()))


def _work(
    pipe: Connection[Any, Any], run: RunConfig, data: Data, directory: Path, loggers: Loggers, threads: int
) -> None:
    """Do a run, and send back its record, or the error that ends the study."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The terminal sends Ctrl-C to all; the parent ends its processes.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from empool.lab.execute.supervise import do
    from empool.lab.train import signals

    torch.set_num_threads(threads)
    words = Words(pipe.send)
    try:
        try:
            pipe.send(("started",))
            pipe.send(("finished", do(run, data, directory, words.watch, loggers)))
        except (BrokenPipeError, ConnectionError):  # There is no parent any more.
            return
        except Exception as error:
            pipe.send(("failed", sendable(error), format_exc()))
    except signals.Terminated as terminated:
        sys.exit(signals.exit_code(terminated))


def _end_with_parent() -> None:
    """Die when the parent does: what it would have gathered, another study may already be doing again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def sendable(error: Exception) -> Exception:
    """Give an error that can be pickled, and says itself what its cause, which is left behind, said."""
    from empool.lab.errors import refusal

    refused = refusal(error)
    if refused is not None:  # PyTorch reports it as its own.
        return OSError(refused.errno, refused.strerror, refused.filename)
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(error))
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
