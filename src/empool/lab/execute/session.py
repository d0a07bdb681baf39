"""A command's study from its options to its records, and what is said when it is interrupted."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from empool.lab.errors import LabError

if TYPE_CHECKING:  # Importing it takes seconds, and wrong usage is said before.
    from empool.lab.execute.launch import Launcher


@dataclass(frozen=True)
class Place:
    """Where runs go.

    Attributes:
        name: of the launcher.
        address: of the cluster.
        cpus: that a run takes there.
        gpus: that a run takes there.
        jobs: runs at once on this machine.
    """

    name: str = "local"
    address: str | None = None
    cpus: int | None = None
    gpus: float | None = None
    jobs: int = 1

    def launcher(self) -> Launcher:
        """Make the launcher.

        Raises:
            LabError: as `empool.lab.execute.launch.launcher`.
        """
        from empool.lab.execute.launch import launcher

        return launcher(self.name, self.address, self.cpus, self.gpus, self.jobs)


def study(
    command: str,
    options: dict[str, Any],
    poolings: str | None,
    seeds: Sequence[int],
    place: Place,
    out: Path | None,
    loggers: Sequence[str],
    resume: bool | None = None,
) -> tuple[Path, list[dict[str, Any]]]:
    """Do the runs that are missing, and return the study's folder and all its records.

    Args:
        command: what was typed.
        options: those of `empool.lab.train.options.configure`.
        poolings: spellings with commas between; None for the default ones.
        seeds: of the runs.
        place: where they go.
        out: the study's folder; None for the default one.
        loggers: names of the trackers that are told.
        resume: of `empool train`: its one run is refused if it was begun and this is False, or the other way round.

    Raises:
        LabError: for what is wrong with any of them.
        typer.Exit: with the exit code, when interrupted or where another process speaks for this one.
    """
    from empool.lab.execute import parallel
    from empool.lab.train import processes, signals
    from empool.lab.watch.progress import Lines, progress

    directory, folder = out, None
    silent = processes.started().rank > 0
    with Lines(io.StringIO()) if silent else progress() as shown, signals.raised():
        try:
            if place.jobs > 1:
                parallel.warm_up(options["device"])
            from empool.lab.execute import study as studies
            from empool.lab.execute.launch import follow
            from empool.lab.study.run import folder_name
            from empool.lab.train.options import DEFAULT_POOLINGS, check_p_schedule, configure, try_out
            from empool.lab.train.options import poolings as read_poolings
            from empool.lab.watch import loggers as trackers

            told = trackers.named(loggers)
            names = read_poolings(DEFAULT_POOLINGS if poolings is None else poolings, options["model"])
            if resume is not None and len(names) != 1:
                raise LabError(f"--pooling: expected one, got {', '.join(names)}; empool compare trains several")
            with place.launcher() as there, processes.joined() as together:
                if together.count > 1 and place != Place():
                    what = "--launcher ray" if place.name != Place.name else "--jobs"
                    raise LabError(f"{what} does runs in one process each: leave out torchrun or srun")
                if together.count > 1 and options["compile"]:
                    raise LabError("--compile is for one process: leave out torchrun or srun")
                if silent:  # The first process says what is wrong with the options, and fetches the data.
                    directory = together.tell(None)
                config, data = configure(**options, say=shown.say, choose_device=there.device_named)
                if silent:
                    assert directory is not None
                    follow(data, directory, together)
                    raise typer.Exit
                check_p_schedule(config, names)
                directory = out or Path("runs") / folder_name(f"{config.data}-{config.model}")
                runs = studies.plan(config, names, seeds)
                for run in runs[: len(names)]:
                    try_out(run, data)
                if resume is not None:
                    folder = runs[0].folder(directory)
                    _check_resume(folder, resume)
                together.tell(directory)
                return directory, studies.run(directory, runs, data, there, shown, command, told)
        except KeyboardInterrupt as stopped:
            kept = f" in {directory}" if directory else ""
            ended = "ended by SIGTERM" if isinstance(stopped, signals.Terminated) else "interrupted"
            again = f"{command} --resume" if folder and _is_to_resume(folder) and not resume else command
            with signals.ignored():  # torchrun sends it to the other processes when one has ended.
                shown.say(f"empool: {ended}; finished runs stay{kept}, and the same command goes on: {again}")
            raise typer.Exit(signals.exit_code(stopped)) from None
        except RuntimeError as error:
            if not processes.started().count > 1 or not processes.is_parting(error):
                raise
            if silent:  # The first process has said what went wrong.
                raise typer.Exit(1) from None
            raise LabError("another of the processes ended; the same command goes on where the run was") from None


def _check_resume(folder: Path, resume: bool) -> None:
    from empool.lab.train.checkpoint import begun

    if _is_to_resume(folder) and not resume:
        raise LabError(f"{folder} holds an unfinished run: --resume goes on with it, another --out starts a new one")
    if resume and not begun(folder):
        raise LabError(f"{folder} holds no run to resume: leave --resume out")


def _is_to_resume(folder: Path) -> bool:
    from empool.lab.train.checkpoint import begun

    return begun(folder) and not (folder / "result.json").exists()
