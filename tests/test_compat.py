"""With p = 0 it is max-pooling, bit for bit: on every case, and on PyTorch's own samples for functions and layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import empool
from cases import DTYPES, GEOMETRIES, REGULAR, Case, function
from tolerances import assert_same_bits, assert_same_numbers, strides

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
PLAIN: dict[str, dict[str, Any]] = {
    "ensemble_max_pool": {"p": 0.0},
    "max_pool_dropout": {"p": 0.0},
    "stochastic_max_pool": {"drop": 0.0},
    "rank_pool": {"distribution": empool.Max()},
}
"""The methods that can be max-pooling, and how."""
phases = pytest.mark.parametrize("training", [True, False], ids=["training", "testing"])


def _forward_and_backward(call: Callable[..., Any], case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    input = case.input(dtype).detach().requires_grad_()
    output, indices = call(input, *case.arguments, return_indices=True)
    if case.has_empty_windows:  # PyTorch's backward writes outside the gradient.
        return output.detach(), indices, output.new_empty(0)
    (gradient,) = torch.autograd.grad(output, input, case.grad_output(dtype))
    return output.detach(), indices, gradient


EACH_TYPE = [
    (case, dtype)
    for index, case in enumerate(REGULAR)
    for dtype in (DTYPES[index % 4], DTYPES[(index + 2) % 4])[: 2 if case in GEOMETRIES else 1]
]


@phases
@pytest.mark.parametrize(("case", "dtype"), EACH_TYPE, ids=str)
def test_case(case: Case, dtype: torch.dtype, training: bool) -> None:
    expected = _forward_and_backward(MAX_POOL[case.dims], case, dtype)
    stems = PLAIN if case in GEOMETRIES and case.dims == 2 else ["ensemble_max_pool"]
    for stem in stems:
        call = functools.partial(function(stem, case.dims), training=training, **PLAIN[stem])
        result = _forward_and_backward(call, case, dtype)
        for what, r, e in zip(("output", "indices", "gradient"), result, expected, strict=True):
            assert_same_numbers(r, e, f"{stem} {what}")
        assert_same_numbers(call(case.input(dtype), *case.arguments), expected[0], stem)


@phases
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "permuted", "strided", "channels last, strided"])
@pytest.mark.parametrize("dims", [2, 3])
def test_output_indices_and_gradient_have_the_same_layout(dims: int, layout: str, training: bool) -> None:
    case = Case("layout", (2, 5, *(6, 7, 9)[:dims]), 3, 2, 1, layout=layout)
    expected = _forward_and_backward(MAX_POOL[dims], case, torch.float32)
    call = functools.partial(function("ensemble_max_pool", dims), p=0.0, training=training)
    result = _forward_and_backward(call, case, torch.float32)
    for what, r, e in zip(("output", "indices", "gradient"), result, expected, strict=True):
        assert strides(r) == strides(e), what


@phases
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_integers(dims: int, dtype: torch.dtype, training: bool) -> None:
    input = torch.randint(0, 100, (2, 3, *[9] * dims)).to(dtype)
    call = functools.partial(function("ensemble_max_pool", dims), p=0.0, training=training)
    _check_same(call, MAX_POOL[dims], input, 3, 2, 1)
    _check_same(call, MAX_POOL[dims], input, 3, 2, 1, return_indices=True)
    _check_same(call, MAX_POOL[dims], input[0], 2, ceil_mode=True)


def _outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the result, or the type and message of the error."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        return type(error), str(error)


def _check_same(call: Callable[..., Any], twin: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    result, expected = _outcome(call, *args, **kwargs), _outcome(twin, *args, **kwargs)
    if isinstance(expected, Tensor) or (isinstance(expected, tuple) and isinstance(expected[0], Tensor)):
        assert type(result) is type(expected), result
        assert_same_bits(result, expected, f"{args[1:]} {kwargs}", layout=False)
        return
    assert result == expected


OPS = {int(op.name[-2]): op for op in op_db if op.name.startswith("nn.functional.max_pool")}
assert sorted(OPS) == [1, 2, 3]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dims", OPS)
def test_pytorch_samples(dims: int, dtype: torch.dtype) -> None:
    """There are some hundred, the same for every type, so the types share them out; every other one has no gradient."""
    samples = list(OPS[dims].reference_inputs("cpu", dtype, requires_grad=True))[DTYPES.index(dtype) :: 4]
    assert len(samples) > 100
    for index, sample in enumerate(samples):
        input = sample.input if index % 2 else sample.input.detach()
        expected = OPS[dims].op(input, *sample.args, **sample.kwargs)
        for training in (True, False):
            result = function("ensemble_max_pool", dims)(input, *sample.args, **sample.kwargs, p=0.0, training=training)
            assert type(result) is type(expected)
            assert_same_bits(result, expected, str(sample.kwargs), layout=False)
            if input.requires_grad:
                gradient = torch.randn_like(_first(expected))
                (g,), (e,) = (
                    torch.autograd.grad(_first(each), input, gradient, retain_graph=True) for each in (result, expected)
                )
                assert_same_bits(g, e, str(sample.kwargs), layout=False)


def _first(result: Any) -> Tensor:
    tensor: Tensor = result if isinstance(result, Tensor) else result[0]
    return tensor


@phases
@pytest.mark.parametrize("dims", OPS)
def test_pytorch_error_inputs(dims: int, training: bool) -> None:
    call = functools.partial(function("ensemble_max_pool", dims), p=0.0, training=training)
    errors = list(OPS[dims].error_inputs("cpu"))
    assert len(errors) > 3
    for error in errors:
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            call(sample.input, *sample.args, **sample.kwargs)
        _check_same(call, OPS[dims].op, sample.input, *sample.args, **sample.kwargs)


MODULES = {int(info.name[-2]): info for info in module_db if info.name.startswith("nn.MaxPool")}
assert sorted(MODULES) == [1, 2, 3]


@phases
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dims", MODULES)
def test_pytorch_module_samples(dims: int, dtype: torch.dtype, training: bool) -> None:
    info = MODULES[dims]
    samples = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=training)
    made = getattr(empool, f"EnsembleMaxPool{dims}d")
    for sample in samples:
        arguments = sample.constructor_input
        twin = info.module_cls(*arguments.args, **arguments.kwargs).train(training)
        module = made(*arguments.args, **arguments.kwargs, p=0.0).train(training)
        given = sample.forward_input
        _check_same(module, twin, *given.args, **given.kwargs)


BAD_CALLS: dict[str, tuple[Any, ...]] = {
    "no window": ((2, 3, 8, 8), 0),
    "negative window": ((2, 3, 8, 8), -1),
    "negative stride": ((2, 3, 8, 8), 2, -1),
    "stride 0": ((2, 3, 8, 8), 2, 0),
    "negative padding": ((2, 3, 8, 8), 2, 2, -1),
    "too much padding": ((2, 3, 8, 8), 2, 2, 2),
    "too much padding, ceil": ((2, 3, 8, 8), 3, 2, 2, 1, True),
    "dilation 0": ((2, 3, 8, 8), 2, 2, 0, 0),
    "negative dilation": ((2, 3, 8, 8), 2, 2, 0, -2),
    "window too large": ((2, 3, 2, 2), 3),
    "dilated window too large": ((2, 3, 4, 4), 3, 1, 0, 2),
    "three sizes for two dimensions": ((2, 3, 8, 8), (2, 2, 2)),
    "three strides": ((2, 3, 8, 8), 2, (1, 1, 1)),
    "fractions": ((2, 3, 8, 8), 2.5),
    "fraction in a tuple": ((2, 3, 8, 8), (2, 2.0)),
    "text": ((2, 3, 8, 8), "2"),
    "nothing": ((2, 3, 8, 8), None),
    "no sizes": ((2, 3, 8, 8), ()),
    "stride of text": ((2, 3, 8, 8), 2, "1"),
    "no channels": ((2, 0, 8, 8), 2),
    "no rows": ((2, 3, 0, 8), 2),
    "no columns": ((2, 3, 8, 0), 2),
    "no images, no rows": ((0, 3, 0, 8), 2),
    "too few dimensions": ((8, 8), 2),
    "too many dimensions": ((1, 2, 3, 8, 8), 2),
    "scalar": ((), 2),
    "empty stride": ((2, 3, 8, 8), 2, ()),
    "one size in a tuple": ((2, 3, 8, 8), (2,), (2,), (0,), (1,)),
    "lists": ((2, 3, 8, 8), [2, 3], [1, 2], [1, 0], [1, 1]),
    "truth values": ((2, 3, 8, 8), True, True),
    "no images": ((0, 3, 8, 8), 2),
    "padded dilation": ((2, 3, 8, 8), 2, 1, 1, 3),
    "NumPy's numbers": ((2, 3, 8, 8), np.int64(2), (np.int32(1), 2), np.int8(1)),
    "tensors of one": ((2, 3, 8, 8), torch.tensor(2), torch.tensor(3)),
    "array": ((2, 3, 8, 8), np.array([2, 2])),
    **{
        f"ceil_mode {ceil_mode!r}": ((2, 3, 5, 5), 2, 2, 0, 1, ceil_mode)
        for ceil_mode in ("no", None, 0, 1, 0.5, [1], np.bool_(True))
    },
    "huge window": ((1, 1, 2, 2), 2**40),
    "huge dilation": ((1, 1, 2, 2), 2, 1, 0, 2**40),
}


@phases
@pytest.mark.parametrize("name", BAD_CALLS)
def test_the_same_answer_or_the_same_error(name: str, training: bool) -> None:
    shape, *arguments = BAD_CALLS[name]
    call = functools.partial(empool.functional.ensemble_max_pool2d, p=0.0, training=training)
    _check_same(call, F.max_pool2d, torch.randn(shape), *arguments)


@phases
@pytest.mark.parametrize("input", [None, 3.0, [1.0, 2.0], torch.ones(1, 2, 4, 4, dtype=torch.bool)], ids=repr)
def test_the_same_error_for_what_is_no_input(input: Any, training: bool) -> None:
    call = functools.partial(empool.functional.ensemble_max_pool2d, p=0.0, training=training)
    _check_same(call, F.max_pool2d, input, 2)


def test_complex_input() -> None:
    input = torch.zeros(1, 2, 4, 4, dtype=torch.complex64)
    _check_same(functools.partial(empool.functional.ensemble_max_pool2d, p=0.0), F.max_pool2d, input, 2)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_unpooling_takes_the_indices(dims: int) -> None:
    """The drawn activation returns to its place, and so does a drawn zero, to the maximum's."""
    input = torch.randn(2, 3, *[8] * dims).abs() + 0.1
    unpool = (torch.nn.MaxUnpool1d, torch.nn.MaxUnpool2d, torch.nn.MaxUnpool3d)[dims - 1](2)
    for stem, arguments in {"ensemble_max_pool": {"p": 0.5}, "max_pool_dropout": {"p": 0.7}}.items():
        output, indices = function(stem, dims)(input, 2, return_indices=True, seed=3, **arguments)
        back = unpool(output, indices)
        assert back.shape == input.shape
        # All but the drawn activations are zero, and those are the input's own.
        drawn = output != 0
        assert int((back != 0).sum()) == int(drawn.sum())
        torch.testing.assert_close(back[back != 0], input[back != 0], rtol=0, atol=0)
        largest = MAX_POOL[dims](input, 2, return_indices=True)[1]
        torch.testing.assert_close(indices[~drawn], largest[~drawn], rtol=0, atol=0)
        torch.testing.assert_close(
            input.flatten(2).gather(2, indices.flatten(2)).reshape(output.shape)[drawn], output[drawn], rtol=0, atol=0
        )


