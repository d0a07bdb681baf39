"""Conversion of a network that is already there: other pooling in its layers, tandems for its strided convolutions."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.pooling import _AvgPoolNd, _LPPoolNd, _MaxPoolNd

from empool import modules
from empool._forward import max_pooling_calls
from empool.distributions import Average, Pooling
from empool.pooling import layer
from empool.tandem import halves, to_tandem

Filter = Callable[[str, nn.Module], bool]

_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
# Layers whose windows are known, and their number of spatial dimensions.
_POOLS: dict[type[nn.Module], int] = {
    getattr(library, f"{stem}{dims}d"): dims
    for library, stems in (
        (nn, ("MaxPool", "AvgPool", "LPPool")),
        (modules, ("EnsembleMaxPool", "MaxPoolDropout", "StochasticMaxPool", "StochasticPool", "RankPool")),
    )
    for stem in stems
    for dims in (1, 2, 3)
}
# Their windows depend on the input's size, or on chance.
_WINDOWLESS_MAX = (
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)
_WINDOWLESS = (*_WINDOWLESS_MAX, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


class Replacement(NamedTuple):
    """A module that was replaced; `name` is its dotted name, empty for the model itself."""

    name: str
    old: nn.Module
    new: nn.Module


class Conversion(list[Replacement]):
    """What `convert_` replaced, in the order of the model's modules; printed as a table.

    Attributes:
        left: what takes a maximum of windows and is still there, as pairs of a dotted name and what it is.
    """

    def __init__(self, replacements: Iterable[Replacement] = (), left: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(replacements)
        self.left = list(left)

    def __str__(self) -> str:
        rows = [(name or "(the model)", _describe(old), _summary(new)) for name, old, new in self]
        rows[:0] = [("module", "was", "is now")] if rows else []
        first, second = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
        lines = [f"{name:{first}}  {was:{second}}  {now}" for name, was, now in rows] or ["nothing to replace"]
        return "\n".join([*lines, *(f"left as it is: {name or 'the model'}, {what}" for name, what in self.left)])

    __repr__ = __str__


def convert_(
    model: nn.Module, pooling: Pooling, *, filter_fn: Filter | None = None, strided_convs: bool = False
) -> Conversion:
    """Give a network's layers another pooling, in place.

    Parameters, buffers and their names stay as they are, so a `state_dict` from before the conversion loads after it. A
    layer's geometry, phase and hooks are carried over exactly. A module that the model holds in several places is
    judged once, by its first name, and is one module afterwards, too. Converting again changes nothing; name empool's
    layers by `filter_fn` to give them another pooling.

    Args:
        model: any module; a max-pooling layer may also be all there is.
        pooling: what to pool with.
        filter_fn: takes the dotted name and the module of each pooling layer, and with `strided_convs` of each
            convolution with stride 2, and tells whether to replace it. By default: of the layers, max-pooling
            (`torch.nn.MaxPool1d`, `2d` and `3d`), and all of these convolutions.
        strided_convs: turn convolutions with stride 2 into tandems, see `empool.tandem.to_tandem`.

    Returns:
        What was replaced, a list of (name, old, new) that prints as a table. Its `left` names layers and calls inside a
        forward that take a maximum of windows and are left; the calls are also warned of.

    Raises:
        ValueError: naming every module that would be replaced but has no exact counterpart, such as a tandem with
            outputs of another size; nothing is replaced then.
        TypeError: if `pooling` is no pooling.

    Example:
        >>> import empool
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        >>> print(empool.convert_(net, empool.EnsembleMax(0.1)))
        module  was                                                                         is now
        2       MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)  EnsembleMaxPool2d(p=0.1)
    """
    if not isinstance(pooling, Pooling):
        raise TypeError(
            f"convert_: expected an empool pooling such as empool.EnsembleMax(0.1), got {type(pooling).__name__}"
        )
    new: dict[nn.Module, nn.Module] = {}
    refused: list[str] = []
    for name, module in model.named_modules():
        if not _chosen(name, module, filter_fn, strided_convs):
            continue
        try:
            made = _counterpart(module, pooling)
        except (TypeError, ValueError) as error:
            refused.append(f"{name or 'the model'}, {_describe(module)}: {error}")
            continue
        if not _same(made, module):
            new[module] = made
    if refused:
        raise ValueError(
            "convert_: nothing is converted, since these have no exact counterpart; leave them out with filter_fn\n  "
            + "\n  ".join(refused)
        )
    conversion = Conversion(_replaced(model, new), _left(model))
    calls = [f"{name or 'the model'} ({what})" for name, what in conversion.left if what.startswith("calls ")]
    if calls:
        warnings.warn(
            f"convert_: these modules pool by a function and keep doing so: {', '.join(calls)}; "
            "call a layer of the module in its place to have it converted",
            stacklevel=2,
        )
    return conversion


def _chosen(name: str, module: nn.Module, filter_fn: Filter | None, strided_convs: bool) -> bool:
    if isinstance(module, (_MaxPoolNd, _AvgPoolNd, _LPPoolNd, *_WINDOWLESS)):
        return isinstance(module, _MAX_POOLS) if filter_fn is None else filter_fn(name, module)
    return strided_convs and halves(module) and (filter_fn is None or filter_fn(name, module))


def _counterpart(module: nn.Module, pooling: Pooling) -> nn.Module:
    """Make what is to stand in a module's place.

    Raises:
        ValueError: if nothing has the same geometry.
        TypeError: if nothing can, because the module does more than its kind does.
    """
    if halves(module):
        return to_tandem(module, pooling)  # type: ignore[arg-type]
    if isinstance(module, _WINDOWLESS):
        raise ValueError("it has no windows of one size")
    if type(module) not in _POOLS:
        raise TypeError("its class is not one of torch.nn's own, so its forward may do more than pool")
    old: Any = module
    return_indices = getattr(old, "return_indices", False)
    if getattr(old, "divisor_override", None) is not None:
        raise ValueError("its divisor_override has no counterpart")
    if type(pooling) is Average and return_indices:
        raise ValueError("an average has no indices to return")
    made: Any = layer(
        pooling,
        _POOLS[type(module)],
        old.kernel_size,
        old.stride,
        getattr(old, "padding", 0),
        getattr(old, "dilation", 1),
        old.ceil_mode,
    )
    if return_indices:
        made.return_indices = True
    vars(made).update({name: value for name, value in vars(old).items() if "_hook" in name})
    made.train(old.training)
    return made  # type: ignore[no-any-return]


def _same(made: nn.Module, module: nn.Module) -> bool:
    """Tell whether two layers are of one class and hold the same arguments."""
    ours, theirs = (
        {name: value for name, value in vars(each).items() if not name.startswith("_")} for each in (made, module)
    )
    return type(made) is type(module) and ours == theirs


def _replaced(model: nn.Module, new: dict[nn.Module, nn.Module]) -> list[Replacement]:
    """Put every new module in all the places of its old one, and list them."""
    if model in new:  # Nobody holds the model for us, so it becomes the new module itself.
        old = copy.copy(model)
        made = new[model]
        model.__class__ = type(made)
        vars(model).clear()
        vars(model).update(vars(made))
        return [Replacement("", old, model)]
    replacements = []
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in new:
            parent, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(parent), own_name, new[module])
            replacements.append(Replacement(name, module, new[module]))
    return replacements


def _left(model: nn.Module) -> list[tuple[str, str]]:
    left = []
    for name, module in model.named_modules():
        if isinstance(module, _WINDOWLESS_MAX):
            left.append((name, _describe(module)))
        calls = max_pooling_calls(module)
        if calls:
            left.append((name, f"calls {', '.join(calls)}"))
    return left


def _describe(module: nn.Module) -> str:
    """Write a layer in one line."""
    return f"{type(module).__name__}({module.extra_repr()})"


def _summary(module: nn.Module) -> str:
    """Write what is new about a layer in one line: not the geometry, which is the old one's."""
    own = [f"{name}={getattr(module, name)}" for name in getattr(module, "_own", ())]
    own += [_summary(child) for child in module.children()]
    return f"{type(module).__name__}({', '.join(own)})"
