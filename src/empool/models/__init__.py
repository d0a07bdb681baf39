"""The networks of the experiments, by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from empool.distributions import Pooling
from empool.models import airbench, cnn, dfn_mr, imagenet, preact_resnet, resnet, stochastic_depth
from empool.models.airbench import Airbench
from empool.models.channel_max import ChannelDrop, ChannelMax2d
from empool.models.cnn import CNN
from empool.models.dfn_mr import DFNMR
from empool.models.imagenet import ImageNetRecipe
from empool.models.preact_resnet import PreActResNet
from empool.models.recipe import Recipe
from empool.models.resnet import ResNet
from empool.models.stochastic_depth import StochasticDepth
from empool.pooling import pooling as _pooling

__all__ = [
    "CNN",
    "DFNMR",
    "Airbench",
    "ChannelDrop",
    "ChannelMax2d",
    "ImageNetRecipe",
    "Network",
    "PreActResNet",
    "Recipe",
    "ResNet",
    "StochasticDepth",
    "create",
    "names",
    "network",
    "read_pooling",
]

NONE = "none"
"""The spelling of no pooling, with which a network's strided convolutions stay."""

TIMM = "timm"
"""What precedes the colon in the spelling of a network of timm."""


@dataclass(frozen=True)
class Network:
    """What the registry knows about a network.

    Attributes:
        build: makes it; takes num_classes, pooling, in_channels, options of its own, and depth if `depths` is given.
        recipe: how it is trained.
        recipes: how it is trained at the depths that have another recipe.
        assumptions: what its sources leave open, and what was chosen; plain sentences.
        depths: what may follow the colon in its name, in words; None for a network of one depth.
        needs_pooling: whether it can't be made without a pooling.
        streams: whether its images are too many and too large to be held in memory.
    """

    build: Callable[..., nn.Module]
    recipe: Recipe
    assumptions: tuple[str, ...] = ()
    depths: str | None = None
    recipes: Mapping[int, Recipe] = field(default_factory=dict)
    needs_pooling: bool = False
    streams: bool = False

    def options(self) -> frozenset[str]:
        """Return the names of the arguments that only this network takes."""
        return frozenset(inspect.signature(self.build).parameters) - {"num_classes", "pooling", "in_channels", "depth"}


AIRBENCH = "airbench"
"""What may stand before the widths of airbench's three groups, as in "airbench:64-128-128"."""

_NETWORKS: dict[str, Network] = {
    "cnn": Network(CNN, cnn.RECIPE, cnn.ASSUMPTIONS, needs_pooling=True),
    "resnet": Network(ResNet, resnet.RECIPE, resnet.ASSUMPTIONS, "6n+2", resnet.RECIPES),
    "preact_resnet": Network(
        PreActResNet, preact_resnet.RECIPE, preact_resnet.ASSUMPTIONS, "9n+2", preact_resnet.RECIPES
    ),
    "stochastic_depth": Network(StochasticDepth, stochastic_depth.RECIPE, stochastic_depth.ASSUMPTIONS, "6n+2"),
    "dfn_mr": Network(DFNMR, dfn_mr.RECIPE, dfn_mr.ASSUMPTIONS, "6n+2"),
}


def names() -> list[str]:
    """List the known networks as they are spelled; DEPTH stands for a number, NAME for a name that timm knows."""
    own = sorted(f"{name}:DEPTH" if known.depths else name for name, known in _NETWORKS.items())
    return [*own, f"{AIRBENCH}:W-W-W", f"{TIMM}:NAME"]


def network(spelling: str) -> Network:
    """Look up a network; its `recipe` is that of its depth.

    Args:
        spelling: "name", "name:depth", "airbench:W-W-W", or "timm:name"; timm looks up its name when the network is
            made.

    Raises:
        ValueError: for an unknown name, or a depth that is missing, superfluous or not a number.
    """
    name, colon, depth = spelling.partition(":")
    if name == TIMM and depth:
        return Network(functools.partial(imagenet.build, depth), imagenet.RECIPE, imagenet.ASSUMPTIONS, streams=True)
    if name == AIRBENCH:
        build = functools.partial(Airbench, widths=airbench.read_widths(depth)) if colon else Airbench
        return Network(build, airbench.RECIPE, airbench.ASSUMPTIONS, needs_pooling=True)
    known = _NETWORKS.get(name)
    if known is None:
        raise ValueError(f'models: expected one of {", ".join(names())}, got "{spelling}"')
    if known.depths is None and colon:
        raise ValueError(f'models: expected "{name}" without a depth, got "{spelling}"')
    if known.depths is not None and not (depth.isascii() and depth.isdigit()):
        raise ValueError(f'models: expected "{name}:DEPTH", DEPTH being {known.depths}, got "{spelling}"')
    return replace(known, recipe=known.recipes[int(depth)]) if depth and int(depth) in known.recipes else known


def read_pooling(spelling: str) -> Pooling | None:
    """Read a spelling of what `create` takes as its pooling: one that `empool.pooling` reads, or "none".

    Raises:
        ValueError: for an unknown spelling, or a number out of range.
    """
    return None if spelling.strip() == NONE else _pooling(spelling)


def create(
    spelling: str, *, num_classes: int, pooling: Pooling | str | None = None, in_channels: int = 3, **options: Any
) -> nn.Module:
    """Make a network with fresh weights.

    Args:
        spelling: "name", "name:depth" or "timm:name", such as "cnn", "resnet:20" or "timm:resnet50".
        num_classes: number of outputs.
        pooling: which pooling it uses, or its spelling. A network that reduces its maps by strided convolutions is as
            published with None or "none"; with a pooling, each of these becomes a tandem of the pooling and the same
            convolution with stride 1. A network of timm has its max-pooling layers replaced, and its strided
            convolutions only with the option ``strided_convs=True``.
        in_channels: channels of the images.
        options: arguments that only this network takes, such as ``image_size``.

    Returns:
        A module from images ``(N, in_channels, H, W)`` to logits ``(N, num_classes)``.

    Raises:
        ValueError: for an unknown network or pooling, an argument out of range, or if a pooling is needed but None.
        TypeError: for an option that the network does not have.

    Example:
        >>> import empool, torch
        >>> net = empool.models.create("cnn", num_classes=10, pooling=empool.EnsembleMax(0.1))
        >>> net(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    known = network(spelling)
    if isinstance(pooling, str):
        pooling = read_pooling(pooling)
    unknown = sorted(set(options) - known.options())
    if unknown:
        raise TypeError(
            f"models: {spelling} has no option {', '.join(unknown)}; it has {', '.join(sorted(known.options()))}"
        )
    if pooling is None and known.needs_pooling:
        raise ValueError(f"models: expected a pooling for {spelling}, got None; without one it would not pool at all")
    if known.depths is not None:
        options["depth"] = int(spelling.partition(":")[2])
    return known.build(num_classes=num_classes, pooling=pooling, in_channels=in_channels, **options)
