"""One run: what it is trained on, with what, and what came out."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empool import models
from empool.lab.files import read_json
from empool.models import Recipe


@dataclass(frozen=True)
class RunConfig:
    """A run, except where it is computed (`device`, which changes no meaning)."""

    data: str  # name of the data set, or of its folder
    fingerprint: str  # of images and labels, or of their names if they are streamed; hexadecimal
    model: str  # spelling, "name" or "name:depth"
    pooling: str  # spelling, as empool.pooling takes it
    seed: int  # of initial weights, order of the images, augmentation and draws
    train_limit: int | None  # training images used, the same number of each class; None: all
    test_limit: int | None  # test images used, likewise
    recipe: Recipe  # epochs, batch size, learning rate, ...
    precision: str = "float32"  # "float32", or "bfloat16" for mixed precision
    channels_last: bool = True  # memory format of weights and images
    device: str = "cpu"  # "cpu" or "cuda"
    sync_batchnorm: bool = False  # batch normalisation over the whole batch where several processes share it
    p_schedule: str = "constant"  # spelling, as empool.lab.train.schedule takes it; of the poolings that have a p
    compile: bool = False  # training steps through torch.compile, which draws and rounds otherwise
    deterministic: bool = False  # algorithms alone that repeat a run bit for bit, on a GPU too

    def folder(self, directory: Path) -> Path:
        """Give the run's folder in that of its study."""
        return directory / folder_name(self.pooling) / str(self.seed)

    def settings(self) -> dict[str, Any]:
        """Give what all runs of a study have in common, as JSON has it."""
        settings = self.to_json()
        for field in ("pooling", "seed", "device"):
            del settings[field]
        return settings

    def to_json(self) -> dict[str, Any]:
        """Give every field, as JSON has it."""
        fields = dataclasses.asdict(self)
        fields["recipe"] = {k: list(v) if isinstance(v, tuple) else v for k, v in fields["recipe"].items()}
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> RunConfig:
        """Read what `to_json` gave."""
        recipe = type(models.network(fields["model"]).recipe)
        choices: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["recipe"].items()}
        return cls(**{**fields, "recipe": recipe(**choices)})


def folder_name(pooling: str) -> str:
    """Spell a pooling so that any file system takes it: "ordinal:0.5,0.5" becomes "ordinal-0.5-0.5"."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", pooling)


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Say in which field two settings differ first, or None if they do not.

    A field that has a default, and is missing, has it: the settings are of a time before there was that field.
    """
    recipe = type(models.network(ours["model"]).recipe)
    mine, others = _flat(ours), _flat(theirs)
    for field in sorted({*mine, *others}):
        default = getattr(recipe if field.startswith(_RECIPE) else RunConfig, field.removeprefix(_RECIPE), None)
        my, other = mine.get(field, default), others.get(field, default)
        if my != other:
            return f"{field} = {_shown(other)}, not {_shown(my)}"
    return None


_RECIPE = "recipe."


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Put the recipe's choices beside the other fields."""
    flat = {field: value for field, value in settings.items() if field != "recipe"}
    return flat | {_RECIPE + field: value for field, value in settings["recipe"].items()}


def _shown(value: object) -> str:
    return "all" if value is None else str(value)


def results(directory: Path) -> list[dict[str, Any]]:
    """Read the records of the finished runs of a study, by seed and then in the order of the study's poolings."""
    study = directory / "study.json"
    order = read_json(study)["poolings"] if study.exists() else []
    records = [read_json(path) for path in directory.glob("*/*/result.json")]

    def place(record: dict[str, Any]) -> tuple[int, int, str]:
        pooling = record["pooling"]
        return record["seed"], order.index(pooling) if pooling in order else len(order), pooling

    return sorted(records, key=place)


def planned(commands: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], None]:
    """List the runs, by pooling and seed, of the commands that study.json has; in their order, each once."""
    return dict.fromkeys((pooling, seed) for one in commands for pooling in one["poolings"] for seed in one["seeds"])


def derived_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Derive the seed of one stream of random numbers; a stream a purpose and epoch needs no state to resume."""
    digest = hashlib.blake2b(f"{seed} {purpose} {epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def own_p(pooling: str) -> float | None:
    """Give the p of a pooling, which `PSchedule` can schedule, or None if it has none."""
    p: float | None = getattr(models.read_pooling(pooling), "p", None)
    return p
