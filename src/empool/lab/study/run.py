"""One run: what it is trained on, with what, and what came out."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

from empool import models
from empool.distributions import Pooling
from empool.lab.errors import LabError
from empool.lab.files import REWRITE, checked, read_object
from empool.lab.study import networks
from empool.models import Recipe

BASELINE = "max"  # what the others are held against unless another is named
_ANEW = "delete that folder, and train the run again"


@dataclass(frozen=True)
class RunConfig:
    """A run, except where it is computed (`device`, which changes no meaning)."""

    data: str  # name of the data set, or of its folder
    fingerprint: str  # of images and labels, or of their names if they are streamed; hexadecimal
    model: str  # spelling, "name" or "name:depth"
    pooling: str  # spelling, as empool.pooling takes it, and what the recipe has otherwise with it: max@epochs=5
    seed: int  # of initial weights, order of the images, augmentation and draws
    train_limit: int | None  # training images used, the same number of each class; None: all
    test_limit: int | None  # test images used, likewise
    recipe: Recipe  # epochs, batch size, learning rate, ... of all runs; see `training`
    precision: str = "float32"  # "float32", or "bfloat16" for mixed precision
    channels_last: bool = True  # memory format of weights and images
    device: str = "cpu"  # "cpu" or "cuda"
    sync_batchnorm: bool = False  # batch normalisation over the whole batch where several processes share it
    p_schedule: str = "constant"  # spelling, as empool.lab.train.schedule takes it; of the poolings that have a p
    compile: bool = False  # training steps through torch.compile, which draws and rounds otherwise
    deterministic: bool = False  # algorithms alone that repeat a run bit for bit, on a GPU too
    validation: float = 0.0  # share of the training images that is held out and measured
    workers: int | None = None  # processes that load images which are not in memory; None: as many as cores, at most 8

    @cached_property
    def layer(self) -> Pooling | None:
        """The pooling; None for the network as published, without."""
        return models.read_pooling(self.pooling.partition("@")[0])

    @cached_property
    def p(self) -> float | None:
        """The pooling's p, which can be scheduled; None if it has none."""
        return getattr(self.layer, "p", None)

    @cached_property
    def training(self) -> Recipe:
        """The recipe of this run: that of all, with what the pooling has of its own."""
        return changed(self.recipe, self.pooling.split("@")[1:])

    @property
    def title(self) -> str:
        """The run's name within its study."""
        return f"{self.pooling}, seed {self.seed}"

    def folder(self, directory: Path) -> Path:
        """Give the run's folder in that of its study."""
        return directory / folder_name(self.pooling) / str(self.seed)

    def settings(self) -> dict[str, Any]:
        """Give what all runs of a study have in common, as JSON has it."""
        return {k: v for k, v in self.to_json().items() if k not in ("pooling", "seed", "device", "workers")}

    def to_json(self) -> dict[str, Any]:
        """Give every field, as JSON has it."""
        fields = dataclasses.asdict(self)
        fields["recipe"] = {k: list(v) if isinstance(v, tuple) else v for k, v in fields["recipe"].items()}
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], where: str = "config.json") -> RunConfig:
        """Read what `to_json` gave; LabError says `where` something else is."""
        checked(fields, where, {"model": str, "pooling": str, "recipe": dict}, _ANEW)
        choices: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["recipe"].items()}
        try:
            known = networks.network(fields["model"]).recipe
            run = cls(**{**fields, "recipe": type(known)(**choices)})
            run.layer  # noqa: B018  # A spelling that there is not is refused.
        except (TypeError, ValueError) as error:
            raise LabError(f"{where}: {error}; {_ANEW}") from None
        checked(vars(run.recipe), where, {name: type(value) for name, value in vars(known).items()}, _ANEW)
        checked(vars(run), where, get_type_hints(cls), _ANEW)
        return run


def folder_name(pooling: str) -> str:
    """Spell a pooling so that any file system takes it: "ordinal:0.5,0.5" becomes "ordinal-0.5-0.5"."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", pooling)


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Say in which field two settings differ first, or None if they do not.

    A field that has a default, and is missing, has it: the settings are of a time before there was that field.
    """
    kinds = {"": RunConfig, "recipe.": type(networks.network(ours["model"]).recipe)}
    parts = {"": (ours, theirs), "recipe.": (ours["recipe"], theirs["recipe"])}
    fields = {(prefix, field) for prefix, both in parts.items() for field in {*both[0], *both[1]}} - {("", "recipe")}
    for prefix, field in sorted(fields, key="".join):
        default = getattr(kinds[prefix], field, None)
        mine, other = (settings.get(field, default) for settings in parts[prefix])
        if mine != other:
            shown = ("all" if value is None else value for value in (other, mine))
            return f"{prefix}{field} = {', not '.join(map(str, shown))}"
    return None


