"""The kernels' inline assembly, which Triton's interpreter skips: their PTX, run on a CPU, has the reference's bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import empool
from empool import _philox, _window, reference

pytest.importorskip("triton")
import ptx
from empool._triton import _operators, _plan

WINDOWS = {"2x2/2": (2, 2, 0), "3x3/2": (3, 2, 1)}
DISTRIBUTIONS = {
    "ensemble": empool.EnsembleMax(0.3),
    "max-dropout": empool.MaxDropout(0.4),
    "average": empool.Average(),
}


def _activations(shape: tuple[int, ...], what: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    numbers = torch.randn(shape, generator=generator)
    which = torch.rand(shape, generator=generator)
    if what == "numbers":
        return numbers
    numbers = (numbers * 2).round() / 2 - 1
    numbers = torch.where(which < 0.2, 0.0, torch.where(which < 0.4, -0.0, numbers))
    if what == "zeros":
        return -numbers.abs()
    numbers = torch.where(which > 0.995, torch.nan, torch.where(which > 0.98, torch.inf, numbers))
    return torch.where((which > 0.9) & (which < 0.95), -torch.inf, numbers)


def _bits(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return torch.where(tensor.isnan(), -1, tensor.contiguous().view(integers))


def _compare(name: str, *arguments: Any, capability: int = 90) -> None:
    found = ptx.on_ptx(getattr(_operators, name), *arguments, capability=capability)
    wanted = getattr(reference, name)(*arguments)
    for one, other in zip(*(each if isinstance(each, tuple) else (each,) for each in (found, wanted)), strict=True):
        assert torch.equal(_bits(one), _bits(other))


def _inexact(power: Any) -> Any:
    """Return 2 to a power as a GPU's `ex2.approx` may: by two units in the last place off."""
    return (np.exp2(power) * (1 + np.random.default_rng(0).uniform(-1, 1, power.shape) * 2.0**-22)).astype(power.dtype)


BLOCKS, LINES = (2, 3, 16, 16), (2, 3, 14, 14)
"""Maps whose lines are read in blocks of four windows, and whole: contiguous by a thread."""
CASES = (
    ("ensemble", "3x3/2", torch.bfloat16, BLOCKS, False),
    ("ensemble", "3x3/2", torch.bfloat16, BLOCKS, True),
    ("ensemble", "3x3/2", torch.bfloat16, LINES, False),
    ("ensemble", "2x2/2", torch.bfloat16, LINES, False),
    ("ensemble", "3x3/2", torch.float16, BLOCKS, False),
    ("ensemble", "3x3/2", torch.float32, BLOCKS, True),
    ("ensemble", "3x3/2", torch.float32, LINES, False),
    ("max-dropout", "3x3/2", torch.bfloat16, BLOCKS, False),
    ("max-dropout", "3x3/2", torch.bfloat16, LINES, True),
    ("max-dropout", "3x3/2", torch.float16, LINES, False),
    ("max-dropout", "2x2/2", torch.bfloat16, LINES, False),
    ("max-dropout", "3x3/2", torch.float32, BLOCKS, False),
)


@pytest.mark.parametrize(("name", "window", "dtype", "shape", "last"), CASES)
def test_draw(name: str, window: str, dtype: torch.dtype, shape: tuple[int, ...], last: bool) -> None:
    """Ranks of numbers, of many equal ones and of zeros of both signs, and of infinities and NaN."""
    kernel_size, stride, padding = WINDOWS[window]
    geometry = _window.Geometry([kernel_size] * 2, [stride] * 2, [padding] * 2, [1, 1], [], False)
    counts = tuple(geometry.possible_counts())
    table = torch.tensor([DISTRIBUTIONS[name].threshold_table(counts)], dtype=torch.int64)
    for what in ("numbers", "zeros", "anything"):
        input = _window.dense(_activations(shape, what).to(dtype), last)
        _compare("rank_draw", input, torch.tensor(11), table, counts, *geometry, 0)


