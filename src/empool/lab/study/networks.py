"""Networks by name: those of `empool.models`, and a user's own as ``package.module:factory``."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from empool import models
from empool.distributions import Pooling
from empool.lab.errors import LabError, own_code
from empool.models import Network, Recipe


def is_own(spelling: str) -> bool:
    """Tell whether a spelling names a callable: ``package.module:factory``."""
    module, colon, name = spelling.partition(":")
    known = {known.partition(":")[0] for known in models.names()}
    return bool(colon) and name.isidentifier() and module not in known and module.replace(".", "").isidentifier()


def imported(option: str, spelling: str) -> Callable[..., Any]:
    """Import what ``package.module:factory`` names, from the working directory too; `option` is for messages."""
    module, _, name = spelling.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # So do the processes that runs are done in.
    with own_code(f"{option} {spelling}"):
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise LabError(f"{option} {spelling}: there is no module {error.name} here or on PYTHONPATH") from None
    found: Any = getattr(loaded, name, None)
    if found is None:
        raise LabError(f"{option} {spelling}: {module} has no {name}")
    if not callable(found):
        raise LabError(f"{option} {spelling}: expected a callable, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def network(spelling: str) -> Network:
    """Look a network up; a factory's attribute ``recipe``, an `empool.models.Recipe`, says how it is trained."""
    if not is_own(spelling):
        return models.network(spelling)
    factory = imported("--model", spelling)
    recipe = getattr(factory, "recipe", Recipe())
    if not isinstance(recipe, Recipe):
        raise LabError(f"--model {spelling}: expected its recipe to be an empool.models.Recipe, got {recipe!r}")
    return Network(factory, recipe)


def create(spelling: str, num_classes: int, pooling: Pooling | None, in_channels: int, **options: Any) -> nn.Module:
    """Make a network with fresh weights.

    A factory is called with the pooling first, and by name with ``num_classes``, ``in_channels`` and ``image_size``
    where it takes them; it returns a module from images to logits.
    """
    if not is_own(spelling):
        return models.create(spelling, num_classes=num_classes, pooling=pooling, in_channels=in_channels, **options)
    factory = imported("--model", spelling)
    given = {"num_classes": num_classes, "in_channels": in_channels, **options}
    taken = inspect.signature(factory).parameters
    every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    with own_code(f"--model {spelling}"):
        made = factory(pooling, **{name: value for name, value in given.items() if every or name in taken})
    if not isinstance(made, nn.Module):
        raise LabError(f"--model {spelling}: expected a torch.nn.Module, got {type(made).__name__}")
    return made