def results(directory: Path) -> list[dict[str, Any]]:
    """Read the records of the finished runs of a study, by seed and then in the order of the study's poolings."""
    study = read_study(directory)
    order = {pooling: place for place, pooling in enumerate(study["poolings"] if study else ())}
    records = []
    for path in directory.glob("*/*/result.json"):
        records.append(one := read_object(path, pooling=str, seed=int))
        if path.parent != directory / folder_name(str(one["pooling"])) / str(one["seed"]):
            raise LabError(f"{path} is of {one['pooling']}, seed {one['seed']}: put it back or delete it to start over")
    return sorted(records, key=lambda one: (one["seed"], order.get(one["pooling"], len(order)), one["pooling"]))


def read_study(directory: Path) -> dict[str, Any] | None:
    """Read study.json, with its commands and the configuration of all runs; None where there is none."""
    path = directory / "study.json"
    if not path.exists():
        return None
    typed = {"command": str, "poolings": list[str], "seeds": list[int]}
    study = read_object(path, configuration=dict, **typed)
    study["commands"] = study.get("commands") or [{name: study[name] for name in typed}]  # Older ones have one alone.
    checked(study, str(path), {"commands": list}, REWRITE)
    for one in study["commands"]:
        checked(one, f"{path}, commands", typed, REWRITE)
    return study


def check_baseline(baseline: str, poolings: Iterable[str]) -> None:
    """Refuse a baseline that is none of a study's poolings; the default one, for which nobody asked, may be missing."""
    named = dict.fromkeys(poolings)
    if baseline != BASELINE and baseline not in named:
        raise LabError(f'baseline: expected one of {", ".join(named)}, got "{baseline}"')


def planned(commands: Sequence[Mapping[str, Any]]) -> Set[tuple[str, int]]:
    """List the runs, by pooling and seed, of the last command that study.json has; those before it are superseded."""
    last = commands[-1]
    return dict.fromkeys((pooling, seed) for pooling in last["poolings"] for seed in last["seeds"]).keys()


def derived_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Derive the seed of one stream of random numbers; a stream a purpose and epoch needs no state to resume."""
    digest = hashlib.blake2b(f"{seed} {purpose} {epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def changed(recipe: Recipe, choices: Iterable[str]) -> Recipe:
    """Change fields of a recipe, each given once as "FIELD=VALUE", the value as the field's type."""
    fields = {known.name: getattr(recipe, known.name) for known in dataclasses.fields(recipe)}
    read: dict[str, Any] = {}
    for choice in choices:
        field, equals, text = choice.partition("=")
        if not equals or field not in fields:
            raise LabError(f'recipe: expected FIELD=VALUE with one of {", ".join(fields)}, got "{choice}"')
        if field in read:
            raise LabError(f"recipe: {field} is given twice; leave one of them out")
        default = fields[field]
        try:
            if isinstance(default, tuple):
                read[field] = tuple(float(number) for number in text.strip("()").split(",") if number.strip())
            elif isinstance(default, bool):
                read[field] = {"true": True, "false": False}[text.lower()]
            else:
                read[field] = type(default)(text)
        except (KeyError, ValueError):
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
            raise LabError(f'recipe: expected a value such as {field}={shown}, got "{choice}"') from None
    schedule = read.get("schedule", recipe.schedule)
    unused = [field for field in ("milestones", "decay") if field in read]
    if unused and schedule != "step":
        raise LabError(f'recipe: {unused[0]} is of schedule=step, and the schedule is "{schedule}"; leave it out')
    try:
        return dataclasses.replace(recipe, **read)
    except ValueError as error:
        raise LabError(str(error)) from None


def poolings(spellings: str | Iterable[str], model: str) -> list[str]:
    """Read the poolings for a network, each spelled as `str` does it and named once; "none" may be one.

    Spellings stand in a list, or with commas between: "max,ordinal:0.7,0.3" are two.
    """
    # What follows a comma and is no name, is a number of the pooling before it.
    parts = re.split(r",(?!\s*[-+.\d])", spellings) if isinstance(spellings, str) else map(str, spellings)
    try:
        named = []
        for part in parts:
            name, *own = part.strip().split("@")
            named.append("@".join((str(models.read_pooling(name) or models.NONE), *own)))
        if any(name.partition("@")[0] == models.NONE for name in named) and networks.network(model).needs_pooling:
            raise LabError(f"{models.NONE} keeps strided convolutions, and {model} has no such: name a pooling")
        return list(dict.fromkeys(named))
    except ValueError as error:
        raise LabError(str(error)) from None
