"""The commands and their options; what they need is imported when they run, so that help comes at once."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated, Any

import typer

from empool.lab.arguments import (
    Address,
    Augmentation,
    BatchSize,
    ChannelsLast,
    Choices,
    Compile,
    CpusPerRun,
    Data,
    Deterministic,
    Device,
    Epochs,
    GpusPerRun,
    InPrecision,
    Jobs,
    Launcher,
    Logger,
    Loggers,
    Model,
    OnDevice,
    Out,
    Precision,
    PSchedule,
    SyncBatchNorm,
    Table,
    TestLimit,
    TrainLimit,
    Where,
    Workers,
)
from empool.lab.errors import LabError

app = typer.Typer(
    help="Train one network with each pooling and compare the test errors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


_HERE = ("local", None, None, None, 1)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"empool {package_version('empool')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def compare(
    context: typer.Context,
    data: Data = "digits",
    model: Model = "cnn",
    poolings: Annotated[
        str | None,
        typer.Option(help="Poolings, with commas between. Default: max, average and five that draw."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each pooling.")] = 3,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    train_limit: TrainLimit = None,
    test_limit: TestLimit = None,
    augmentation: Augmentation = None,
    recipe: Choices = None,
    device: OnDevice = Device.auto,
    precision: InPrecision = Precision.float32,
    channels_last: ChannelsLast = True,
    p_schedule: PSchedule = "constant",
    sync_batchnorm: SyncBatchNorm = False,
    compile: Compile = False,
    workers: Workers = None,
    deterministic: Deterministic = False,
    logger: Loggers = None,
    launcher: Where = Launcher.local,
    address: Address = None,
    cpus_per_run: CpusPerRun = None,
    gpus_per_run: GpusPerRun = None,
    jobs: Jobs = 1,
    out: Out = None,
) -> None:
    """Train a network with each pooling and several seeds; show test errors and improvement over max.

    A study that is started again does what is missing.
    """
    options = _options(locals())
    where = (launcher.value, address, cpus_per_run, gpus_per_run, jobs)
    directory, _ = _study(context.obj, options, poolings, range(seeds), where, out, logger)

    from rich.console import Console

    from empool.lab import report

    page = report.write_report(directory)
    Console().print(report.terminal(directory))
    print(f"report: {page}")


@app.command()
def train(
    context: typer.Context,
    data: Data = "digits",
    model: Model = "cnn",
    pooling: Annotated[str, typer.Option(help="Such as max, average or ensemble:0.1.")] = "ensemble:0.1",
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order of the images, augmentation and draws.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    train_limit: TrainLimit = None,
    test_limit: TestLimit = None,
    augmentation: Augmentation = None,
    recipe: Choices = None,
    device: OnDevice = Device.auto,
    precision: InPrecision = Precision.float32,
    channels_last: ChannelsLast = True,
    p_schedule: PSchedule = "constant",
    sync_batchnorm: SyncBatchNorm = False,
    compile: Compile = False,
    workers: Workers = None,
    deterministic: Deterministic = False,
    logger: Loggers = None,
    out: Out = None,
) -> None:
    """Train a network with one pooling and one seed; a study of one run, to which others can be added."""
    options = _options(locals())
    directory, records = _study(context.obj, options, pooling, [seed], _HERE, out, logger, resume=resume)

    from empool.lab.options import poolings as read_poolings

    spelling = read_poolings(pooling, model)[0]
    record = next(record for record in records if (record["pooling"], record["seed"]) == (spelling, seed))
    error = f"test error {record['test_error']:.2f} %" if record["converged"] else "did not converge"
    if record["converged"] and record.get("test_top5_error") is not None:
        error += f" (top-5 {record['test_top5_error']:.2f} %)"
    print(f"{spelling}, seed {seed}: {error} after {record['epochs']} epochs; {directory}")


@app.command()
def reproduce(
    context: typer.Context,
    table: Annotated[Table, typer.Argument(help="The poolings in a plain CNN, or the deck's networks.")],
    protocol: Annotated[
        str | None,
        typer.Option(help="full, cpu, or of table1 full-plain. Default: full on a GPU, else cpu, which is short."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each row; the whole table once, then again.")] = 3,
    data: Annotated[str, typer.Option(help="cifar10, or a folder that holds it.")] = "cifar10",
    device: OnDevice = Device.auto,
    precision: InPrecision = Precision.float32,
    channels_last: ChannelsLast = True,
    compile: Compile = False,
    deterministic: Deterministic = False,
    logger: Loggers = None,
    launcher: Where = Launcher.local,
    address: Address = None,
    cpus_per_run: CpusPerRun = None,
    gpus_per_run: GpusPerRun = None,
    jobs: Jobs = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of the studies. Default: runs/TABLE-PROTOCOL.")] = None,
) -> None:
    """Train what a table of the deck compares, and report it beside the deck's figures.

    A table that is started again does what is missing.
    """
    from rich.console import Console

    from empool.lab import processes
    from empool.lab import reproduce as tables
    from empool.lab.launch import launcher as launcher_named
    from empool.lab.report import terminal, write_report
    from empool.lab.run import folder_name

    if processes.started().count > 1:
        raise LabError("empool reproduce trains one network in one process: leave out torchrun or srun")
    where = (launcher.value, address, cpus_per_run, gpus_per_run, jobs)
    name = protocol
    if name is None:
        with launcher_named(*where) as place:
            name = "full" if place.device_named(device.value) == "cuda" else "cpu"
    chosen = tables.protocol(table.value, name)
    directory = out or Path("runs") / f"{table.value}-{name}"
    options: dict[str, Any] = {
        **dict.fromkeys(("epochs", "batch_size", "augmentation", "train_limit", "test_limit", "workers")),
        "choices": [],
        "p_schedule": "constant",
        "source": data,
        "device": device.value,
        "precision": precision.value,
        "channels_last": channels_last,
        "compile": compile,
        "deterministic": deterministic,
        **chosen.changes,
    }
    print(f"{table.value}, protocol {name}: {chosen.summary}")
    pages = {}
    for count in range(1, seeds + 1):
        for part in chosen.parts:
            folder = directory / folder_name(part.model) if len(chosen.parts) > 1 else directory
            poolings = ",".join(part.poolings)
            own = {**options, "model": part.model}
            _study(context.obj, own, poolings, range(count), where, folder, logger)
            pages[part.model] = write_report(folder)
    for model, page in pages.items():
        Console().print(terminal(page.parent))
        print(f"report of {model}: {page}")


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study.")],
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also put its tables into this page, each between its lines, such as <!-- study:NAME --> and "
            "<!-- /study:NAME -->, NAME being that of DIR; the other kinds are claims: and rules:.",
        ),
    ] = None,
) -> None:
    """Write the report of a study once more, from its results."""
    from empool.lab.report import write_report, write_table

    print(f"report: {write_report(directory)}")
    if into is not None:
        write_table(directory, into)


@app.command()
def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run, or of a study for all its runs.")],
    samples: Annotated[int, typer.Option(min=1, help="Members drawn for every image.")] = 32,
    data: Annotated[
        str | None, typer.Option(help="Data set or folder that the runs were trained on. Default: by its name.")
    ] = None,
    poolings: Annotated[str | None, typer.Option(help="Test these alone, with commas between. Default: all.")] = None,
    device: OnDevice = Device.auto,
) -> None:
    """Test trained networks by the expectation, by members drawn and averaged, and by plain max.

    An evaluation that is started again does what is missing.
    """
    from empool.lab.progress import progress

    with progress() as shown:
        from empool.lab.evaluate import evaluate as test

        records = test(directory, samples=samples, source=data, device=device.value, say=shown.say, poolings=poolings)

    from rich.console import Console

    from empool.lab.report import rules, table

    sheet = rules.sheet(records)
    assert sheet is not None  # There is a finished run.
    Console().print(table.plain(sheet, without=["Runs", "Points more"]))
    print("\n".join(sheet.notes))
    print(f"evaluation: {directory / 'evaluation.json'}")


@app.command()
def bench(
    context: typer.Context,
    device: Annotated[Device, typer.Option("--device", help="auto: the GPU if there is one.")] = Device.cpu,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all that was measured.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A subset, in at most a minute.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="That PyTorch uses on the CPU.")] = 2,
    dtypes: Annotated[
        str, typer.Option(help="With commas between; the first is measured most.")
    ] = "float32,bfloat16,float16",
    shapes: Annotated[str | None, typer.Option(help="Of inputs, such as 64x64x56x56,128x64x32x32.")] = None,
    only: Annotated[str, typer.Option(metavar="WORDS", help="Cases whose line has all of these words.")] = "",
    seconds: Annotated[
        float | None, typer.Option(min=0, help="That a case takes. Default: 1, or 0.3 on a GPU.")
    ] = None,
) -> None:
    """Time layers and operators beside PyTorch's, the obvious way to write them, and a plain copy."""
    from empool.lab.bench import bench as measure
    from empool.lab.bench import cases

    measure(
        device.value,
        json,
        quick=quick,
        threads=threads,
        dtypes=dtypes.split(","),
        shapes=cases.read_shapes(shapes) if shapes else None,
        only=only,
        seconds=seconds,
        command=context.obj,
    )


