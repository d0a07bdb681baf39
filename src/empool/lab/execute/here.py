"""Runs one after another in this process: a run uses all cores, or the one GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from empool.lab.data.sets import Data
from empool.lab.execute.supervise import Died, Hear, do
from empool.lab.study.run import RunConfig
from empool.lab.train import processes
from empool.lab.train.device import device_named
from empool.lab.train.loop import Row, fit
from empool.lab.train.processes import Processes
from empool.lab.watch.loggers import Loggers


class Here:
    """This process, together with those that `follow` where several were started."""

    slots = 1

    def device_named(self, device: str) -> str:
        """Look at this machine."""
        return device_named(device)

    def close(self) -> None:
        """There is nothing to leave."""

    @contextmanager
    def opened(self, data: Data, directory: Path, loggers: Loggers) -> Iterator[None]:
        """Take the data."""
        self.data, self.directory, self.loggers = data, directory, loggers
        yield
        processes.connected().tell(None)

    def submit(self, run: RunConfig) -> None:
        """Note the run."""
        self.run = run

    def wait(self, hear: Hear) -> Iterator[tuple[RunConfig, dict[str, Any] | Died]]:
        """Do the run."""
        run = self.run

        def watch(epochs: float, row: Row | None) -> None:
            hear(run, "advanced", epochs, row)

        hear(run, "started")
        processes.connected().tell(run)
        yield run, do(run, self.data, self.directory, watch, self.loggers)


def follow(data: Data, directory: Path, together: Processes) -> None:
    """Do a process's share of the runs that the first process does."""
    while (run := together.tell(None)) is not None:
        fit(run, data, directory)
