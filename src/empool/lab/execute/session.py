"""A study from its options to its records, and what is said when it is interrupted."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empool.lab.errors import LabError
from empool.lab.execute.options import Options
from empool.lab.train import processes, signals
from empool.lab.watch.progress import Progress

if TYPE_CHECKING:  # Importing it takes seconds, and what is shown first is that something starts.
    from empool.lab.data.sets import DataSet
    from empool.lab.execute.supervise import Here, Record
    from empool.lab.study.run import RunConfig
    from empool.lab.watch.loggers import Loggers

_log = logging.getLogger(__name__)


def study(
    options: Options,
    poolings: str | Iterable[Any] | None = None,
    seeds: Sequence[int] = range(3),
    *,
    command: str = "",
    resume: bool | None = None,
) -> tuple[Path, list[Record]]:
    """Do the runs that are missing, and return the study's folder and the records of all that were asked for.

    Args:
        options: of the study.
        poolings: spellings with commas between, or a list of them; None for the default ones.
        seeds: of the runs.
        command: what was typed.
        resume: of `empool train`: its one run is refused if it was begun and this is False, or the other way round.

    Raises:
        LabError: for what is wrong with any of them.
        KeyboardInterrupt: by Ctrl-C; by SIGTERM it is `empool.lab.train.signals.Terminated`.
        SystemExit: of a process that has done its share of a study for which another speaks.
    """
    silent = processes.started().rank > 0
    directory, begun = options.out, None
    with Progress(quiet=silent) as shown, signals.raised():
        try:
            from empool.lab.execute.configure import DEFAULT_POOLINGS, configure
            from empool.lab.execute.supervise import follow
            from empool.lab.study.run import folder_name
            from empool.lab.study.run import poolings as read_poolings
            from empool.lab.train import checkpoint
            from empool.lab.watch.loggers import named

            trackers = named(options.logger or ())
            names = read_poolings(DEFAULT_POOLINGS if poolings is None else poolings, options.model)
            if not names or not seeds:
                raise LabError("a study needs at least one pooling and one seed")
            if resume is not None and len(names) != 1:
                raise LabError(f"--pooling: expected one, got {', '.join(names)}; empool compare trains several")
            with processes.joined() as together, closing(_place(options, together.count)) as place:
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
                    if _unfinished(begun) and not resume:
                        raise LabError(f"{begun} holds an unfinished run: give --resume to go on, or another --out")
                    if resume and not checkpoint.begun(begun):
                        raise LabError(f"{begun} holds no run to resume: leave --resume out")
                together.tell(directory)
                return directory, carry_out(directory, runs, data, place, shown, trackers, command)
        except KeyboardInterrupt as stopped:
            ended = "ended by SIGTERM" if isinstance(stopped, signals.Terminated) else "interrupted"
            kept = f" in {directory}" if directory else ""
            again = f"{command} --resume" if begun and not resume and _unfinished(begun) else command
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
    place: Here,
    shown: Progress,
    loggers: Loggers,
    command: str,
) -> list[Record]:
    """Do the runs of a study that are missing, and gather all results in results.json after each.

    The loggers are told of runs too that had ended before these were asked for.

    Raises:
        LabError: if the folder holds a study of another configuration or of images that have changed since, another
            process writes there, it cannot be written to, or the disk is full.
    """
    from empool.lab.execute.supervise import supervise
    from empool.lab.study import folder

    with folder.opened(directory):
        folder.claim(directory, runs, command)
        loggers.prepare(directory)
        done = {(record["pooling"], record["seed"]): record for record in folder.gather(directory)}
        missing = [run for run in runs if (run.pooling, run.seed) not in done]
        for run in runs:
            if record := done.get((run.pooling, run.seed)):
                loggers.catch_up(run, directory, record)
        shown.begin(runs, missing)
        try:
            for record in supervise(place, missing, data, directory, shown, loggers):
                done[record["pooling"], record["seed"]] = record
                folder.gather(directory)
        finally:
            folder.gather(directory)  # A run may have ended just before an interrupt.
        return [done[run.pooling, run.seed] for run in runs]


def _place(options: Options, together: int) -> Here:
    """Join or make the place where runs are done, unless an option would have no effect there."""
    ray, several = options.launcher == "ray", options.jobs > 1
    if together > 1 and (ray or several):
        what = "--launcher ray" if ray else "--jobs"
        raise LabError(f"{what} does runs in one process each: leave out torchrun or srun")
    if together > 1 and options.compile:
        raise LabError("--compile is for one process: leave out torchrun or srun")
    if ray and several:
        raise LabError("--jobs is for --launcher local: a cluster does as many runs as it has room for")
    if ray:
        from empool.lab.execute.cluster import Ray

        return Ray(options.address, options.cpus_per_run or 1, options.gpus_per_run, options.device)
    for option in ("address", "cpus_per_run", "gpus_per_run"):
        if getattr(options, option) is not None:
            raise LabError(f"--{option.replace('_', '-')} is for --launcher ray")
    from empool.lab.execute.processes import Processes
    from empool.lab.execute.supervise import Here

    return Processes(options.jobs, options.device) if several else Here(options.device)


def _unfinished(folder: Path) -> bool:
    from empool.lab.train.checkpoint import begun

    return begun(folder) and not (folder / "result.json").exists()
