"""The layers and functions beside PyTorch's own: signatures, repr, pickling, state, phases; and the docstrings."""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import io
import pickle
import pkgutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import empool
from cases import LAYERS, METHODS, function, layer
from tolerances import assert_same_bits

DIMS = (1, 2, 3)
TWINS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
FUNCTION_TWINS = {1: F.max_pool1d_with_indices, 2: F.max_pool2d_with_indices, 3: F.max_pool3d_with_indices}
stems = pytest.mark.parametrize("stem", METHODS)
dims = pytest.mark.parametrize("dims", DIMS)


def _positional(call: Any) -> list[tuple[str, Any]]:
    parameters = inspect.signature(call).parameters.values()
    return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


@stems
@dims
def test_signatures(stem: str, dims: int) -> None:
    """The positional arguments are PyTorch's, in their order, with their defaults; a method's own go by name."""
    made = layer(stem, dims)
    assert _positional(made) == _positional(TWINS[dims])
    assert _positional(function(stem, dims)) == _positional(FUNCTION_TWINS[dims])
    keywords = [p.name for p in inspect.signature(function(stem, dims)).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert keywords == [*METHODS[stem], "training", "seed"]
    keywords = [p.name for p in inspect.signature(made).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert keywords == list(METHODS[stem])


@dims
def test_default_arguments_of_the_methods(dims: int) -> None:
    for stem, name, default in (
        ("ensemble_max_pool", "p", 0.1),
        ("max_pool_dropout", "p", 0.2),
        ("stochastic_max_pool", "drop", 0.5),
    ):
        for call in (function(stem, dims), layer(stem, dims)):
            assert inspect.signature(call).parameters[name].default == default
        assert getattr(layer(stem, dims)(2), name) == default


@stems
@dims
def test_repr(stem: str, dims: int) -> None:
    arguments = METHODS[stem]
    made = layer(stem, dims)(3, 2, padding=1, ceil_mode=True, **arguments)
    own = "".join(f", {name}={value}" for name, value in arguments.items())
    name = f"{LAYERS[stem]}{dims}d"
    assert repr(made) == f"{name}(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=True{own})"


@stems
@dims
def test_it_is_a_module_without_state(stem: str, dims: int) -> None:
    made = layer(stem, dims)(2, **METHODS[stem])
    assert isinstance(made, nn.Module)
    assert isinstance(made, nn.modules.pooling._MaxPoolNd)
    assert not made.state_dict()
    assert not list(made.parameters())
    assert not list(made.buffers())
    made.load_state_dict(TWINS[dims](2).state_dict())
    assert made.stride == 2


@stems
@dims
def test_copies(stem: str, dims: int) -> None:
    made = layer(stem, dims)(3, 2, 1, **METHODS[stem]).eval()
    input = torch.randn(2, 3, *[9] * dims)
    expected = made(input)
    stream = io.BytesIO()
    torch.save(made, stream)
    stream.seek(0)
    for other in (
        copy.deepcopy(made),
        pickle.loads(pickle.dumps(made)),
        torch.load(stream, weights_only=False),
    ):
        assert repr(other) == repr(made)
        assert not other.training
        assert_same_bits(other(input), expected)


@stems
@dims
def test_the_layer_is_the_function(stem: str, dims: int) -> None:
    input = torch.randn(2, 3, *[9] * dims)
    made = layer(stem, dims)(3, 2, 1, 1, True, True, **METHODS[stem])
    for training in (True, False):
        made.train(training)
        torch.manual_seed(5)
        result = made(input)
        torch.manual_seed(5)
        expected = function(stem, dims)(input, 3, 2, 1, 1, True, True, training=training, **METHODS[stem])
        assert_same_bits(result, expected)


@stems
def test_phases(stem: str) -> None:
    """Training draws anew at every call; testing does not draw."""
    made = layer(stem, 2)(2, **METHODS[stem])
    input = torch.randn(2, 3, 16, 16).abs()
    assert made.training
    assert not torch.equal(made(input), made(input))
    made.eval()
    assert_same_bits(made(input), made(input))
    model = nn.Sequential(made, nn.ReLU())
    assert model.train()[0].training
    assert not model.eval()[0].training


def test_p_can_be_changed() -> None:
    made = empool.EnsembleMaxPool2d(2, p=0.0)
    input = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert made(input).item() == 4
    made.p = 1.0
    assert made(input).item() == 3


@stems
@dims
def test_the_input_is_not_changed(stem: str, dims: int) -> None:
    input = torch.randn(2, 3, *[9] * dims)
    before = input.clone()
    for training in (True, False):
        function(stem, dims)(input, 3, 2, 1, training=training, return_indices=True, **METHODS[stem])
    assert_same_bits(input, before)


@stems
def test_unbatched_and_empty(stem: str) -> None:
    call = function(stem, 2)
    for training in (True, False):
        assert call(torch.randn(3, 8, 8), 2, training=training, **METHODS[stem]).shape == (3, 4, 4)
        output, indices = call(torch.randn(0, 3, 8, 8), 2, training=training, return_indices=True, **METHODS[stem])
        assert output.shape == indices.shape == (0, 3, 4, 4)
        empty = torch.randn(0, 3, 8, 8, requires_grad=True)
        call(empty, 2, training=training, **METHODS[stem]).sum().backward()
        assert empty.grad.shape == empty.shape


def test_named_functions_and_layers_are_all_there() -> None:
    assert sorted(empool.functional.__all__) == sorted(f"{stem}{d}d" for stem in METHODS for d in DIMS)
    for name in empool.__all__:
        assert getattr(empool, name) is not None
    assert {f"{name}{d}d" for name in LAYERS.values() for d in DIMS} <= set(empool.__all__)


CORE = [
    name
    for _, name, package in pkgutil.iter_modules(empool.__path__, "empool.")
    if not package and name != "empool._C" and not name.rpartition(".")[2].startswith("_C")
]


@pytest.mark.parametrize("name", CORE)
def test_docstring_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"not a Python module of the core: {error}")
    results = doctest.testmod(module, extraglobs={"torch": torch, "empool": empool})
    assert results.failed == 0


def test_the_functions_have_examples() -> None:
    finder = doctest.DocTestFinder()
    found = {test.name for test in finder.find(empool.functional) if test.examples}
    assert found >= {f"empool.functional.{stem}2d" for stem in METHODS}
