"""The options of a study: each once, with its default, and its group and help on the command line."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from empool.lab.errors import LabError
from empool.lab.files import checked

Device = Literal["auto", "cpu", "cuda"]


def _option(group: str, default: Any, help: str, **settings: Any) -> Any:
    return dataclasses.field(default=default, metadata={"rich_help_panel": group, "help": help, **settings})


_data, _training = partial(_option, "Data and network"), partial(_option, "Training")
_study, _where = partial(_option, "Study"), partial(_option, "Where it runs")
_count: dict[str, Any] = {"min": 1, "metavar": "N"}


@dataclass(frozen=True)
class What:
    """What is trained."""

    data: str = _data(
        "digits",
        "digits (default), cifar10, cifar100, svhn, fashion_mnist, cifar10-mini; a folder of parquet files or of "
        "train/CLASS/IMAGE and test/CLASS/IMAGE; or package.module:factory.",
        metavar="DATA",
    )
    label_column: str | None = _data(None, "Column of the labels in parquet files.", metavar="NAME")
    model: str = _data(
        "cnn",
        "cnn (default), resnet:20, preact_resnet:164, stochastic_depth:110, dfn_mr:56, airbench, timm:resnet50; or "
        "package.module:factory, called with the pooling.",
        metavar="MODEL",
    )
    train_limit: int | None = _data(None, "Training images to use, the same number per class.", **_count)
    test_limit: int | None = _data(None, "Test images to use, the same number per class.", **_count)
    validation: float = _data(
        0.0, "Share of the training images to hold out; their error is also reported.", min=0, max=1, metavar="SHARE"
    )
    epochs: int | None = _training(None, "Default: the recipe's; 5 on digits.", **_count)
    batch_size: int | None = _training(None, "Default: the recipe's.", **_count)
    augment: str | None = _training(
        None, "none, crop:P, mirror or crop:P,mirror. Default: what suits the data.", metavar="SPELLING"
    )
    recipe: list[str] | None = _training(
        None,
        "Repeatable. Fields: learning_rate, momentum, weight_decay, warmup, schedule (cosine, step), milestones "
        "(0.5,0.75), decay, and the network's own, such as width.",
        metavar="FIELD=VALUE",
    )
    p_schedule: str = _training(
        "constant", "How p changes: constant, warmup:EPOCHS, anneal:FINAL or cosine:FINAL.", metavar="SPELLING"
    )
    sync_batchnorm: bool = _training(False, "Batch statistics over all GPUs.")
    workers: int | None = _where(None, "Processes that load images, if not in memory.", min=0, metavar="N")


@dataclass(frozen=True)
class How:
    """How it is computed, and where it is written."""

    precision: Literal["float32", "bfloat16"] = _training("float32", "bfloat16: automatic mixed precision.")
    channels_last: bool = _training(True, "Memory format. Default: channels last.")
    compile: bool = _training(False, "Compile training steps (torch.compile); the first takes minutes.")
    deterministic: bool = _training(False, "The same bits each time, on a GPU too.")
    logger: list[str] | None = _study(
        None, "Log also to tensorboard, mlflow or wandb (empool[NAME]). Repeatable.", metavar="NAME"
    )
    out: Path | None = _study(
        None, "Folder. Default: runs/DATA-MODEL, or runs/TABLE-PROTOCOL for reproduce.", metavar="DIR"
    )
    device: Device = _where("auto", "Default: auto, the GPU if there is one.")


@dataclass(frozen=True)
class Where:
    """Where several runs go."""

    jobs: int = _where(1, "Runs at once; they share cores and GPU.", **_count)
    launcher: Literal["local", "ray"] = _where("local", "ray: a cluster (empool[ray]) whose nodes share the folders.")
    address: str | None = _where(None, "Ray cluster. Default: RAY_ADDRESS or a new one.", metavar="HOST:PORT")
    cpus_per_run: int | None = _where(None, "On Ray. Default: 1.", **_count)
    gpus_per_run: float | None = _where(None, "On Ray. 0.25 puts four runs on a GPU.", min=0, metavar="N")


@dataclass(frozen=True)
class Options(Where, How, What):
    """What the runs of a study have in common, and where they go; `compare` and the commands take these names."""

    def __post_init__(self) -> None:
        checked(vars(self), "compare", typing.get_type_hints(Options))
        for field in dataclasses.fields(self):
            given, least = getattr(self, field.name), field.metadata.get("min")
            if least is not None and given is not None and given < least:
                raise LabError(f"compare: expected {field.name} of at least {least}, got {given}")
