"""A study from its options to its records, and what is said when it is interrupted."""

from __future__ import annotations

import csv
import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empool.lab.errors import LabError

if TYPE_CHECKING:  # Importing it takes seconds, and wrong usage is said before.
    from empool.lab.data.sets import Data
    from empool.lab.execute.supervise import Place
    from empool.lab.study.run import RunConfig
    from empool.lab.watch.loggers import Loggers
    from empool.lab.watch.progress import Progress

_log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """A study was interrupted, or ended by SIGTERM.

    Attributes:
        code: exit code, as shells give it.
    """

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


class Followed(Exception):
    """This process did its share of a study for which another speaks; `code` is its exit code."""

    code = 0


@dataclass(frozen=True)
class Where:
    """Where runs go.

    Attributes:
        launcher: "local" or "ray".
        address: of the cluster.
        cpus_per_run: that a run takes there.
        gpus_per_run: that a run takes there.
        jobs: runs at once on this machine.
    """

    launcher: str = "local"
    address: str | None = None
    cpus_per_run: int | None = None
    gpus_per_run: float | None = None
    jobs: int = 1

    def place(self) -> Place:
        """Join or make it.

        Raises:
            LabError: for an option that would have no effect, or a cluster that cannot be joined.
        """
        if self.launcher == "ray":
            if self.jobs > 1:
                raise LabError("--jobs is for --launcher local: a cluster does as many runs as it has room for")
            from empool.lab.execute.cluster import Ray

            return Ray(self.address, self.cpus_per_run or 1, self.gpus_per_run)
        for option in ("address", "cpus_per_run", "gpus_per_run"):
            if getattr(self, option) is not None:
                raise LabError(f"--{option.replace('_', '-')} is for --launcher ray")
        from empool.lab.execute.here import Here
        from empool.lab.execute.processes import Processes

        return Processes(self.jobs) if self.jobs > 1 else Here()


def study(
    options: Mapping[str, Any],
    poolings: str | Iterable[Any] | None = None,
    seeds: Sequence[int] = range(3),
    *,
    where: Where = Where(),  # frozen
    out: Path | None = None,
    loggers: Sequence[str] = (),
    command: str = "",
    resume: bool | None = None,
) -> tuple[Path, list[dict[str, Any]]]:
    """Do the runs that are missing, and return the study's folder and all its records.

    Args:
        options: what the runs have in common: fields of `empool.lab.execute.configure.Options`.
        poolings: spellings with commas between, or a list of them; None for the default ones.
        seeds: of the runs.
        where: they go.
        out: the study's folder; None for the default one.
        loggers: names of the trackers that are told.
        command: what was typed.
        resume: of `empool train`: its one run is refused if it was begun and this is False, or the other way round.

    Raises:
        LabError: for what is wrong with any of them.
        Interrupted: by Ctrl-C or SIGTERM.
        Followed: where another process speaks for this one.
    """
    from empool.lab.train import processes, signals
    from empool.lab.watch.progress import Quiet, progress

    silent = processes.started().rank > 0
    told: dict[str, Path] = {}
    with Quiet() if silent else progress() as shown, signals.raised():
        try:
            if where.jobs > 1:
                from empool.lab.execute.processes import warm_up

                warm_up(options.get("device", "auto"))
            return _study(options, poolings, seeds, where, out, loggers, command, resume, shown, told)
        except KeyboardInterrupt as stopped:
            kept = f" in {told['directory']}" if "directory" in told else ""
            ended = "ended by SIGTERM" if isinstance(stopped, signals.Terminated) else "interrupted"
            again = f"{command} --resume" if "run" in told and _is_to_resume(told["run"]) and not resume else command
            with signals.ignored():  # torchrun sends it to the other processes when one has ended.
                _log.warning("empool: %s; finished runs stay%s, and the same command goes on: %s", ended, kept, again)
            raise Interrupted(signals.exit_code(stopped)) from None
        except RuntimeError as error:
            if not processes.started().count > 1 or not processes.is_parting(error):
                raise
            if silent:  # The first process has said what went wrong.
                followed = Followed()
                followed.code = 1
                raise followed from None
            raise LabError("another of the processes ended; the same command goes on where the run was") from None


