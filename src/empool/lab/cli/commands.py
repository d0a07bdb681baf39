"""The commands and their options; what they need is imported when they run, so that help comes at once."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated, Any

import typer

from empool.lab.cli.arguments import (
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
from empool.lab.execute import session
from empool.lab.execute.session import Place

app = typer.Typer(
    help="Train one network with each pooling and compare the test errors.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    place = Place(launcher.value, address, cpus_per_run, gpus_per_run, jobs)
    directory, _ = session.study(context.obj, options, poolings, range(seeds), place, out, _names(logger))

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
    directory, records = session.study(
        context.obj, options, pooling, [seed], Place(), out, _names(logger), resume=resume
    )

    from empool.lab.train.options import poolings as read_poolings

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

    from empool.lab.report import terminal, write_report
    from empool.lab.study import reproduce as tables
    from empool.lab.study.run import folder_name
    from empool.lab.train import processes

    if processes.started().count > 1:
        raise LabError("empool reproduce trains one network in one process: leave out torchrun or srun")
    place = Place(launcher.value, address, cpus_per_run, gpus_per_run, jobs)
    name = protocol
    if name is None:
        with place.launcher() as there:
            name = "full" if there.device_named(device.value) == "cuda" else "cpu"
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
            session.study(context.obj, own, poolings, range(count), place, folder, _names(logger))
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
    from empool.lab.watch.progress import progress

    with progress() as shown:
        from empool.lab.analyse.evaluate import evaluate as test

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
    from empool.bench import bench as measure
    from empool.bench import cases

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
    from empool.lab.cli.show import show as draw

    draw(output, p=p, seed=seed)


def _names(loggers: Sequence[Logger] | None) -> list[str]:
    return [logger.value for logger in loggers or []]


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Choose among a command's arguments those of `empool.lab.train.options.configure`."""
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
