"""Options that several commands have: each once, with its help and its group."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

Device = Literal["auto", "cpu", "cuda"]
_DATA, _TRAINING, _WHERE, _STUDY = "Data and network", "Training", "Where it runs", "Study"


def _option(panel: str, help: str, *names: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **settings)


# By name, which is that of `empool.lab.execute.configure.Options`, `Where` or of the study: type, default.
OPTIONS: dict[str, tuple[Any, Any]] = {
    "data": (
        Annotated[
            str,
            _option(
                _DATA,
                "digits (default), cifar10, cifar100, svhn, fashion_mnist, cifar10-mini; a folder of parquet files or "
                "of train/CLASS/IMAGE and test/CLASS/IMAGE; hfds/NAME for timm; or package.module:factory.",
            ),
        ],
        "digits",
    ),
    "label_column": (Annotated[str | None, _option(_DATA, "Of parquet files.", metavar="NAME")], None),
    "model": (
        Annotated[
            str,
            _option(
                _DATA,
                "cnn (default), resnet:20, preact_resnet:164, stochastic_depth:110, dfn_mr:56, airbench, "
                "timm:resnet50; or package.module:factory, called with the pooling.",
            ),
        ],
        "cnn",
    ),
    "train_limit": (
        Annotated[int | None, _option(_DATA, "Training images, as many of each class.", min=1, metavar="N")],
        None,
    ),
    "test_limit": (Annotated[int | None, _option(_DATA, "Test images, likewise.", min=1, metavar="N")], None),
    "validation": (
        Annotated[
            float,
            _option(_DATA, "Share of the training images to hold out and measure.", min=0, max=1, metavar="SHARE"),
        ],
        0.0,
    ),
    "epochs": (
        Annotated[int | None, _option(_TRAINING, "Default: the recipe's; 5 on digits.", min=1, metavar="N")],
        None,
    ),
    "batch_size": (Annotated[int | None, _option(_TRAINING, "Default: the recipe's.", min=1, metavar="N")], None),
    "augment": (
        Annotated[
            str | None,
            _option(
                _TRAINING, "none, crop:P, mirror or crop:P,mirror. Default: what suits the data.", metavar="SPELLING"
            ),
        ],
        None,
    ),
    "recipe": (
        Annotated[
            list[str] | None,
            _option(
                _TRAINING,
                "Repeatable. Fields: learning_rate, momentum, weight_decay, warmup, schedule (cosine, step), "
                "milestones (0.5,0.75), decay, and the network's own, such as width.",
                metavar="FIELD=VALUE",
            ),
        ],
        None,
    ),
    "p_schedule": (
        Annotated[
            str,
            _option(
                _TRAINING, "How p changes: constant, warmup:EPOCHS, anneal:FINAL or cosine:FINAL.", metavar="SPELLING"
            ),
        ],
        "constant",
    ),
    "precision": (Annotated[Literal["float32", "bfloat16"], _option(_TRAINING, "bfloat16 is mixed.")], "float32"),
    "channels_last": (Annotated[bool, _option(_TRAINING, "Memory format. Default: channels last.")], True),
    "compile": (Annotated[bool, _option(_TRAINING, "By torch.compile; takes minutes at first.", "--compile")], False),
    "deterministic": (
        Annotated[bool, _option(_TRAINING, "The same bits each time, on a GPU too.", "--deterministic")],
        False,
    ),
    "sync_batchnorm": (
        Annotated[bool, _option(_TRAINING, "Over the whole batch of several GPUs.", "--sync-batchnorm")],
        False,
    ),
    "device": (Annotated[Device, _option(_WHERE, "Default: auto, the GPU if there is one.")], "auto"),
    "workers": (
        Annotated[int | None, _option(_WHERE, "Processes that load images, if not in memory.", min=0, metavar="N")],
        None,
    ),
    "jobs": (Annotated[int, _option(_WHERE, "Runs at once; they share cores and GPU.", min=1, metavar="N")], 1),
    "launcher": (
        Annotated[
            Literal["local", "ray"], _option(_WHERE, "ray: a cluster (empool[ray]) whose nodes share the folders.")
        ],
        "local",
    ),
    "address": (
        Annotated[str | None, _option(_WHERE, "Of the Ray cluster; local starts one.", metavar="HOST:PORT")],
        None,
    ),
    "cpus_per_run": (Annotated[int | None, _option(_WHERE, "On Ray. Default: 1.", min=1, metavar="N")], None),
    "gpus_per_run": (
        Annotated[float | None, _option(_WHERE, "On Ray; 0.25: four runs a GPU.", min=0, metavar="N")],
        None,
    ),
    "seeds": (Annotated[int, _option(_STUDY, "Runs of each pooling. Default: 3.", min=1, metavar="N")], 3),
    "baseline": (
        Annotated[str, _option(_STUDY, "Row that the others are compared with. Default: max.", metavar="POOLING")],
        "max",
    ),
    "logger": (
        Annotated[
            list[str] | None,
            _option(_STUDY, "Log to tensorboard, mlflow or wandb (empool[NAME]) too. Repeatable.", metavar="NAME"),
        ],
        None,
    ),
    "out": (Annotated[Path | None, _option(_STUDY, "Folder. Default: runs/DATA-MODEL.", metavar="DIR")], None),
}
WHERE = ("device", "jobs", "launcher", "address", "cpus_per_run", "gpus_per_run")
COMMON = tuple(name for name in OPTIONS if name not in (*WHERE, "seeds", "baseline"))


def taking(names: Sequence[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options of `OPTIONS` in place of its `**options`."""

    def give(command: Callable[..., None]) -> Callable[..., None]:
        parameters = dict(inspect.signature(command, eval_str=True).parameters)
        del parameters["options"]
        for name in names:
            kind, default = OPTIONS[name]
            parameters[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        command.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        command.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        return command

    return give


class Grouped(TyperCommand):
    """A command whose help has its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write them."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or "Options", []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)