def _study(
    choices: Mapping[str, Any],
    poolings: str | Iterable[Any] | None,
    seeds: Sequence[int],
    where: Where,
    out: Path | None,
    loggers: Sequence[str],
    command: str,
    resume: bool | None,
    shown: Any,
    told: dict[str, Path],
) -> tuple[Path, list[dict[str, Any]]]:
    from empool.lab.execute.configure import DEFAULT_POOLINGS, Options, configure
    from empool.lab.execute.here import follow
    from empool.lab.study.run import folder_name
    from empool.lab.study.run import poolings as read_poolings
    from empool.lab.train import processes
    from empool.lab.watch.loggers import named

    options = Options(**choices)
    trackers = named(loggers)
    names = read_poolings(DEFAULT_POOLINGS if poolings is None else poolings, options.model)
    if resume is not None and len(names) != 1:
        raise LabError(f"--pooling: expected one, got {', '.join(names)}; empool compare trains several")
    with processes.joined() as together, closing(where.place()) as place:
        if together.count > 1 and where != Where():
            what = "--launcher ray" if where.launcher == "ray" else "--jobs"
            raise LabError(f"{what} does runs in one process each: leave out torchrun or srun")
        if together.count > 1 and options.compile:
            raise LabError("--compile is for one process: leave out torchrun or srun")
        directory = out
        if together.rank > 0:  # The first process says what is wrong with the options, and fetches the data.
            directory = together.tell(None)
        each, data = configure(options, names, place.device_named)
        if together.rank > 0:
            assert directory is not None
            follow(data, directory, together)
            raise Followed
        directory = directory or Path("runs") / folder_name(f"{data.name}-{options.model}")
        told["directory"] = directory
        runs = [dataclasses.replace(run, seed=seed) for seed in seeds for run in each]
        if resume is not None:
            told["run"] = runs[0].folder(directory)
            _check_resume(told["run"], resume)
        together.tell(directory)
        return directory, carry_out(directory, runs, data, place, shown, trackers, command)


def carry_out(
    directory: Path,
    runs: Sequence[RunConfig],
    data: Data,
    place: Place,
    shown: Progress,
    loggers: Loggers,
    command: str,
) -> list[dict[str, Any]]:
    """Do the runs of a study that are missing, and gather all results in results.json after each.

    Args:
        directory: of the study; made if it isn't there.
        runs: all of one configuration, apart from pooling and seed.
        data: what they are trained on.
        place: where they are done.
        shown: is told of them.
        loggers: likewise.
        command: what was typed, for study.json.

    Returns:
        The records of all finished runs in the folder, in the order of its poolings and seeds.

    Raises:
        LabError: if the folder holds a study of another configuration or of images that have changed since, another
            process writes there, it cannot be written to, or the disk is full.
    """
    from empool.lab.execute.supervise import supervise
    from empool.lab.study import folder

    with folder.opened(directory):
        folder.claim(directory, runs, data.files, command)
        records = folder.gather(directory)
        done = {(record["pooling"], record["seed"]) for record in records}
        missing = [run for run in runs if (run.pooling, run.seed) not in done]
        if loggers.names:
            loggers.prepare(directory)
            _tell_finished(directory, [run for run in runs if run not in missing], loggers)
        shown.begin(runs, records)
        try:
            for _ in supervise(place, missing, data, directory, shown, loggers):
                records = folder.gather(directory)
        finally:
            records = folder.gather(directory)  # A run may have ended just before an interrupt.
        return records


def _tell_finished(directory: Path, runs: Sequence[RunConfig], loggers: Loggers) -> None:
    """Tell the loggers of runs that had ended before these were asked for."""
    from empool.lab.files import read_object

    for run in runs:
        path = run.folder(directory)
        with (path / "metrics.csv").open(encoding="utf-8", newline="") as file, loggers.journal(run, directory) as told:
            rows = [
                {name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)
            ]
            if told.lacks(len(rows)):
                told.end(rows, read_object(path / "result.json"))


def _check_resume(folder: Path, resume: bool) -> None:
    from empool.lab.train.checkpoint import begun

    if _is_to_resume(folder) and not resume:
        raise LabError(f"{folder} holds an unfinished run: --resume goes on with it, another --out starts a new one")
    if resume and not begun(folder):
        raise LabError(f"{folder} holds no run to resume: leave --resume out")


def _is_to_resume(folder: Path) -> bool:
    from empool.lab.train.checkpoint import begun

    return begun(folder) and not (folder / "result.json").exists()
