"""Which of PyTorch's max-pooling functions a module's forward can call, found in its bytecode."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

MAX_POOLING = frozenset(
    f"{kind}max_pool{dims}d{ending}"
    for kind in ("", "adaptive_", "fractional_")
    for dims in (1, 2, 3)
    for ending in ("", "_with_indices")
)
"""Names of the functions that take the maximum of windows."""

_UNKNOWN = object()
# Libraries that do not contain a model's own code.
_LIBRARIES = frozenset({"torch", "empool", "numpy", *sys.stdlib_module_names}) - {"__main__"}


def max_pooling_calls(module: nn.Module) -> list[str]:
    """Return the names of the max-pooling functions that a module's forward can call, directly or through functions.

    Nothing is run or traced, so any control flow is allowed; a call counts even if no condition ever leads to it. Calls
    of other modules are not followed. A layer of `torch.nn` counts as calling none, since it can be replaced.

    Example:
        >>> import torch.nn.functional as F
        >>> from torch import nn
        >>> from empool._forward import max_pooling_calls
        >>> class Net(nn.Module):
        ...     def forward(self, input):
        ...         return F.max_pool2d(input, 2)
        >>> max_pooling_calls(Net())
        ['max_pool2d']
    """
    found: dict[str, None] = {}
    seen: set[types.CodeType] = set()
    waiting: list[object] = [_attribute(module, "forward")]
    while waiting:
        called = waiting.pop()
        if isinstance(called, functools.partial):
            waiting.append(called.func)
            continue
        # No code of a proxy's is run.
        name = getattr(called, "__name__", "") if issubclass(type(called), _NAMED) else ""
        if name in MAX_POOLING:
            found[name] = None
            continue
        function, instance = called, _UNKNOWN
        if isinstance(called, types.MethodType):
            function, instance = called.__func__, called.__self__
        if isinstance(function, types.FunctionType):
            function = inspect.unwrap(function)
        if isinstance(function, types.FunctionType) and not _is_library(function) and function.__code__ not in seen:
            seen.add(function.__code__)
            for code in _nested(function.__code__):
                waiting.extend(_loaded(code, function, instance))
    return list(found)


def _loaded(code: types.CodeType, function: types.FunctionType, instance: object) -> Iterator[object]:
    """Yield what a function's code loads by a name or a dotted path, as far as it is known.

    Args:
        code: the function's, or that of a function defined in it.
        function: whose globals and closure the names refer to.
        instance: the function's first argument, if it is a method.
    """
    receiver = function.__code__.co_varnames[:1] if instance is not _UNKNOWN else ()
    enclosed = _closure(function)
    current: object = _UNKNOWN
    for instruction in dis.get_instructions(code):
        operation = instruction.opname
        name = instruction.argval[-1] if isinstance(instruction.argval, tuple) else instruction.argval
        if operation.startswith(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")):
            if current is super or operation.startswith("LOAD_SUPER_ATTR"):
                yield from _inherited(instance, name)
                current = _UNKNOWN
            elif current is not _UNKNOWN:
                current = _attribute(current, name)
            elif name in MAX_POOLING:  # Of a module that the function itself imports.
                current = _Named(name)
        elif current is super:  # Up to the attribute, nothing after super says more.
            continue
        elif operation in ("LOAD_GLOBAL", "LOAD_NAME"):
            current = function.__globals__.get(name, super if name == "super" else _UNKNOWN)
        elif "LOAD_FAST" in operation or operation in ("LOAD_DEREF", "LOAD_CLASSDEREF"):
            current = instance if name in receiver else enclosed.get(name, _UNKNOWN)
        elif operation == "IMPORT_FROM":
            current = _Named(name)
        else:
            current = _UNKNOWN
        if current is not super and current is not instance:
            yield current


class _Named:
    """Something known only by its name."""

    def __init__(self, name: str) -> None:
        self.__name__ = name


_NAMED: tuple[Any, ...] = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    type(torch.ops.aten.relu),
    _Named,
)
"""Types that a function of PyTorch can have, and whose `__name__` is safe to read."""


def _attribute(owner: object, name: str) -> object:
    """Look up an attribute without running the owner's code; a method is returned bound."""
    if isinstance(owner, nn.Module) and name in owner._modules:
        return owner._modules[name]
    found = inspect.getattr_static(owner, name, _UNKNOWN)
    if isinstance(found, staticmethod | classmethod):
        return found.__func__
    is_method = isinstance(owner, nn.Module) and name not in vars(owner)
    return types.MethodType(found, owner) if is_method and isinstance(found, types.FunctionType) else found


def _inherited(instance: object, name: str) -> Iterator[object]:
    """Yield what an attribute of `super()` can be: that of every base of the object's class."""
    for base in type(instance).__mro__[1:]:
        found = vars(base).get(name)
        if isinstance(found, types.FunctionType):
            yield types.MethodType(found, instance)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code and that of the functions defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _closure(function: types.FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}


def _is_library(function: types.FunctionType) -> bool:
    name = str(function.__globals__.get("__name__", ""))
    # The globals of generated code may have the name of the module that generated it.
    is_of_module = getattr(sys.modules.get(name), "__dict__", None) is function.__globals__
    return is_of_module and name.partition(".")[0] in _LIBRARIES
