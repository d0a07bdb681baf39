"""Several runs at once on this machine, each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.multiprocessing  # Processes then share the images' memory.

from empool.lab.data.sets import DataSet
from empool.lab.errors import LabError
from empool.lab.execute.supervise import POLL, Died, Hear, Here, Record, do_telling
from empool.lab.study.run import RunConfig
from empool.lab.train import signals

# What takes seconds to import; the compiler, since the first step of an optimiser asks whether it is on.
_IMPORTED = ["empool.lab.execute.processes", "torch._dynamo"]


def _context(device: str) -> ForkServerContext | SpawnContext:
    """Choose how processes are started, and begin to import what they need in the one that they are forked from.

    On a GPU they are not forked, since an import may have asked CUDA for its devices, after which no fork can use them;
    elsewhere than on Linux, system libraries forbid it.
    """
    if sys.platform != "linux" or device == "cuda":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with signals.handled(signal.SIG_IGN, signal.SIGINT):  # It is inherited: the terminal sends Ctrl-C to all.
        forkserver.ensure_running()
    return context


class Processes(Here):
    """Processes on this machine, which share its cores, or its one GPU.

    Each run has a pool of one process, so that one that dies takes no other with it, and a pipe: words come out of it,
    "end" goes in, and a process whose pipe is closed dies.

    Args:
        slots: runs at once; each takes this process's number of PyTorch's threads divided by it.
        device: "auto", "cpu" or "cuda".
    """

    def __init__(self, slots: int, device: str = "auto") -> None:
        super().__init__(device)
        self.slots, self.context = slots, _context(self.device)
        self.on: dict[RunConfig, tuple[ProcessPoolExecutor, Connection[Any, Any], Future[Record]]] = {}

    @contextmanager
    def opened(self, data: DataSet, directory: Path, hear: Hear) -> Iterator[None]:
        """Take what the processes are given; at the end, end them."""
        self.given, self.hear = (data, directory), hear
        try:
            yield
        finally:
            self._end()

    def submit(self, run: RunConfig) -> Future[Record]:
        """Start a process for a run."""
        ours, theirs = multiprocessing.Pipe()
        threads = max(1, torch.get_num_threads() // self.slots)
        pool = ProcessPoolExecutor(1, self.context, _begin, (theirs, threads, run, *self.given))
        main = sys.modules["__main__"]
        with signals.handled(signal.SIG_IGN, signal.SIGINT):
            # The process would run a script again that has no `if __name__ == "__main__"`.
            sys.modules["__main__"] = main if "__main__:" in f"{run.data} {run.model}" else ModuleType("__main__")
            try:
                future = pool.submit(_work)
            finally:
                sys.modules["__main__"] = main
        theirs.close()
        self.on[run] = pool, ours, future
        return future

    def listen(self) -> None:
        """Take the words out of the pipes."""
        for run, (_, pipe, _) in self.on.items():
            with contextlib.suppress(EOFError, ConnectionError):  # Its process is dead.
                while pipe.poll():
                    self.hear(run, *pipe.recv())

    def result(self, run: RunConfig, future: Future[Record]) -> Record:
        """Take a run's record, and end its process."""
        pool, pipe, _ = self.on.pop(run)
        pool.shutdown()
        pipe.close()
        try:
            return future.result()
        except BrokenProcessPool:
            raise Died("its process was killed, often for want of memory") from None
        except signals.Terminated:
            raise Died("its process was ended by SIGTERM") from None

    def _end(self) -> None:
        """End runs after their step, and their processes; these are killed by another Ctrl-C."""
        try:
            for _, pipe, _ in self.on.values():
                with contextlib.suppress(ConnectionError):
                    pipe.send("end")
            while wait([future for *_, future in self.on.values()], POLL).not_done:
                self.listen()  # So that no process need wait to say something.
        finally:
            for pool, pipe, future in self.on.values():
                if not future.done():
                    pipe.close()
                pool.shutdown()
                pipe.close()
            self.on.clear()


_given: tuple[Any, ...] = ()  # in a run's process: what its pool was given


def _begin(*given: Any) -> None:
    """Take what a run needs: through the pool's queue neither the pipe nor shared memory could come."""
    global _given
    _given = given
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The terminal sends Ctrl-C to all; the parent ends its processes.
    threading.Thread(target=_obey, args=given[:1], daemon=True).start()


def _obey(pipe: Connection[Any, Any]) -> None:
    """End the run when the parent says so; die when it is dead: what it gathers, another study may be doing again."""
    with contextlib.suppress(EOFError, ConnectionError):
        pipe.recv()
        os.kill(os.getpid(), signal.SIGTERM)
        pipe.recv()
    os._exit(1)


def _work() -> Record:
    """Do the run; an error arrives in the parent without its cause, so it says itself what that said."""
    pipe, *given = _given
    try:
        return do_telling(pipe.send, *given)
    except (LabError, ModuleNotFoundError, OSError):
        raise
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
