"""Conversion of an existing network: other pooling in its layers, tandems for its strided convolutions."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from empool import _private, modules
from empool._forward import max_pooling_calls
from empool.distributions import Average, Pooling
from empool.modules._layer import Pool
from empool.pooling import AvgPool2d, adaptive_layer, layer
from empool.pooling import pooling as read_pooling
from empool.tandem import halves, to_tandem

Filter = Callable[[str, nn.Module], bool]

_MAX_POOLS = tuple(getattr(nn, f"{kind}MaxPool{dims}d") for kind in ("", "Adaptive") for dims in (1, 2, 3))
_METHODS = ("EnsembleMaxPool", "MaxPoolDropout", "StochasticMaxPool", "StochasticPool", "SoftPool", "RankPool")


def _by_class(torch_stems: Iterable[str], prefix: str) -> dict[type[nn.Module], int]:
    """Return layers whose forward does nothing but pool, and their numbers of spatial dimensions."""
    stems = [*((nn, stem) for stem in torch_stems), *((modules, prefix + stem) for stem in _METHODS)]
    return {getattr(library, f"{stem}{dims}d"): dims for library, stem in stems for dims in (1, 2, 3)}


_POOLS = {**_by_class(("MaxPool", "AvgPool", "LPPool"), ""), AvgPool2d: 2}
_ADAPTIVE = _by_class(("AdaptiveMaxPool", "AdaptiveAvgPool"), "Adaptive")
# Their windows are random.
_WINDOWLESS = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
# What every module holds; of these, `_modules` is where it registers modules.
_ATTRIBUTES = frozenset(vars(nn.Module()))
_CALL_IN_GRAPH = re.compile(r"aten::((?:adaptive_|fractional_)?max_pool[123]d)")


class Replacement(NamedTuple):
    """A module that was replaced; `name` is its dotted name, empty for the model itself."""

    name: str
    old: nn.Module
    new: nn.Module


class Conversion(list[Replacement]):
    """What `convert_` replaced, in the order of the model's modules; printed as a table.

    Attributes:
        left: max-pooling that can't be converted, as pairs of a dotted name and what it is.
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
    model: nn.Module, pooling: Pooling | str, *, filter_fn: Filter | None = None, strided_convs: bool = False
) -> Conversion:
    """Replace a network's max-pooling layers by another pooling, in place.

    Parameters, buffers and their names stay as they are, so a `state_dict` from before the conversion loads after it. A
    layer's windows, mode (training or eval) and hooks are carried over. A module in several places stays one module.
    Converting again changes nothing; use `filter_fn` to give empool's own layers another pooling.

    Convert a model before `torch.jit.trace` or `torch.export`, which fix what it computes, and before
    `torch.ao.quantization` prepares it. A model that `torch.compile` wraps can be converted, before or after its first
    call.

    Args:
        model: any module; it may also be a single max-pooling layer.
        pooling: what to pool with, or its spelling, such as ``"ensemble:0.1"``.
        filter_fn: takes the dotted name and the module of each pooling layer, and with `strided_convs` of each
            convolution with stride 2, and returns whether to replace it. By default: PyTorch's max-pooling layers
            (`torch.nn.MaxPool2d`, `torch.nn.AdaptiveMaxPool2d` and their 1d and 3d twins), and all of these
            convolutions.
        strided_convs: turn convolutions with stride 2 into tandems, see `empool.tandem.to_tandem`.

    Returns:
        What was replaced: a list of (name, old, new) that prints as a table. Its `left` lists the max-pooling that
        can't be converted and stays, and a warning names it: calls of functions such as
        `torch.nn.functional.max_pool2d`, modules compiled by TorchScript, fractional max-pooling, and layers in plain
        lists or dicts, which `train()` and `eval()` don't reach.

    Raises:
        ValueError: if a module to be replaced has no exact counterpart, such as a tandem with outputs of another size.
            The message names all of them, and nothing is replaced. Also if `pooling` is not a known spelling.
        TypeError: if `pooling` is not a pooling, or `model` is not a module whose forward is Python.

    Example:
        >>> import empool
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        >>> print(empool.convert_(net, empool.EnsembleMax(0.1)))
        module  was                                                                         is now
        2       MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)  EnsembleMaxPool2d(p=0.1)
    """
    if isinstance(pooling, str):
        pooling = read_pooling(pooling)
    if not isinstance(pooling, Pooling):
        raise TypeError(
            f"convert_: expected an empool pooling such as empool.EnsembleMax(0.1), got {type(pooling).__name__}"
        )
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"convert_: expected a torch.nn.Module whose forward is Python, got {type(model).__name__}; "
            "convert the model that it was made from, then trace or export that"
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
    if conversion.left:
        left = ", ".join(f"{name or 'the model'} ({what})" for name, what in conversion.left)
        warnings.warn(
            f"convert_: this max-pooling can't be converted and stays: {left}; "
            "to have it converted, make it a max-pooling layer that a module registers",
            stacklevel=2,
        )
    return conversion


