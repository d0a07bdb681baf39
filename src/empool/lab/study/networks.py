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
from empool.lab.errors import LabError, OwnError, own_code
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
    try:
        found: Any = getattr(own_code(f"{option} {spelling}", importlib.import_module, module), name, None)
    except OwnError as error:
        missing = getattr(error.__cause__, "name", None)
        if not isinstance(error.__cause__, ModuleNotFoundError) or not f"{module}.".startswith(f"{missing}."):
            raise
        raise LabError(f"{option} {spelling}: there is no module {missing} here or on PYTHONPATH") from None
    if not callable(found):
        raise LabError(f"{option} {spelling}: {module} has no callable {name}")
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
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        given = {name: value for name, value in given.items() if name in taken}
    made = own_code(f"--model {spelling}", factory, pooling, **given)
    if not isinstance(made, nn.Module):
        raise LabError(f"--model {spelling}: expected a torch.nn.Module, got {type(made).__name__}")
    return made
