"""Where the runs of a study go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from empool.lab.data.sets import Data
from empool.lab.errors import LabError
from empool.lab.execute.parallel import OnThisMachine, Parallel
from empool.lab.study.run import RunConfig
from empool.lab.train import processes
from empool.lab.train.experiment import Row
from empool.lab.train.processes import Processes
from empool.lab.train.training import fit
from empool.lab.watch.loggers import Loggers
from empool.lab.watch.progress import Progress


class Launcher(Protocol):
    """Does runs, within its context; how many at once is its business."""

    def __enter__(self) -> Launcher: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def device_named(self, device: str) -> str:
        """Choose "cpu" or "cuda", which "auto" stands for.

        Raises:
            LabError: for a device that is not where the runs go.
        """

    def launch(
        self, runs: Sequence[RunConfig], data: Data, directory: Path, progress: Progress, loggers: Loggers
    ) -> Iterator[dict[str, Any]]:
        """Do runs, telling `progress` and `loggers` of each, and yield the record of each as it ends."""


class Local(OnThisMachine):
    """One run after another, in this process: a run uses all cores, or the one GPU."""

    def launch(
        self, runs: Sequence[RunConfig], data: Data, directory: Path, progress: Progress, loggers: Loggers
    ) -> Iterator[dict[str, Any]]:
        """Do runs in their order, together with the processes that `follow`."""
        together = processes.connected()
        for config in runs:

            def watch(epochs: float, row: Row | None, config: RunConfig = config) -> None:
                progress.advanced(config, epochs, row)

            progress.started(config)
            together.tell(config)
            record = fit(config, data, directory, watch, progress.say, loggers)
            progress.finished(config, record)
            yield record
        together.tell(None)


def follow(data: Data, directory: Path, together: Processes) -> None:
    """Do a process's share of the runs that the first process, in `Local`, does."""
    while (config := together.tell(None)) is not None:
        fit(config, data, directory)


def launcher(name: str, address: str | None, cpus: int | None, gpus: float | None, jobs: int = 1) -> Launcher:
    """Make "local" or "ray".

    Args:
        name: of the two.
        address: for `empool.lab.execute.cluster.Ray`, as are the next two; None stands for its defaults.
        cpus: that a run takes.
        gpus: that a run takes.
        jobs: runs that "local" does at once.

    Raises:
        LabError: for an argument that the launcher would have to ignore, or a cluster that cannot be joined.
    """
    if name == "ray":
        if jobs > 1:
            raise LabError("--jobs is for --launcher local: a cluster does as many runs at once as it has room for")
        from empool.lab.execute.cluster import Ray

        return Ray(address, cpus or 1, gpus)
    for option, given in (("--address", address), ("--cpus-per-run", cpus), ("--gpus-per-run", gpus)):
        if given is not None:
            raise LabError(f"{option} is for --launcher ray")
    return Parallel(jobs) if jobs > 1 else Local()
