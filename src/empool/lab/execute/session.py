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
    from empool.lab.execute.supervise import Here, Record

_log = logging.getLogger(__name__)


def study(
    options: Options,
    poolings: str | Iterable[Any] | None = None,
    seeds: Sequence[int] = range(3),
    *,
    command: str = "",
    resume: bool | None = None,
    baseline: str = "max",
) -> tuple[Path, list[Record]]:
    """Do the runs that are missing, and return the study's folder and the records of all that were asked for.

    The default poolings are done where none are named. The baseline is the report's: a slip in it is said before
    anything is trained. With `resume`, of `empool train`, a run must have been begun, and else it must not. A process
    that has done its share of a study for which another speaks raises SystemExit.
    """
    silent = processes.started().rank > 0
    directory, begun = options.out, None
    with Progress(quiet=silent) as shown, signals.raised():
        try:
            from empool.lab.execute.configure import DEFAULT_POOLINGS, configure
            from empool.lab.execute.supervise import carry_out, follow
            from empool.lab.study import run
            from empool.lab.train import checkpoint
            from empool.lab.watch.loggers import Loggers

            loggers = Loggers(options.logger or ())
            names = run.poolings(DEFAULT_POOLINGS if poolings is None else poolings, options.model)
            if not names or not seeds:
                raise LabError("a study needs at least one pooling and one seed")
            if resume is not None and len(names) != 1:
                raise LabError(f"--pooling: expected one, got {', '.join(names)}; empool compare trains several")
            with processes.joined() as together, closing(_place(options, together.count)) as place:
                # The first process says what is wrong with the options, and fetches the data.
                there: Any = together.tell(None) if silent else None
                runs, data = configure(options, names, seeds, place.device)
                if silent:
                    follow(data, there, together)
                    raise SystemExit(0)
                directory = directory or Path("runs") / run.folder_name(f"{data.name}-{options.model}")
                if resume is not None:
                    begun = runs[0].folder(directory)
                    if checkpoint.unfinished(begun) and not resume:
                        raise LabError(f"{begun} holds an unfinished run: give --resume to go on, or another --out")
                    if resume and not checkpoint.begun(begun):
                        raise LabError(f"{begun} holds no run to resume: leave --resume out")
                run.check_baseline(baseline, [*names, *(one["pooling"] for one in run.results(directory))])
                together.tell(directory)
                return directory, carry_out(directory, runs, data, place, shown, loggers, command)
        except KeyboardInterrupt as stopped:
            ended = "ended by SIGTERM" if isinstance(stopped, signals.Terminated) else "interrupted"
            kept = f" in {directory}" if directory else ""
            again = f"{command} --resume" if begun and not resume and checkpoint.unfinished(begun) else command
            with signals.handled(signal.SIG_IGN):  # torchrun sends it to the other processes when one has ended.
                _log.warning("empool: %s; finished runs stay%s, and the same command goes on: %s", ended, kept, again)
            raise
        except RuntimeError as error:
            if not processes.started().count > 1 or not processes.is_parting(error):
                raise
            if silent:  # The first process has said what went wrong.
                raise SystemExit(1) from None
            raise LabError("another of the processes ended; the same command goes on where the run was") from None


def _place(options: Options, together: int) -> Here:
    """Join or make the place where runs are done, unless an option would have no effect there."""
    ray, several = options.launcher == "ray", options.jobs > 1
    for option, given in (("--launcher ray", ray), ("--jobs", several), ("--compile", options.compile)):
        if given and together > 1:
            raise LabError(f"{option} is for runs in one process each: leave out torchrun or srun")
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
