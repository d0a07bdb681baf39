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

import numpy as np
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
    assert keywords == [*METHODS[stem], "training", "seed", "generator", "tied"]
    keywords = [p.name for p in inspect.signature(made).parameters.values() if p.kind is p.KEYWORD_ONLY]
    trainable = ["trainable"] if stem == "soft_pool" else []
    assert keywords == [*METHODS[stem], *trainable, "seed", "generator", "tied"]


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
    stems = [prefix + stem for prefix in ("", "adaptive_") for stem in METHODS]
    assert sorted(empool.functional.__all__) == sorted(f"{stem}{d}d" for stem in stems for d in DIMS)
    for name in empool.__all__:
        assert getattr(empool, name) is not None
    assert {f"{name}{d}d" for name in LAYERS.values() for d in DIMS} <= set(empool.__all__)


CORE = [
    name
    for _, name, package in pkgutil.walk_packages(empool.__path__, "empool.", onerror=lambda name: None)
    if not package and (name.count(".") == 1 or name.startswith("empool.modules.")) and not name.startswith("empool._C")
]


@pytest.mark.parametrize("name", CORE)
def test_docstring_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"not a Python module of the core: {error}")
    results = doctest.testmod(module, extraglobs={"torch": torch, "empool": empool})
    assert results.failed == 0


def test_all_that_is_public_has_an_example() -> None:
    names = set(empool.__all__) - {"Pooling", "__version__", "functional", "models"}
    public = {name: getattr(empool, name) for name in names} | {
        name: getattr(empool.functional, name) for name in empool.functional.__all__
    }
    assert [name for name, each in public.items() if ">>>" not in (each.__doc__ or "")] == []


NAMES = [name for name in empool.__all__ if name[-2:] in ("1d", "2d", "3d")]


def test_every_layer_has_an_example_with_its_own_sizes() -> None:
    for name in NAMES:
        doc = getattr(empool, name).__doc__
        assert f"empool.{name}(" in doc
        assert all(f"{d}d" not in doc.partition("Args:")[2] for d in DIMS if d != int(name[-2]))


def test_layers_pickled_before_they_had_files_of_their_own_can_be_read() -> None:
    for name in NAMES:
        made = getattr(empool, name)
        assert pickle.loads(f"cempool.modules\n{name}\n.".encode()) is made


def test_a_geometry_of_a_tensor_is_read_at_every_call() -> None:
    size = torch.tensor(2)
    for sizes in (size, (size, size)):
        size.fill_(2)
        assert empool.functional.ensemble_max_pool2d(torch.randn(1, 1, 6, 6), sizes).shape == (1, 1, 3, 3)
        size.fill_(3)
        assert empool.functional.ensemble_max_pool2d(torch.randn(1, 1, 6, 6), sizes).shape == (1, 1, 2, 2)


def test_true_is_not_1_to_the_plans_of_earlier_calls() -> None:
    """PyTorch takes True for a size; p = 1 is a number, and p = True is not."""
    input = torch.randn(1, 1, 4, 4)
    empool.functional.ensemble_max_pool2d(input, 2, p=1)
    with pytest.raises(TypeError, match="expected p to be a number"):
        empool.functional.ensemble_max_pool2d(input, 2, p=True)


def test_ceil_mode_that_adds_no_window_keeps_the_fast_kernels() -> None:
    """Then every window is whole, of one count, as without it."""
    windows = empool._call.Windows(2, None, 0, 1, True)
    plan = empool._call._plan(2, (3, 8, 8), windows)
    assert plan is not None
    assert plan.counts == (4,)
    assert not plan.geometry.ceil_mode
    odd = empool._call._plan(2, (3, 7, 8), windows)
    assert odd is not None
    assert odd.counts == (1, 2, 4)


@pytest.mark.parametrize("seed", [np.int64(7), np.uint8(7)], ids=repr)
def test_a_seed_may_be_numpys(seed: np.integer) -> None:
    input = torch.randn(1, 2, 8, 8)
    ours = empool.functional.ensemble_max_pool2d(input, 2, p=0.5, seed=seed)
    torch.testing.assert_close(ours, empool.functional.ensemble_max_pool2d(input, 2, p=0.5, seed=7), rtol=0, atol=0)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "geometry", [(2,), (3, 2, 1), (3, 1, 0, 2), (2, 3, 1, 3), (2, 2, 0, 1, True), (17, 5, 8)], ids=str
)
def test_indices_say_where_each_output_comes_from(dims: int, geometry: tuple[int | bool, ...]) -> None:
    input = torch.randn(2, 3, *[17, 19, 18][:dims])
    for stem, method in {"ensemble_max_pool": {"p": 0.5}, "stochastic_max_pool": {}, "stochastic_pool": {}}.items():
        if geometry[0] == 17 and dims == 3:
            continue  # 4,913 activations a window take long.
        pool = getattr(empool.functional, f"{stem}{dims}d")
        output, indices = pool(input, *geometry, return_indices=True, seed=5, **method)
        drawn = output.isfinite() & (output != 0)
        taken = input.flatten(2).gather(2, indices.flatten(2).clamp(0)).reshape(output.shape)
        assert int(drawn.sum()) > drawn.numel() / 2
        torch.testing.assert_close(taken[drawn], output[drawn], rtol=0, atol=0)


def test_the_maximum_is_looked_for_only_where_nothing_may_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    search = empool._call._max_indices
    monkeypatch.setattr(empool._call, "_max_indices", lambda *args: searched.append(1) or search(*args))
    input = torch.randn(1, 2, 9, 9)
    for stem, method in {"ensemble_max_pool": {"p": 0.5}, "stochastic_max_pool": {}}.items():
        getattr(empool.functional, f"{stem}2d")(input, 3, 2, 1, return_indices=True, **method)
    assert not searched
    empool.functional.max_pool_dropout2d(input, 3, 2, 1, return_indices=True)
    empool.functional.ensemble_max_pool2d(input, 3, 2, 1, 2, return_indices=True)
    assert len(searched) == 2
