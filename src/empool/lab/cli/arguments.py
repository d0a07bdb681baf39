"""Options that several commands have: each once, with its help and its group."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

Device = Literal["auto", "cpu", "cuda"]


def _option(kind: Any, default: Any, group: str, help: str, *names: str, **settings: Any) -> tuple[Any, Any]:
    """Give an option's annotation and default."""
    return Annotated[
        kind, typer.Option(*names, help=help, rich_help_panel=group, show_default=False, **settings)
    ], default


def _count(default: int | None, group: str, help: str, least: int = 1) -> tuple[Any, Any]:
    return _option(int if default else int | None, default, group, help, min=least, metavar="N")


# By name, which is that of `empool.lab.execute.session.study`'s argument.
_DATA = {
    "data": _option(
        str,
        "digits",
        "Data and network",
        "digits (default), cifar10, cifar100, svhn, fashion_mnist, cifar10-mini; a folder of parquet files or of "
        "train/CLASS/IMAGE and test/CLASS/IMAGE; hfds/NAME for timm; or package.module:factory.",
    ),
    "label_column": _option(
        str | None, None, "Data and network", "Column of the labels in parquet files.", metavar="NAME"
    ),
    "model": _option(
        str,
        "cnn",
        "Data and network",
        "cnn (default), resnet:20, preact_resnet:164, stochastic_depth:110, dfn_mr:56, airbench, timm:resnet50; or "
        "package.module:factory, called with the pooling.",
    ),
    "train_limit": _count(None, "Data and network", "Training images, as many of each class."),
    "test_limit": _count(None, "Data and network", "Test images, as many of each class."),
    "validation": _option(
        float,
        0.0,
        "Data and network",
        "Share of the training images to hold out; the errors are measured on it.",
        min=0,
        max=1,
        metavar="SHARE",
    ),
}
_RECIPE = {
    "epochs": _count(None, "Training", "Default: the recipe's; 5 on digits."),
    "batch_size": _count(None, "Training", "Default: the recipe's."),
    "augment": _option(
        str | None,
        None,
        "Training",
        "none, crop:P, mirror or crop:P,mirror. Default: what suits the data.",
        metavar="SPELLING",
    ),
    "recipe": _option(
        list[str] | None,
        None,
        "Training",
        "Repeatable. Fields: learning_rate, momentum, weight_decay, warmup, schedule (cosine, step), milestones "
        "(0.5,0.75), decay, and the network's own, such as width.",
        metavar="FIELD=VALUE",
    ),
    "p_schedule": _option(
        str,
        "constant",
        "Training",
        "How p changes: constant, warmup:EPOCHS, anneal:FINAL or cosine:FINAL.",
        metavar="SPELLING",
    ),
    "sync_batchnorm": _option(bool, False, "Training", "Batch statistics over all GPUs.", "--sync-batchnorm"),
}
_HOW = {
    "precision": _option(Literal["float32", "bfloat16"], "float32", "Training", "bfloat16 is mixed."),
    "channels_last": _option(bool, True, "Training", "Memory format. Default: channels last."),
    "compile": _option(
        bool, False, "Training", "Compile training steps (torch.compile); the first takes minutes.", "--compile"
    ),
    "deterministic": _option(bool, False, "Training", "The same bits each time, on a GPU too.", "--deterministic"),
    "logger": _option(
        list[str] | None,
        None,
        "Study",
        "Log to tensorboard, mlflow or wandb (empool[NAME]) too. Repeatable.",
        metavar="NAME",
    ),
    "out": _option(Path | None, None, "Study", "Folder. Default: runs/DATA-MODEL.", metavar="DIR"),
    "device": _option(Device, "auto", "Where it runs", "Default: auto, the GPU if there is one."),
}
_WORKERS = {"workers": _count(None, "Where it runs", "Processes that load images, if not in memory.", 0)}
SEVERAL = {  # of a study of several runs
    "jobs": _count(1, "Where it runs", "Runs at once; they share cores and GPU."),
    "launcher": _option(
        Literal["local", "ray"], "local", "Where it runs", "ray: a cluster (empool[ray]) whose nodes share the folders."
    ),
    "address": _option(str | None, None, "Where it runs", "Of the Ray cluster; local starts one.", metavar="HOST:PORT"),
    "cpus_per_run": _count(None, "Where it runs", "On Ray. Default: 1."),
    "gpus_per_run": _option(float | None, None, "Where it runs", "On Ray; 0.25: four runs a GPU.", min=0, metavar="N"),
    "seeds": _count(3, "Study", "Runs of each pooling. Default: 3."),
    "baseline": _option(str, "max", "Study", "Row that the others are compared with. Default: max.", metavar="POOLING"),
    **_HOW,
}
ONE = {**_DATA, **_RECIPE, **_WORKERS, **_HOW}  # of a study of one run
ALL = {**ONE, **SEVERAL}


def taking(options: dict[str, tuple[Any, Any]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options in place of its `**options`."""

    def give(command: Callable[..., None]) -> Callable[..., None]:
        parameters = dict(inspect.signature(command, eval_str=True).parameters)
        del parameters["options"]
        for name, (kind, default) in options.items():
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
            title = getattr(parameter, "rich_help_panel", None) or "Options"
            if parameter.param_type_name == "argument":
                title = "Arguments"
            if (record := parameter.get_help_record(ctx)) is not None:
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)
