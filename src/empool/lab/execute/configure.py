"""From options to the runs of a study and their data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from empool import models
from empool.lab.data import sources
from empool.lab.data.load import load_data
from empool.lab.data.sets import DataSet
from empool.lab.errors import LabError
from empool.lab.execute.options import Options
from empool.lab.study import networks, run
from empool.lab.study.run import RunConfig
from empool.lab.train import batches, schedule
from empool.lab.train.experiment import make_network
from empool.models import Network, Recipe

DEFAULT_POOLINGS = "max,average,stochastic,ensemble:0.1,ensemble:0.3,ensemble:0.5,max-dropout:0.2"
_SAME = {field.name for field in dataclasses.fields(Options)} & {field.name for field in dataclasses.fields(RunConfig)}


def configure(
    options: Options, poolings: Sequence[str], seeds: Sequence[int] = (0,), device: str = "cpu"
) -> tuple[list[RunConfig], DataSet]:
    """Load the data, and give the runs: all poolings with the first seed, then with the second, ..."""
    if not 0 <= options.validation < 1:
        raise LabError(f"validation: expected a share of the training images, from 0 to below 1: {options.validation}")
    if options.sync_batchnorm and device == "cpu":
        raise LabError("--sync-batchnorm is for GPUs: PyTorch has none for the CPU")
    try:
        network = networks.network(options.model)
        recipe = _recipe(network, options)
        p_schedule = schedule.parse(options.p_schedule)
    except ValueError as error:
        raise LabError(str(error)) from None
    if p_schedule.kind == "warmup" and p_schedule.number > recipe.epochs:
        raise LabError(f"p_schedule: {p_schedule} is longer than the training, whose epochs are {recipe.epochs}")
    limits, held_out, column = (options.train_limit, options.test_limit), options.validation, options.label_column
    data = load_data(network, options.data, *limits, options.workers, validation=held_out, label_column=column)
    common = {name: getattr(options, name) for name in _SAME} | {"recipe": recipe, "p_schedule": str(p_schedule)}
    common |= {"data": data.name, "fingerprint": data.fingerprint, "device": device}
    runs = [RunConfig(pooling=pooling, seed=seed, **common) for seed in seeds for pooling in poolings]
    if p_schedule.kind != "constant" and all(each.p is None for each in runs):
        needed = "a pooling with a p, ensemble:P or max-dropout:P"
        raise LabError(f"p_schedule: {p_schedule} needs {needed}, got {', '.join(poolings)}")
    # Networks are made without weights, so that what is wrong with one is said before anything is trained.
    for each in runs[: len(poolings)]:
        if each.layer is None and getattr(each.training, "strided_convs", True) is False:
            raise LabError(
                f"{models.NONE} and max are the same {each.model} unless --recipe strided_convs=true is given"
            )
        try:
            with torch.device("cpu" if networks.is_own(each.model) else "meta"):
                make_network(each, data)
        except ValueError as error:
            raise LabError(str(error)) from None
    return runs, data


def _recipe(network: Network, options: Options) -> Recipe:
    """Settle the recipe: the network's, changed by the options."""
    known, recipe = sources.KNOWN.get(options.data, sources.Known()), network.recipe
    if known.epochs:
        recipe = dataclasses.replace(recipe, epochs=known.epochs)
    given = {name: getattr(options, name) for name in ("epochs", "batch_size", "augment")}
    choices = [f"{name}={value}" for name, value in given.items() if value is not None]
    recipe = run.changed(recipe, [*choices, *(options.recipe or ())])
    if network.streams:
        return recipe
    if recipe.augment == "auto":
        return dataclasses.replace(recipe, augment=known.augment)
    batches.parse(recipe.augment)  # Other spellings are refused.
    return recipe