@app.command()
def show(
    output: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Draw to this SVG, PNG or PDF. Default: the terminal.")
    ] = None,
    p: Annotated[float, typer.Option(min=0, max=1, help="Probability of dropping the largest activation.")] = 0.4,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
) -> None:
    """Draw the training and the testing phase, on a small window of numbers and on an image."""
    from empool.lab.show import show as draw

    draw(output, p=p, seed=seed)


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Choose among a command's arguments those of `empool.lab.options.configure`."""
    return {
        "source": arguments["data"],
        "augmentation": arguments["augmentation"],
        "choices": arguments["recipe"] or [],
        "device": arguments["device"].value,
        "precision": arguments["precision"].value,
        **{
            name: arguments[name]
            for name in (
                *("model", "epochs", "batch_size", "train_limit", "test_limit"),
                *("channels_last", "p_schedule", "workers", "sync_batchnorm", "compile", "deterministic"),
            )
        },
    }


def _study(
    command: str,
    options: dict[str, Any],
    poolings: str | None,
    seeds: Sequence[int],
    where: tuple[str, str | None, int | None, float | None, int],
    out: Path | None,
    loggers: Sequence[Logger] | None,
    resume: bool | None = None,
) -> tuple[Path, list[dict[str, Any]]]:
    """Do the runs that are missing, and return the study's folder and all its records.

    `where` is what `empool.lab.launch.launcher` takes. With `resume` given, the one run is refused if it was begun and
    `resume` is False, or the other way round.
    """
    from empool.lab import parallel, processes, signals
    from empool.lab.progress import Lines, progress

    directory, folder = out, None
    silent = processes.started().rank > 0
    with Lines(io.StringIO()) if silent else progress() as shown, signals.raised():
        try:
            if where[-1] > 1:
                parallel.warm_up(options["device"])
            from empool.lab import loggers as trackers
            from empool.lab import study
            from empool.lab.launch import follow, launcher
            from empool.lab.options import DEFAULT_POOLINGS, check_p_schedule, configure, try_out
            from empool.lab.options import poolings as read_poolings
            from empool.lab.run import folder_name

            told = trackers.named([logger.value for logger in loggers or []])
            names = read_poolings(DEFAULT_POOLINGS if poolings is None else poolings, options["model"])
            if resume is not None and len(names) != 1:
                raise LabError(f"--pooling: expected one, got {', '.join(names)}; empool compare trains several")
            with launcher(*where) as place, processes.joined() as together:
                if together.count > 1 and where != _HERE:
                    what = "--launcher ray" if where[0] != _HERE[0] else "--jobs"
                    raise LabError(f"{what} does runs in one process each: leave out torchrun or srun")
                if together.count > 1 and options["compile"]:
                    raise LabError("--compile is for one process: leave out torchrun or srun")
                if silent:  # The first process says what is wrong with the options, and fetches the data.
                    directory = together.tell(None)
                config, data = configure(**options, say=shown.say, choose_device=place.device_named)
                if silent:
                    assert directory is not None
                    follow(data, directory, together)
                    raise typer.Exit
                check_p_schedule(config, names)
                directory = out or Path("runs") / folder_name(f"{config.data}-{config.model}")
                runs = study.plan(config, names, seeds)
                for run in runs[: len(names)]:
                    try_out(run, data)
                if resume is not None:
                    folder = runs[0].folder(directory)
                    _check_resume(folder, resume)
                together.tell(directory)
                return directory, study.run(directory, runs, data, place, shown, command, told)
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
    from empool.lab.checkpoint import begun

    if _is_to_resume(folder) and not resume:
        raise LabError(f"{folder} holds an unfinished run: --resume goes on with it, another --out starts a new one")
    if resume and not begun(folder):
        raise LabError(f"{folder} holds no run to resume: leave --resume out")


def _is_to_resume(folder: Path) -> bool:
    from empool.lab.checkpoint import begun

    return begun(folder) and not (folder / "result.json").exists()