@pytest.mark.parametrize(("name", "shape"), [("ensemble", (2, 3, 16, 16)), ("average", (2, 2, 14, 14))])
def test_mean(name: str, shape: tuple[int, ...]) -> None:
    """Half types, two windows at a time; by blocks, and by lines of small maps."""
    geometry = _window.Geometry([3, 3], [2, 2], [1, 1], [1, 1], [], False)
    counts = tuple(geometry.possible_counts())
    table = torch.tensor([DISTRIBUTIONS[name].weight_table(counts)], dtype=torch.float64)
    for what in ("numbers", "zeros", "anything"):
        _compare("rank_mean", _activations(shape, what).bfloat16(), table, counts, *geometry)


@pytest.mark.parametrize(
    ("dtype", "shape", "last", "beta"),
    [
        (torch.float32, BLOCKS, False, None),
        (torch.bfloat16, BLOCKS, True, None),
        (torch.bfloat16, LINES, False, None),
        (torch.float32, LINES, False, [0.5, 20.0, -1.0]),
    ],
)
def test_value_draw(
    dtype: torch.dtype,
    shape: tuple[int, ...],
    last: bool,
    beta: list[float] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    geometry = _window.Geometry([3, 3], [2, 2], [1, 1], [1, 1], [], False)
    monkeypatch.setitem(ptx._FLOATS, "ex2", _inexact)
    factor = None if beta is None else torch.tensor(beta)
    for what in ("numbers", "zeros", "anything"):
        input = _window.dense(_activations(shape, what).to(dtype), last)
        _compare("value_draw", input, torch.tensor(11), factor, *geometry, 0)


def test_soft_draw_of_channels_last_lines() -> None:
    """A row of five windows, one after another."""
    geometry = _window.Geometry([3, 3], [2, 2], [1, 1], [1, 1], [], False)
    input = _window.dense(_activations((1, 3, 3, 10), "anything").half(), True)
    _compare("value_draw", input, torch.tensor(11), torch.tensor([0.5]), *geometry, 0)


@pytest.mark.parametrize("shape", [BLOCKS, LINES])
@pytest.mark.parametrize(("beta", "least"), [(1.0, 0.0), (1.1, 40.0)])
def test_soft_draw_near_a_bound(
    shape: tuple[int, ...], beta: float, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a random number just divides two activations, rounding decides, and what is approximate does not."""
    monkeypatch.setitem(ptx._FLOATS, "ex2", _inexact)
    geometry = _window.Geometry([2, 2], [2, 2], [0, 0], [1, 1], [], False)
    output = (*shape[:2], *geometry.output_sizes(shape[2:]))
    share = _philox.uniform32(torch.tensor(5), output, 3).flatten()[0].item() / 2**32
    input = torch.full(shape, -torch.inf)
    input[..., 0::2, 0::2] = least
    steps = torch.arange(output[2] * output[3]).reshape(output[2:]) - output[2] * output[3] // 2
    input[..., 1::2, 1::2] = least + torch.tensor(1 / share - 1).log() / beta + steps * 2.0 ** (-18 if least else -25)
    arguments = input[:1], torch.tensor(5), torch.tensor([beta]), *geometry, 3
    assert set(reference.value_draw(*arguments)[1].flatten().tolist()) == {0, 3}
    _compare("value_draw", *arguments)


@pytest.mark.parametrize(("shape", "last"), [(BLOCKS, False), (BLOCKS, True), (LINES, False)])
def test_soft_draw_beside_far_larger_activations(shape: tuple[int, ...], last: bool) -> None:
    """Windows of which a shift in common with their neighbours leaves nothing, and those of negative numbers alone."""
    geometry = _window.Geometry([3, 3], [2, 2], [1, 1], [1, 1], [], False)
    numbers = _activations(shape, "numbers")
    for far in (60.0, 100.0, 1e30, -200.0):
        input = numbers.clone()
        input[..., 5] += far
        _compare("value_draw", _window.dense(input, last), torch.tensor(3), torch.tensor([1.0]), *geometry, 0)


@pytest.mark.parametrize(("dtype", "shape"), [(torch.float32, BLOCKS), (torch.bfloat16, LINES)])
def test_value_mean(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Near the reference; in both layouts, and whatever other windows hold, the same."""
    geometry = _window.Geometry([3, 3], [2, 2], [1, 1], [1, 1], [], False)
    for what, factors in (("numbers", [1.0, -2.0, 30.0]), ("anything", [0.0, -1.0, 1e9])):
        input, beta = _activations(shape, what).to(dtype), torch.tensor(factors)
        found, others, beside = (
            ptx.on_ptx(_operators.value_mean, each, beta, *geometry)
            for each in (input, _window.dense(input, True), input.index_fill(3, torch.tensor(3), torch.nan))
        )
        near = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(
            found, reference.value_mean(input, beta, *geometry), rtol=near, atol=near, equal_nan=True
        )
        assert torch.equal(_bits(found), _bits(others))
        assert beside[..., 1:3].isnan().all()  # Of which column 3 is a part.
        assert torch.equal(_bits(found[..., 3:]), _bits(beside[..., 3:]))


def test_value_mean_of_extremes() -> None:
    """A weight of 2^-135 that counts; powers of 2^30, of which rounding shifts some by 2^6, of tiny activations."""
    geometry = _window.Geometry([2, 2], [2, 2], [0, 0], [1, 1], [], False)
    numbers = torch.rand(2, 16, generator=torch.Generator().manual_seed(0)) + 1
    far = numbers.index_fill(1, torch.arange(0, 16, 2), -3e38)
    input = torch.stack([far, numbers * 2.0**-95])[None]
    beta = torch.tensor([135 * math.log(2) / 3e38, 2.0**125])
    wanted = reference.value_mean(input.double(), beta.double(), *geometry).float()
    found = ptx.on_ptx(_operators.value_mean, input, beta, *geometry)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "window", "dtype", "shape", "last"),
    [
        ("ensemble", "3x3/2", torch.bfloat16, BLOCKS, True),
        ("ensemble", "3x3/2", torch.float16, (2, 10, 14, 14), False),  # Two programs.
        ("average", "3x3/2", torch.float32, BLOCKS, False),
        ("average", "3x3/2", torch.bfloat16, BLOCKS, False),
        ("average", "3x3/2", torch.float16, (1, 3, 7, 14), True),  # A row of seven cells; one row of inputs is cut off.
        ("average", "3x3/2", torch.float32, LINES, False),
        ("ensemble", "2x2/2", torch.bfloat16, BLOCKS, True),
        ("average", "2x2/2", torch.bfloat16, LINES, False),
    ],
)
def test_mean_backward(name: str, window: str, dtype: torch.dtype, shape: tuple[int, ...], last: bool) -> None:
    """Where the two largest lie, of half types two windows at a time; and the ranks of all. Gradients of all kinds."""
    kernel_size, stride, padding = WINDOWS[window]
    geometry = _window.Geometry([kernel_size] * 2, [stride] * 2, [padding] * 2, [1, 1], [], False)
    counts = tuple(geometry.possible_counts())
    table = torch.tensor([DISTRIBUTIONS[name].weight_table(counts)], dtype=torch.float64)
    output = (*shape[:2], *geometry.output_sizes(shape[2:]))
    for what in ("numbers", "zeros", "anything"):
        gradient, input = (_window.dense(_activations(each, what).to(dtype), last) for each in (output, shape))
        _compare("rank_mean_backward", gradient, input, table, counts, *geometry)