def _chosen(name: str, module: nn.Module, filter_fn: Filter | None, strided_convs: bool) -> bool:
    kinds = (*_private.POOLS, *_WINDOWLESS)
    if isinstance(module, kinds):
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
        raise ValueError("its windows are random")
    if type(module) not in {**_POOLS, **_ADAPTIVE}:
        raise TypeError("its class is not one of torch.nn's own, so its forward may do more than pool")
    if any(True for _ in module.parameters()):
        raise ValueError("its parameters would be lost")
    old: Any = module
    return_indices = getattr(old, "return_indices", False)
    if getattr(old, "divisor_override", None) is not None:
        raise ValueError("its divisor_override has no counterpart")
    if type(pooling) is Average and return_indices:
        raise ValueError("an average has no indices to return")
    made: Any
    if type(module) in _ADAPTIVE:
        made = adaptive_layer(pooling, _ADAPTIVE[type(module)], old.output_size)
    else:
        made = layer(
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
    if isinstance(made, Pool):
        vars(made).update({name: vars(old)[name] for name in ("seed", "generator", "tied") if name in vars(old)})
    vars(made).update({name: value for name, value in vars(old).items() if name == "_modules" or "_hook" in name})
    made.train(old.training)
    return made  # type: ignore[no-any-return]


def _same(made: nn.Module, module: nn.Module) -> bool:
    """Tell whether two layers are of one class and hold the same arguments."""
    return type(made) is type(module) and _arguments(made) == _arguments(module)


def _arguments(module: nn.Module) -> dict[str, Any]:
    given = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    own = {name: getattr(module, name) for name in getattr(module, "_own", ())}
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in {**given, **own}.items()}


def _replaced(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> list[Replacement]:
    """Put every new module in all the places of its old one, and list them."""
    places = [(name, module) for name, module in model.named_modules(remove_duplicate=False) if module in new]
    # What is held by more than its parent becomes the new module itself: the model, which its user holds; layers in
    # plain lists; and what torch.compile wraps, whose forward is bound to it.
    held = {model, *(module for _, module in _in_attributes(model))}
    held |= {module for name, module in places if name.rpartition(".")[2] == "_orig_mod"}
    olds = {module: copy.copy(module) for module in new if module in held}
    for module in olds:
        made = new[module]
        module.__class__ = type(made)
        vars(module).clear()
        vars(module).update(vars(made))
    replacements = []
    for name, module in places:
        if module in olds:
            replacements.append(Replacement(name, olds[module], module))
            continue
        parent, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(parent), own_name, new[module])
        replacements.append(Replacement(name, module, new[module]))
    return replacements


def _left(model: nn.Module) -> Iterator[tuple[str, str]]:
    """List the max-pooling that can't be converted."""
    inside = {part for module in model.modules() if _is_script(module) for part in module.children()}
    for name, module in model.named_modules():
        if isinstance(module, _WINDOWLESS):
            yield name, _describe(module)
        if module in inside:
            continue  # The graph of the module around it has its calls.
        calls = _scripted_calls(module) if _is_script(module) else max_pooling_calls(module)
        if calls:
            yield name, f"calls {', '.join(calls)}" + ", compiled by TorchScript" * _is_script(module)
    registered = set(model.modules())
    for name, outsider in _in_attributes(model):
        for path, module in outsider.named_modules(prefix=name):
            if isinstance(module, _MAX_POOLS) and module not in registered:
                yield path, f"{_describe(module)}, which is not registered"


def _in_attributes(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that a model's modules hold in plain attributes, lists, tuples, sets and dicts."""
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if key not in _ATTRIBUTES}
        yield from _within(own, name, set())


def _within(value: object, name: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        yield name, value
    elif isinstance(value, (dict, list, tuple, set, frozenset)) and id(value) not in seen:
        seen.add(id(value))  # A container may hold itself.
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _within(part, f"{name}.{key}" if name else f"{key}", seen)


def _is_script(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _scripted_calls(module: Any) -> list[str]:
    return list(dict.fromkeys(_CALL_IN_GRAPH.findall(str(getattr(module, "inlined_graph", "")))))


def _describe(module: nn.Module) -> str:
    """Write a layer in one line."""
    return f"{type(module).__name__}({module.extra_repr()})"


def _summary(module: nn.Module) -> str:
    """Write what is new about a layer in one line: not the geometry, which is the old one's."""
    own = [f"{name}={getattr(module, name)}" for name in getattr(module, "_own", ())]
    own += [_summary(child) for child in module.children()]
    return f"{type(module).__name__}({', '.join(own)})"