ADAPTIVE = {int(op.name[-2]): op for op in op_db if op.name.startswith("nn.functional.adaptive_max_pool")}
assert sorted(ADAPTIVE) == [1, 2, 3]


@pytest.mark.parametrize("dims", ADAPTIVE)
def test_pytorch_samples_of_adaptive_pooling(dims: int) -> None:
    samples = list(ADAPTIVE[dims].sample_inputs("cpu", torch.float32, requires_grad=True))
    assert len(samples) > 5
    call = function("adaptive_ensemble_max_pool", dims)
    for sample in samples:
        expected = ADAPTIVE[dims].op(sample.input, *sample.args, **sample.kwargs)
        for training in (True, False):
            result = call(sample.input, *sample.args, **sample.kwargs, p=0.0, training=training)
            assert_same_bits(result, expected, f"{sample.args} {sample.kwargs}", layout=False)
            gradient = torch.randn_like(_first(expected))
            (g,), (e,) = (
                torch.autograd.grad(_first(each), sample.input, gradient, retain_graph=True)
                for each in (result, expected)
            )
            torch.testing.assert_close(g, e)


@pytest.mark.parametrize("output_size", [(2, 2, 2), (2,), -1, "2", 2.0, (2, 2.0)], ids=repr)
def test_the_same_error_for_a_bad_output_size(output_size: Any) -> None:
    call = functools.partial(function("adaptive_ensemble_max_pool", 2), p=0.0)
    outcome = _outcome(F.adaptive_max_pool2d, torch.zeros(1, 2, 5, 5), output_size)
    if isinstance(outcome, Tensor):
        _check_same(call, F.adaptive_max_pool2d, torch.zeros(1, 2, 5, 5), output_size)
    else:
        assert _outcome(call, torch.zeros(1, 2, 5, 5), output_size)[0] is outcome[0]


@pytest.mark.parametrize(("shape", "output_size"), [((1, 2, 5, 5), 0), ((1, 2, 5, 5), (0, None)), ((0, 5, 5), 2)])
@pytest.mark.parametrize("return_indices", [False, True])
def test_no_output_at_all(shape: tuple[int, ...], output_size: Any, return_indices: bool) -> None:
    _check_same(
        functools.partial(function("adaptive_ensemble_max_pool", 2), p=0.4),
        F.adaptive_max_pool2d,
        torch.zeros(shape, requires_grad=True),
        output_size,
        return_indices=return_indices,
    )
