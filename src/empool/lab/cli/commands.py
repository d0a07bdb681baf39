"""The commands: what was typed, handed to the Python interface, which is imported when it is needed."""

from __future__ import annotations

from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from empool.lab.cli.arguments import Grouped, taking
from empool.lab.errors import LabError
from empool.lab.execute.options import Device, How, Options, What, Where
from empool.lab.execute.session import study
from empool.lab.watch.progress import Progress, result


def _study(help: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Study", **settings)


def _option(metavar: str, help: str, **settings: Any) -> Any:
    return typer.Option(metavar=metavar, help=help, **settings)


Seeds = Annotated[int, _study("Runs of each pooling.", min=1, metavar="N")]
Baseline = Annotated[str, _study("Row that the others are compared with.", metavar="POOLING")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study.")]
app = typer.Typer(
    help="Train one network with each pooling and compare the test errors.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"empool {package_version('empool')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
]


def _show(what: Any) -> None:
    from rich.console import Console

    Console().print(what)


@app.callback()
def _main(version: Version = False) -> None:
    pass


@app.command(cls=Grouped)
@taking(What, How, Where)
def compare(
    context: typer.Context,
    poolings: Annotated[
        str | None,
        _study(
            "Poolings, separated by commas, such as max,ensemble:0.1. A recipe field for one pooling follows @, such "
            "as ensemble:0.3@learning_rate=0.03. Default: max, average and five that sample.",
            metavar="LIST",
        ),
    ] = None,
    seeds: Seeds = 3,
    baseline: Baseline = "max",
    **options: Any,
) -> None:
    """Train a network with each pooling; compare the test errors.

    Run again, it does only what is missing.
    """
    directory, _ = study(Options(**options), poolings, range(seeds), command=context.obj, baseline=baseline)

    from empool.lab import report

    page = report.write_report(directory, baseline=baseline)
    _show(report.terminal(directory, baseline=baseline))
    print(report.verdict(directory, baseline))
    picture = directory / "error.svg"
    print(f"picture: {picture}\nreport: {page}" if picture.exists() else f"report: {page}")


@app.command(cls=Grouped)
@taking(What, How)
def train(
    context: typer.Context,
    pooling: Annotated[str, _study("Such as max, average or ensemble:0.1.", metavar="POOLING")] = "ensemble:0.1",
    seed: Annotated[int, _study("Seed of weights, order, augmentation and samples.", min=0, metavar="N")] = 0,
    resume: Annotated[bool, _study("Go on with an interrupted run.", "--resume")] = False,
    **options: Any,
) -> None:
    """Train a network with one pooling and one seed.

    It is a study of one run, to which others can be added.
    """
    directory, (record,) = study(Options(**options), pooling, [seed], command=context.obj, resume=resume)
    more = {"top-5": record.get("test_top5_error"), "validation": record.get("validation_error")}
    errors = "".join(f", {kind} error {error:.2f} %" for kind, error in more.items() if error is not None)
    print(f"{record['pooling']}, seed {seed}: {result(record)}{errors} after epoch {record['epochs']}; {directory}")


@app.command(cls=Grouped)
@taking(How, Where)
def reproduce(
    context: typer.Context,
    table: Annotated[
        Literal["table1", "table2"], typer.Argument(help="The poolings in a plain CNN, or the paper's networks.")
    ],
    protocol: Annotated[
        str | None,
        _option("NAME", "full, cpu or, for table1, full-plain. Default: full on a GPU, else cpu, which is short."),
    ] = None,
    data: Annotated[str, _option("DATA", "cifar10, or a folder that holds it.")] = "cifar10",
    seeds: Seeds = 3,
    baseline: Baseline = "max",
    **options: Any,
) -> None:
    """Train the networks of one of the paper's tables.

    The report has our errors beside the paper's. Run again, it does only what is missing.
    """
    from empool.lab.report import terminal, write_report
    from empool.lab.study import paper
    from empool.lab.study.run import BASELINE, check_baseline, folder_name
    from empool.lab.train import processes
    from empool.lab.train.device import device_named

    if processes.started().count > 1:
        raise LabError("empool reproduce trains one network in one process: leave out torchrun or srun")
    where = options["device"] if options["launcher"] == "ray" else device_named(options["device"])
    name = protocol or ("full" if where == "cuda" else "cpu")
    chosen = paper.TABLES[table].get(name)
    if chosen is None:
        raise LabError(f"{table}: expected protocol {', '.join(paper.TABLES[table])}, got {name}")
    directory = options.pop("out") or Path("runs") / f"{table}-{name}"
    check_baseline(baseline, [pooling for part in chosen.parts for pooling in part.poolings])
    print(f"{table}, protocol {name}: {chosen.summary}")
    for part in chosen.parts:
        folder = directory / folder_name(part.model) if len(chosen.parts) > 1 else directory
        own = Options(data=data, model=part.model, out=folder, **options, **chosen.changes)
        study(own, part.poolings, range(seeds), command=context.obj)
        own_baseline = baseline if baseline in part.poolings else BASELINE
        page = write_report(folder, baseline=own_baseline)
        _show(terminal(folder, baseline=own_baseline))
        print(f"report of {part.model}: {page}")


@app.command()
def report(
    directory: Folder,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also put the tables into this page, each between two lines such as <!-- study:NAME --> and "
            "<!-- /study:NAME -->, where NAME is the name of DIR. Other tables: nll:, claims: and rules:.",
        ),
    ] = None,
    baseline: Baseline = "max",
) -> None:
    """Write the report of a study again, from its results."""
    from empool.lab.report import write_report, write_table

    written = f"report: {write_report(directory, baseline=baseline)}, beside it table.md, table.tex and the plots"
    if into is not None:
        written += f"; tables in {into}: {', '.join(write_table(directory, into, baseline=baseline))}"
    print(written)


@app.command()
def power(directory: Folder, baseline: Baseline = "max") -> None:
    """Say how many seeds would decide each row of a study.

    It also says how large a difference the seeds at hand can show.
    """
    from empool.lab.report import power as plan

    _show(plan(directory, baseline))


@app.command()
def gain(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders of studies.")],
    out: Annotated[Path, _option("DIR", "Folder for gain.svg and gain.md.")] = Path("."),
    baseline: Baseline = "max",
) -> None:
    """Plot each pooling's gain against the generalisation gap."""
    from empool.lab.report import write_gain

    print(f"figure: {write_gain(directories, out, baseline)}")


@app.command()
def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run, or of a study for all its runs.")],
    samples: Annotated[int, _option("N", "Sub-networks sampled for every image.", min=1)] = 32,
    data: Annotated[str | None, _option("DATA", "What the runs were trained on. Default: by its name.")] = None,
    label_column: Annotated[str | None, _option("NAME", "Column of the labels in parquet files.")] = None,
    poolings: Annotated[str | None, _option("LIST", "Test only these, separated by commas. Default: all.")] = None,
    device: Annotated[Device, typer.Option(help="auto: the GPU if there is one.")] = "auto",
) -> None:
    """Test trained networks by four inference rules.

    They are the expectation, the same with recalibrated batch normalisation, sampled sub-networks averaged, and plain
    max-pooling. Run again, it does only what is missing.
    """
    with Progress():
        from empool.lab.analyse.evaluate import evaluate as test

        records = test(
            directory, samples=samples, source=data, device=device, poolings=poolings, label_column=label_column
        )

    from empool.lab.report import rules

    _show(rules(records))
    print(f"evaluation: {directory / 'evaluation.json'}")


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def bench(context: typer.Context) -> None:
    """Time layers and operators beside PyTorch's and a plain copy. `empool bench --help` lists the options."""
    from empool.bench.__main__ import main

    raise typer.Exit(main(context.args, "empool bench"))


@app.command()
def show(
    p: Annotated[float, _option("P", "Probability of dropping the largest activation.", min=0, max=1)] = 0.4,
    seed: Annotated[int, _option("N", "Seed of the samples.", min=0)] = 0,
) -> None:
    """Draw training and inference, of a window and an image."""
    from empool.lab.cli.show import show as draw

    draw(p, seed)
