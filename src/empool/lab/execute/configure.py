"""From options to the runs of a study and their data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from empool import models
from empool.lab.data import sources
from empool.lab.data.load import load_data
from empool.lab.data.sets import Data
from empool.lab.errors import LabError
from empool.lab.study import networks
from empool.lab.study.run import RunConfig, changed
from empool.lab.train import batches, schedule
from empool.lab.train.device import device_named
from empool.lab.train.experiment import make_network
from empool.models import Network, Recipe

DEFAULT_POOLINGS = "max,average,stochastic,ensemble:0.1,ensemble:0.3,ensemble:0.5,max-dropout:0.2"


@dataclass(frozen=True)
class Options:
    """What is the same in all runs of a study; the options of the commands have these names.

    Attributes:
        data: name of a data set, a folder, or ``package.module:factory``.
        model: spelling of a network, or ``package.module:factory``.
        epochs: in place of the recipe's, or of the data set's for a first look.
        batch_size: in place of the recipe's.
        augment: in place of the recipe's.
        recipe: other choices of the recipe, "FIELD=VALUE" each.
        train_limit: number of training images; None for all.
        test_limit: number of test images; None for all.
        validation: share of the training images that is held out and measured alone.
        label_column: of parquet files; None chooses it if there is no doubt.
        device: "auto", "cpu" or "cuda".
        precision: "float32", or "bfloat16" for mixed precision.
        channels_last: memory format.
        p_schedule: how the p of poolings that have one changes.
        workers: processes that load images which aren't in memory; None: by cores.
        sync_batchnorm: normalise over the whole batch where several processes share it.
        compile: the training steps.
        deterministic: refuse algorithms that give other bits each time.
    """

    data: str = "digits"
    model: str = "cnn"
    epochs: int | None = None
    batch_size: int | None = None
    augment: str | None = None
    recipe: Sequence[str] = ()
    train_limit: int | None = None
    test_limit: int | None = None
    validation: float = 0.0
    label_column: str | None = None
    device: str = "auto"
    precision: str = "float32"
    channels_last: bool = True
    p_schedule: str = "constant"
    workers: int | None = None
    sync_batchnorm: bool = False
    compile: bool = False
    deterministic: bool = False


def configure(
    options: Options, poolings: Sequence[str], choose_device: Callable[[str], str] = device_named
) -> tuple[list[RunConfig], Data]:
    """Load the data and settle every choice.

    Args:
        options: of the study.
        poolings: spellings, as `empool.lab.study.run.poolings` gives them.
        choose_device: says what the device stands for where the runs go.

    Returns:
        A run of each pooling, with seed 0, and the data set.

    Raises:
        LabError: for what doesn't exist or is out of range.
    """
    if options.precision not in ("float32", "bfloat16"):
        raise LabError(f'precision: expected float32 or bfloat16, got "{options.precision}"')
    if not 0 <= options.validation < 1:
        raise LabError(f"validation: expected a share of the training images, from 0 to below 1: {options.validation}")
    device = choose_device(options.device)
    if options.sync_batchnorm and device == "cpu":
        raise LabError("--sync-batchnorm is for GPUs: PyTorch has none for the CPU")
    try:
        network = networks.network(options.model)
        recipe = _recipe(network, options)
    except ValueError as error:
        raise LabError(str(error)) from None
    p_schedule = _p_schedule(options.p_schedule, recipe.epochs)
    data = load_data(
        network,
        options.data,
        options.train_limit,
        options.test_limit,
        options.workers,
        validation=options.validation,
        label_column=options.label_column,
    )
    same: tuple[str, ...] = (
        "model",
        "train_limit",
        "test_limit",
        "precision",
        "channels_last",
        "sync_batchnorm",
        "compile",
    )
    common: dict[str, Any] = {
        name: getattr(options, name) for name in (*same, "deterministic", "validation", "workers")
    }
    about: dict[str, Any] = {
        "data": data.name,
        "fingerprint": data.fingerprint,
        "device": device,
        "p_schedule": p_schedule,
    }
    runs = [RunConfig(pooling=pooling, seed=0, recipe=recipe, **about, **common) for pooling in poolings]
    if p_schedule != RunConfig.p_schedule and all(run.p is None for run in runs):
        raise LabError(
            f"p_schedule: {p_schedule} needs a pooling with a p, ensemble:P or max-dropout:P, got {', '.join(poolings)}"
        )
    for run in runs:
        _try_out(run, data)
    return runs, data


def _recipe(network: Network, options: Options) -> Recipe:
    """Settle the recipe: the network's, changed by the options."""
    known = sources.KNOWN.get(options.data)
    given = {name: getattr(options, name) for name in ("epochs", "batch_size", "augment")}
    given = {name: value for name, value in given.items() if value is not None}
    of_data = {"epochs": known.epochs} if known and known.epochs else {}
    for choice in options.recipe:
        field = choice.partition("=")[0]
        if field in given:
            raise LabError(f"recipe: {field} is given by --{field.replace('_', '-')} too; leave one of them out")
    recipe = changed(dataclasses.replace(network.recipe, **{**of_data, **given}), options.recipe)
    if network.streams:
        return recipe
    if recipe.augment == "auto":
        recipe = dataclasses.replace(recipe, augment=known.augment if known else sources.PATH_AUGMENT)
    return dataclasses.replace(recipe, augment=str(batches.parse(recipe.augment)))


def _p_schedule(spelling: str, epochs: int) -> str:
    try:
        read = schedule.parse(spelling)
    except ValueError as error:
        raise LabError(str(error)) from None
    if read.kind == "warmup" and read.number > epochs:
        raise LabError(f"p_schedule: {read} is longer than the training, whose epochs are {epochs}")
    return str(read)


def _try_out(run: RunConfig, data: Data) -> None:
    """Make a run's network without its weights, so that what is wrong with it is said before anything is trained.

    Raises:
        LabError: if it cannot be made, would be the same network as with max, or gives something else than logits.
    """
    if run.layer is None and getattr(run.training, "strided_convs", True) is False:
        raise LabError(f"{models.NONE} and max are the same {run.model} unless --recipe strided_convs=true is given")
    try:
        if not networks.is_own(run.model):
            with torch.device("meta"):
                make_network(run, data)
            return
        network = make_network(run, data).eval()
    except ValueError as error:
        raise LabError(str(error)) from None
    size = data.image_size or (224, 224)
    with torch.no_grad():
        logits = network(torch.zeros(2, data.in_channels, *size))
    if logits.shape != (2, len(data.classes)):
        raise LabError(
            f"--model {run.model}: expected logits (2, {len(data.classes)}) of 2 images, got {tuple(logits.shape)}"
        )
