"""From the options of a command to a run's configuration and its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from empool import models
from empool.lab.data import sets as data
from empool.lab.data import sources
from empool.lab.data.sets import Data
from empool.lab.errors import LabError
from empool.lab.study.run import RunConfig, own_p
from empool.lab.train import augment, schedule
from empool.lab.train.experiment import make_network
from empool.models import Recipe

DEFAULT_POOLINGS = "max,average,stochastic,ensemble:0.1,ensemble:0.3,ensemble:0.5,max-dropout:0.2"


def poolings(spellings: str, model: str) -> list[str]:
    """Read a list of poolings for a network, each spelled as `str` does it and named once; "none" may be one.

    A number after a comma belongs to the pooling before it: "max,ordinal:0.7,0.3" are two.

    Raises:
        LabError: for an unknown pooling, one whose number is out of range, or "none" for a network that needs one.
    """
    parts: list[str] = []
    for part in spellings.split(","):
        if parts and _is_number(part):
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    try:
        named = list(dict.fromkeys(str(models.read_pooling(part) or models.NONE) for part in parts))
        if models.NONE in named and models.network(model).needs_pooling:
            raise LabError(f"{models.NONE} keeps strided convolutions, and {model} has no such: name a pooling")
        return named
    except ValueError as error:
        raise LabError(str(error)) from None


def configure(
    *,
    source: str,
    model: str,
    epochs: int | None,
    batch_size: int | None,
    augmentation: str | None,
    choices: Sequence[str],
    train_limit: int | None,
    test_limit: int | None,
    device: str,
    precision: str,
    channels_last: bool,
    p_schedule: str = "constant",
    workers: int | None = None,
    sync_batchnorm: bool = False,
    compile: bool = False,
    deterministic: bool = False,
    say: Callable[[str], None],
    choose_device: Callable[[str], str] | None = None,
) -> tuple[RunConfig, Data]:
    """Load the data and settle every choice of a run, apart from pooling and seed.

    Args:
        source: name of a data set, or a folder.
        model: spelling of a network.
        epochs: in place of the recipe's, or of the data set's for a first look.
        batch_size: in place of the recipe's.
        augmentation: in place of the recipe's.
        choices: "FIELD=VALUE" in place of the recipe's.
        train_limit: number of training images; None for all.
        test_limit: number of test images; None for all.
        device: "auto", "cpu" or "cuda".
        precision: "float32" or "bfloat16".
        channels_last: memory format.
        p_schedule: spelling of a schedule of p.
        sync_batchnorm: normalise over the whole batch where several processes share it.
        compile: the training steps.
        deterministic: refuse algorithms that give other bits each time.
        workers: processes that read and decode images, for networks whose images are not in memory; None: by cores.
        say: takes a line on what takes time.
        choose_device: says what `device` stands for where the runs go; None: `device_named`, on this machine.

    Raises:
        LabError: for what does not exist or is out of range.
    """
    device = (choose_device or device_named)(device)
    if sync_batchnorm and device == "cpu":
        raise LabError("--sync-batchnorm is for GPUs: PyTorch has none for the CPU")
    known = sources.KNOWN.get(source)
    given = {"epochs": epochs, "batch_size": batch_size, "augment": augmentation}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    of_data = {"epochs": known.epochs} if known and known.epochs else {}
    try:
        network = models.network(model)
        recipe = dataclasses.replace(network.recipe, **{**of_data, **options})
        recipe = dataclasses.replace(recipe, **_choices(recipe, choices, options))
        if not network.streams:
            if recipe.augment == "auto":
                recipe = dataclasses.replace(recipe, augment=known.augment if known else sources.PATH_AUGMENT)
            recipe = dataclasses.replace(recipe, augment=str(augment.parse(recipe.augment)))
    except ValueError as error:
        raise LabError(str(error)) from None
    loaded = load_data(network, source, train_limit, test_limit, workers, say)
    config = RunConfig(
        data=loaded.name,
        fingerprint=loaded.fingerprint,
        model=model,
        pooling="max",
        seed=0,
        train_limit=train_limit,
        test_limit=test_limit,
        recipe=recipe,
        precision=precision,
        channels_last=channels_last,
        device=device,
        p_schedule=_p_schedule(p_schedule, recipe.epochs),
        sync_batchnorm=sync_batchnorm,
        compile=compile,
        deterministic=deterministic,
    )
    if compile and config.p_schedule != RunConfig.p_schedule:
        raise LabError(f"--compile is for a constant p: each value that {p_schedule} gives it would be compiled anew")
    try_out(config, loaded)
    return config, loaded


def try_out(config: RunConfig, data: Data) -> None:
    """Make a run's network without its weights, so that what is wrong with it is said before anything is trained.

    Raises:
        LabError: if it cannot be made, or would be the same network as with max.
    """
    if config.pooling == models.NONE and getattr(config.recipe, "strided_convs", True) is False:
        raise LabError(f"{models.NONE} and max are the same {config.model} unless --recipe strided_convs=true is given")
    try:
        with torch.device("meta"):
            make_network(config, data)
    except ValueError as error:
        raise LabError(str(error)) from None


def load_data(
    network: models.Network,
    source: str,
    train_limit: int | None,
    test_limit: int | None,
    workers: int | None,
    say: Callable[[str], None],
) -> Data:
    """Load a data set into memory, or list its images for a network that streams them; arguments as of `configure`.

    Raises:
        LabError: for a source that is absent, incomplete or damaged, or workers that would have nothing to do.
    """
    if not network.streams:
        if workers is not None:
            raise LabError("--workers is for networks of timm: the images of the others are in memory")
        return data.load(source, train_limit, test_limit, say)
    from empool.lab.data import imagenet  # Needs packages that no other network does.

    return imagenet.load(source, train_limit, test_limit, workers, say)


def device_named(device: str) -> str:
    """Choose "cpu" or "cuda", which "auto" stands for.

    Raises:
        LabError: for "cuda" where there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise LabError("no CUDA device: use --device cpu")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def check_p_schedule(config: RunConfig, poolings: Sequence[str]) -> None:
    """Refuse a schedule of p that none of the poolings has; those that have none are trained as ever.

    Raises:
        LabError: in that case.
    """
    if config.p_schedule != RunConfig.p_schedule and all(own_p(pooling) is None for pooling in poolings):
        raise LabError(
            f"p_schedule: {config.p_schedule} needs a pooling with a p, ensemble:P or max-dropout:P, "
            f"got {', '.join(poolings)}"
        )