@pytest.mark.parametrize(("shape", "last"), [(LINES, False), (BLOCKS, True)])
def test_mean_backward_of_sets(shape: tuple[int, ...], last: bool) -> None:
    """A set of weights for each channel, which no thread can keep for the others."""
    geometry = _window.Geometry([3, 3], [2, 2], [1, 1], [1, 1], [], False)
    counts = tuple(geometry.possible_counts())
    table = torch.rand(shape[1], len(counts), 5, generator=torch.Generator().manual_seed(0))
    output = (*shape[:2], *geometry.output_sizes(shape[2:]))
    gradient, input = (_window.dense(_activations(each, "zeros").bfloat16(), last) for each in (output, shape))
    _compare("rank_mean_backward", gradient, input, table, counts, *geometry)


@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [((3, 2), (2, 1), (1, 2)), ((2, 2), (3, 3), (1, 1))])
def test_mean_backward_of_depths(
    kernel_size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> None:
    """One depth after another, of dilated windows or of some that lie apart."""
    geometry = _window.Geometry([1, *kernel_size], [1, *stride], [0, 1, 1], [1, *dilation], [], True)
    counts = tuple(geometry.possible_counts())
    table = torch.tensor([DISTRIBUTIONS["average"].weight_table(counts)], dtype=torch.float64)
    shape = (1, 2, 3, 7, 8)
    gradient, input = (
        _activations(each, "zeros").bfloat16() for each in ((1, 2, *geometry.output_sizes(shape[2:])), shape)
    )
    _compare("rank_mean_backward", gradient, input, table, counts, *geometry)


@pytest.mark.parametrize(
    ("beta", "dtype", "width", "last"),
    [
        (None, torch.float32, 10, False),
        (0.7, torch.bfloat16, 14, False),
        (20.0, torch.float16, 16, False),
        (-0.7, torch.bfloat16, 14, True),
    ],
    ids=["lines", "soft lines", "two rows", "seven cells"],
)
def test_value_mean_backward(beta: float | None, dtype: torch.dtype, width: int, last: bool) -> None:
    """Where there is something else than numbers, again, but not what is beside it."""
    geometry = _window.Geometry([3, 3], [2, 2], [1, 1], [1, 1], [], False)
    factor = None if beta is None else torch.tensor([beta])
    gradient = _window.dense(_activations((1, 2, 4, width // 2), "numbers").to(dtype), last)
    numbers, anything = (_activations((1, 2, 8, width), what).to(dtype) for what in ("numbers", "anything"))
    both = torch.cat([anything[..., :4], numbers[..., 4:]], 3)
    found = []
    for input in (numbers, both):
        arguments = gradient, _window.dense(input, last), factor, *geometry
        found.append(ptx.on_ptx(_operators.value_mean_backward, *arguments))
        torch.testing.assert_close(found[-1], reference.value_mean_backward(*arguments), equal_nan=True)
    assert torch.equal(_bits(found[0][..., 6:]), _bits(found[1][..., 6:]))


def test_value_mean_backward_of_an_odd_height() -> None:
    """A thread has two rows of cells, of which the last one has but one."""
    geometry = _window.Geometry([3, 3], [1, 1], [1, 1], [1, 1], [], False)
    gradient, input = (_activations((1, 2, 5, 8), what).bfloat16() for what in ("numbers", "zeros"))
    arguments = gradient, -input, None, *geometry
    found = ptx.on_ptx(_operators.value_mean_backward, *arguments)
    torch.testing.assert_close(found, reference.value_mean_backward(*arguments))


@pytest.mark.parametrize(("shape", "last"), [((1, 32, 16, 16), True), ((10, 2, 14, 14), False)])
def test_weight_grad(shape: tuple[int, ...], last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiles a program, one after another; and again where there is something else than numbers."""
    monkeypatch.setattr(_plan, "PROGRAMS", 2)
    geometry = _window.Geometry([3, 3], [2, 2], [1, 1], [1, 1], [], False)
    counts = tuple(geometry.possible_counts())
    input = torch.cat([_activations(shape, "numbers"), _activations(shape, "anything")])
    gradient = _activations((2 * shape[0], shape[1], shape[2] // 2, shape[3] // 2), "numbers")
    both = (_window.dense(each.bfloat16(), last) for each in (gradient, input))
    arguments = *both, torch.zeros(shape[1], len(counts), 9), counts, *geometry
    found = ptx.on_ptx(_operators.rank_mean_weight_grad, *arguments)
    torch.testing.assert_close(found, reference.rank_mean_weight_grad(*arguments), equal_nan=True)


def test_tied_draw_of_a_large_window() -> None:
    geometry = _window.Geometry([5, 4], [2, 2], [2, 1], [1, 1], [], False)
    counts = tuple(geometry.possible_counts())
    table = torch.tensor([DISTRIBUTIONS["max-dropout"].threshold_table(counts)], dtype=torch.int64)
    _compare("rank_draw", _activations((2, 1, 9, 10), "anything"), torch.tensor(11), table, counts, *geometry, 2)


@pytest.mark.parametrize(
    ("size", "dtype", "last"),
    [
        ((14, 14), torch.bfloat16, False),
        ((14, 14), torch.float32, False),
        ((8, 16), torch.float16, False),
        ((7, 9), torch.bfloat16, True),
    ],
)
def test_scatter(size: tuple[int, int], dtype: torch.dtype, last: bool) -> None:
    """Rows of windows, each one thread's, whose gradients are shifted; half types added two at a time."""
    geometry = _window.Geometry([3, 3], [2, 2], [1, 1], [1, 1], [], False)
    shape = (2, 4, *geometry.output_sizes(size))
    drawn = torch.randint(0, 10, shape, generator=torch.Generator().manual_seed(5))
    drawn = torch.where(drawn == 9, 255, drawn).to(torch.uint8)
    gradient = _activations(shape, "anything").to(dtype)
    _compare("drawn_scatter", *(_window.dense(t, last) for t in (gradient, drawn)), list(size), *geometry[:5])


def test_scatter_at_an_odd_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of 32 bits are read around what a graph's view begins with."""
    monkeypatch.setattr(_operators, "_in_words", lambda tensor: tensor)
    shape = (2, 6, 7, 7)
    number, generator = math.prod(shape), torch.Generator().manual_seed(5)
    drawn = torch.randint(0, 4, (number + 4,), generator=generator).to(torch.uint8)[3:-1].view(shape)
    gradient = torch.randn(number + 2, generator=generator).bfloat16()[1:-1].view(shape)
    _compare("drawn_scatter", gradient, drawn, [14, 14], [2, 2], [2, 2], [0, 0], [1, 1], [])


def test_gpus_before_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """They lack instructions for two bfloat16 numbers: no kernel has them if one of the GPUs is older."""
    capabilities = [(9, 0), (9, 0)]
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capabilities[device or 0])
    assert _plan.is_packed()
    capabilities[1] = (8, 0)
    assert not _plan.is_packed()


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("rank_draw", BLOCKS, torch.bfloat16),
        ("rank_mean", LINES, torch.bfloat16),
        ("rank_mean_backward", LINES, torch.float16),
        ("drawn_scatter", LINES, torch.bfloat16),
    ],
)
def test_without_their_instructions(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """What a GPU before Hopper is given assembles for it, and has the reference's bits."""
    geometry = _window.Geometry([3, 3], [2, 2], [1, 1], [1, 1], [], False)
    counts, input = tuple(geometry.possible_counts()), _activations(shape, "anything").to(dtype)
    tables = (getattr(DISTRIBUTIONS["ensemble"], f"{which}_table")(counts) for which in ("threshold", "weight"))
    thresholds, weights = (torch.tensor([table]) for table in tables)
    draw = reference.rank_draw(input, torch.tensor(11), thresholds, counts, *geometry, 0)
    arguments: dict[str, Any] = {
        "rank_draw": (input, torch.tensor(11), thresholds, counts, *geometry, 0),
        "rank_mean": (input, weights, counts, *geometry),
        "rank_mean_backward": (draw[0], input, weights, counts, *geometry),
        "drawn_scatter": (*draw, list(shape[2:]), *geometry[:5]),
    }
    _compare(name, *arguments[name], capability=80)


@pytest.mark.parametrize("name", ["rank_draw", "value_draw"])
def test_amd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for AMD's GPUs assemble: nothing in them is PTX."""
    geometry = _window.Geometry([2, 2], [2, 2], [0, 0], [1, 1], [], False)
    input = torch.empty(LINES, dtype=torch.bfloat16, device="meta")
    table = torch.empty(1, 1, 4, dtype=torch.int64, device="meta")
    ranks = (table, [4]) if name == "rank_draw" else (torch.empty(1, device="meta"),)
    assembled = ptx.for_amd(getattr(_operators, name), input, table.new_empty(()), *ranks, *geometry, 0)
    assert all(kernel["hsaco"] for kernel in assembled)
