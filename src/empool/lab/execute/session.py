"""A study from its options to its records, and what is said when it is interrupted."""

from __future__ import annotations

import csv
import dataclasses
import logging
import signal
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empool.lab.errors import LabError

if TYPE_CHECKING:  # Importing it takes seconds, and wrong usage is said before.
    from empool.lab.data.sets import DataSet
    from empool.lab.execute.supervise import Place, Record
    from empool.lab.study.run import RunConfig
    from empool.lab.watch.loggers import Loggers
    from empool.lab.watch.progress import Progress

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Where:
    """Where runs go.

    Attributes:
        device: "auto", "cpu" or "cuda".
        launcher: "local" or "ray".
        address: of the cluster.
        cpus_per_run: that a run takes there.
        gpus_per_run: that a run takes there.
        jobs: runs at once on this machine.
    """

    device: str = "auto"
    launcher: str = "local"
    address: str | None = None
    cpus_per_run: int | None = None
    gpus_per_run: float | None = None
    jobs: int = 1

    @classmethod
    def of(cls, options: dict[str, Any]) -> Where:
        """Take out of options what says where."""
        names = {field.name for field in dataclasses.fields(cls)} & options.keys()
        return cls(**{name: options.pop(name) for name in names})

    def place(self) -> Place:
        """Join or make it.

        Raises:
            LabError: for an option that would have no effect, or a cluster that cannot be joined.
        """
        if self.launcher == "ray":
            if self.jobs > 1:
                raise LabError("--jobs is for --launcher local: a cluster does as many runs as it has room for")
            from empool.lab.execute.cluster import Ray

            return Ray(self.address, self.cpus_per_run or 1, self.gpus_per_run, self.device)
        for option in ("address", "cpus_per_run", "gpus_per_run"):
            if getattr(self, option) is not None:
                raise LabError(f"--{option.replace('_', '-')} is for --launcher ray")
        from empool.lab.execute.processes import Processes
        from empool.lab.execute.supervise import Here

        return Processes(self.jobs, self.device) if self.jobs > 1 else Here(self.device)


def study(
    poolings: str | Iterable[Any] | None = None,
    seeds: Sequence[int] = range(3),
    *,
    out: Path | None = None,
    logger: Sequence[str] | None = None,
    command: str = "",
    resume: bool | None = None,
    **choices: Any,
) -> tuple[Path, list[Record]]:
    """Do the runs that are missing, and return the study's folder and all its records.

    Args:
        poolings: spellings with commas between, or a list of them; None for the default ones.
        seeds: of the runs.
        out: the study's folder; None for the default one.
        logger: names of the trackers that are told.
        command: what was typed.
        resume: of `empool train`: its one run is refused if it was begun and this is False, or the other way round.
        choices: fields of `empool.lab.execute.configure.Options` and of `Where`; None is the default.

    Raises:
        LabError: for what is wrong with any of them.
        KeyboardInterrupt: by Ctrl-C; by SIGTERM it is `empool.lab.train.signals.Terminated`.
        SystemExit: of a process that has done its share of a study for which another speaks.
    """
    from empool.lab.train import processes, signals
    from empool.lab.watch.progress import Progress

    given = {name: value for name, value in choices.items() if value is not None}
    where = Where.of(given)
    silent = processes.started().rank > 0
    directory, begun = out, None
    with Progress(quiet=silent) as shown, signals.raised():
        try:
            if where.jobs > 1:
                from empool.lab.execute.processes import warm_up

                warm_up(where.device)
            from empool.lab.execute.configure import DEFAULT_POOLINGS, Options, configure
            from empool.lab.execute.supervise import follow
            from empool.lab.study.run import folder_name
            from empool.lab.study.run import poolings as read_poolings
            from empool.lab.watch.loggers import named

            options, trackers = Options(**given), named(logger or ())
            names = read_poolings(DEFAULT_POOLINGS if poolings is None else poolings, options.model)
            if resume is not None and len(names) != 1:
                raise LabError(f"--pooling: expected one, got {', '.join(names)}; empool compare trains several")
            with processes.joined() as together, closing(where.place()) as place:
                if together.count > 1:
                    _check_together(options.compile, where)
                if silent:  # The first process says what is wrong with the options, and fetches the data.
                    directory = together.tell(None)
                runs, data = configure(options, names, seeds, place.device)
                if silent:
                    assert directory is not None
                    follow(data, directory, together)
                    raise SystemExit(0)
                directory = directory or Path("runs") / folder_name(f"{data.name}-{options.model}")
                if resume is not None:
                    begun = runs[0].folder(directory)
                    _check_resume(begun, resume)
                together.tell(directory)
                return directory, carry_out(directory, runs, data, place, shown, trackers, command)
        except KeyboardInterrupt as stopped:
            ended = "ended by SIGTERM" if isinstance(stopped, signals.Terminated) else "interrupted"
            kept = f" in {directory}" if directory else ""
            again = f"{command} --resume" if begun and not resume and _is_to_resume(begun) else command
            with signals.handled(signal.SIG_IGN):  # torchrun sends it to the other processes when one has ended.
                _log.warning("empool: %s; finished runs stay%s, and the same command goes on: %s", ended, kept, again)
            raise
        except RuntimeError as error:
            if not processes.started().count > 1 or not processes.is_parting(error):
                raise
            if silent:  # The first process has said what went wrong.
                raise SystemExit(1) from None
            raise LabError("another of the processes ended; the same command goes on where the run was") from None