def _p_schedule(spelling: str, epochs: int) -> str:
    try:
        read = schedule.parse(spelling)
    except ValueError as error:
        raise LabError(str(error)) from None
    if read.kind == "warmup" and read.number > epochs:
        raise LabError(f"p_schedule: {read} is longer than the training, whose epochs are {epochs}")
    return str(read)


def _choices(recipe: Recipe, choices: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields of --recipe, each of which has its effect and is given once."""
    read: dict[str, Any] = {}
    for field, value in (_choice(recipe, choice) for choice in choices):
        if field in options:
            raise LabError(f"recipe: {field} is given by --{field.replace('_', '-')} too; leave one of them out")
        if field in read:
            raise LabError(f"recipe: {field} is given twice; leave one of them out")
        read[field] = value
    schedule = read.get("schedule", recipe.schedule)
    unused = [field for field in ("milestones", "decay") if field in read]
    if unused and schedule != "step":
        raise LabError(f'recipe: {unused[0]} is of schedule=step, and the schedule is "{schedule}"; leave it out')
    return read


def _choice(recipe: Recipe, choice: str) -> tuple[str, Any]:
    """Read "FIELD=VALUE", the value as the field's type."""
    field, equals, text = choice.partition("=")
    fields = {known.name: getattr(recipe, known.name) for known in dataclasses.fields(recipe)}
    if not equals or field not in fields:
        raise LabError(f'recipe: expected FIELD=VALUE with one of {", ".join(fields)}, got "{choice}"')
    default = fields[field]
    try:
        if isinstance(default, tuple):
            return field, tuple(float(number) for number in text.split(","))
        if isinstance(default, bool):
            return field, {"true": True, "false": False}[text.lower()]
        return field, type(default)(text)
    except (KeyError, ValueError):
        raise LabError(f'recipe: expected {field}={default} or the like, got "{choice}"') from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
