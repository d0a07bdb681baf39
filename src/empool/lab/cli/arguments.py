"""Options that several commands have, and the words that some of them take."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer


class Device(str, enum.Enum):
    """Where runs are computed."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(str, enum.Enum):
    """Number format of the network's arithmetic."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Table(str, enum.Enum):
    """A table of the deck."""

    table1 = "table1"
    table2 = "table2"


class Launcher(str, enum.Enum):
    """Where runs go."""

    local = "local"
    ray = "ray"


class Logger(str, enum.Enum):
    """An experiment tracker."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"
    wandb = "wandb"


Data = Annotated[
    str,
    typer.Option(
        help="digits, cifar10, cifar100, svhn, fashion_mnist, or a folder of parquet files or class folders; for a "
        "network of timm a folder with train/CLASS/IMAGE and val/CLASS/IMAGE, or hfds/NAME or hfids/NAME of the hub."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="Network: cnn, or NAME:DEPTH, such as resnet:20, of resnet (20), preact_resnet (164), stochastic_depth "
        "(110) and dfn_mr (56); or, for ImageNet, timm:NAME, such as timm:resnet50."
    ),
]
Epochs = Annotated[int | None, typer.Option(min=1, help="Default: the network's recipe; 5 on digits.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Images a step. Default: the network's recipe.")]
TrainLimit = Annotated[int | None, typer.Option(min=1, help="Training images used, as many of each class.")]
TestLimit = Annotated[int | None, typer.Option(min=1, help="Test images used, as many of each class.")]
Augmentation = Annotated[
    str | None,
    typer.Option(
        "--augment",
        help="none, crop:P, mirror or crop:P,mirror; see the recipe of timm:NAME. Default: what suits the data.",
    ),
]
Choices = Annotated[
    list[str] | None,
    typer.Option("--recipe", metavar="FIELD=VALUE", help="Another choice of the recipe; may be given several times."),
]
OnDevice = Annotated[Device, typer.Option("--device", help="auto: the GPU if there is one.")]
InPrecision = Annotated[Precision, typer.Option("--precision", help="bfloat16: mixed precision.")]
ChannelsLast = Annotated[bool, typer.Option(help="Memory format of weights and images.")]
PSchedule = Annotated[
    str,
    typer.Option(
        "--p-schedule",
        help="How the p of ensemble:P and max-dropout:P changes: constant, warmup:EPOCHS (from 0 to p), anneal:FINAL "
        "(from p to FINAL at the end) or cosine:FINAL (the same along half a cosine).",
    ),
]
SyncBatchNorm = Annotated[
    bool, typer.Option("--sync-batchnorm", help="Normalise over the whole batch where several processes share it.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0, help="Processes that read images, for a network of timm. Default: as many as cores, at most 8."
    ),
]
Where = Annotated[
    Launcher,
    typer.Option(
        "--launcher",
        help="Where runs go: to this machine, or as tasks to a Ray cluster (empool[ray]), whose nodes must all see the "
        "folder of --out, and that of --data if its images are streamed, at the same path.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Of the Ray cluster, one of whose nodes this must be; local starts one here. Default: RAY_ADDRESS, or "
        "the one that runs on this machine, or else one is started here.",
    ),
]
CpusPerRun = Annotated[int | None, typer.Option(min=1, help="On a Ray cluster; also PyTorch's threads. Default: 1.")]
GpusPerRun = Annotated[
    float | None, typer.Option(min=0, help="On a Ray cluster; 0.25 puts four runs on a GPU. Default: 1 on GPUs.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the training steps; the first one then takes up to minutes.")
]
Jobs = Annotated[
    int,
    typer.Option(min=1, help="Runs at once on this machine, each with its share of the cores; they share a GPU."),
]
Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="Algorithms alone that repeat a run bit for bit, on a GPU too; slower there."),
]
Loggers = Annotated[
    list[Logger] | None,
    typer.Option(
        "--logger",
        help="Also log to TensorBoard (into the folders of the runs), MLflow (to DIR/mlflow.db, or "
        "MLFLOW_TRACKING_URI) or Weights & Biases (offline unless logged in); may be given several times. Each needs "
        "the extra of its name.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder of the study. Default: runs/DATA-MODEL.")]