def carry_out(
    directory: Path,
    runs: Sequence[RunConfig],
    data: DataSet,
    place: Place,
    shown: Progress,
    loggers: Loggers,
    command: str,
) -> list[Record]:
    """Do the runs of a study that are missing, and gather all results in results.json after each.

    Args:
        directory: of the study; made if it isn't there.
        runs: all of one configuration, apart from pooling and seed.
        data: what they are trained on.
        place: where they are done.
        shown: is told of them.
        loggers: likewise, of those too that had ended before these were asked for.
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
        done = {(record["pooling"], record["seed"]): record for record in records}
        loggers.prepare(directory)
        for run in runs if loggers.settings else ():
            if (run.pooling, run.seed) in done:
                _tell(loggers, directory, run, done[run.pooling, run.seed])
        shown.begin(runs, records)
        missing = [run for run in runs if (run.pooling, run.seed) not in done]
        try:
            for _ in supervise(place, missing, data, directory, shown, loggers):
                folder.gather(directory)
        finally:
            records = folder.gather(directory)  # A run may have ended just before an interrupt.
        return records


def _tell(loggers: Loggers, directory: Path, run: RunConfig, record: Record) -> None:
    """Tell the loggers of a finished run, unless they know it."""
    metrics = run.folder(directory) / "metrics.csv"
    with metrics.open(encoding="utf-8", newline="") as file, loggers.journal(run, directory) as told:
        rows = [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]
        if told.lacks(len(rows)):
            told.end(rows, record)


def _check_together(compiled: bool, where: Where) -> None:
    """Refuse what several processes that train one network can't do."""
    if where != Where(where.device):
        what = "--launcher ray does" if where.launcher == "ray" else "--jobs does"
        raise LabError(f"{what} runs in one process each: leave out torchrun or srun")
    if compiled:
        raise LabError("--compile is for one process: leave out torchrun or srun")


def _check_resume(folder: Path, resume: bool) -> None:
    from empool.lab.train.checkpoint import begun

    if _is_to_resume(folder) and not resume:
        raise LabError(f"{folder} holds an unfinished run: --resume goes on with it, another --out starts a new one")
    if resume and not begun(folder):
        raise LabError(f"{folder} holds no run to resume: leave --resume out")


def _is_to_resume(folder: Path) -> bool:
    from empool.lab.train.checkpoint import begun

    return begun(folder) and not (folder / "result.json").exists()
