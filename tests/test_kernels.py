"""Every operator's kernel on every device against the reference, with proof of which kernel ran."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import empool
from cases import CASES, DISTRIBUTIONS, DTYPES, GEOMETRIES, Call, Case, calls
from empool import reference
from tolerances import MEANS, assert_same_bits, assert_same_numbers

KERNELS = (
    "rank_draw",
    "value_draw",
    "drawn_scatter",
    "drawn_gather",
    "rank_mean",
    "rank_mean_backward",
    "rank_mean_weight_grad",
    "value_mean",
    "value_mean_backward",
    "value_mean_beta_grad",
)
"""The operators that have kernels of their own; the rest are the reference everywhere."""
NEAR = ("rank_mean_weight_grad", "value_mean", "value_mean_backward")
"""Those whose sums may be taken in another order, on every device."""
DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
REQUIRED = [{"triton": "cuda"}.get(name, name) for name in os.environ.get("EMPOOL_REQUIRE", "").split(",") if name]
ops = torch.ops.empool


def _has_kernel(name: str, device: str) -> bool:
    """Ask the dispatcher, not the package."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"empool::{name}", device.upper())


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """A device whose kernels there are; where they must be (``EMPOOL_REQUIRE=cpu``), their absence is a failure."""
    if not any(_has_kernel(name, request.param) for name in KERNELS) and request.param not in REQUIRED:
        pytest.skip(f"no kernels on {request.param}: {empool.kernels()['rank_draw'][request.param]}")
    return request.param


def test_kernels_tells_what_the_dispatcher_runs() -> None:
    table = empool.kernels()
    assert set(table) == set(ops) | set(KERNELS) | {"rank_mean_jvp", "rank_mean_weight_grad_jvp"}
    for name, devices in table.items():
        assert set(devices) == {"cpu", "cuda"}
        for device, kernel in devices.items():
            assert kernel.startswith("reference: ") != _has_kernel(name, device), (name, device, kernel)


def test_new_memory_is_filled(filled_memory: bool) -> None:
    if not filled_memory:
        pytest.skip("this C library does not fill memory")
    assert torch.empty(4096).isnan().all()
    assert (torch.empty(4096, dtype=torch.int64) == -1).all()


@pytest.mark.parametrize("device", REQUIRED)
def test_required_kernels_are_there(device: str) -> None:
    missing = {name: empool.kernels()[name][device] for name in KERNELS if not _has_kernel(name, device)}
    assert not missing


def _moved(args: tuple[Any, ...], device: str) -> tuple[Any, ...]:
    return tuple(arg.to(device) if isinstance(arg, torch.Tensor) else arg for arg in args)


def _check(call: Call, device: str, dtype: torch.dtype) -> None:
    name, what, args = call
    assert _has_kernel(name, device), f"{name} has no kernel on {device}: {empool.kernels()[name][device]}"
    result = getattr(ops, name)(*_moved(args, device))
    expected = getattr(reference, name)(*args)
    what = f"{name} {what} {dtype}"
    if name == "value_mean_beta_grad":  # One sum of all windows, in the type of what is summed.
        sizes = reference.value_mean_beta_grad(args[0].abs(), *args[1:]).nan_to_num(1).clamp(min=1e-6)
        near = max(torch.finfo(t).eps for t in (expected.dtype, torch.promote_types(dtype, torch.float32)))
        torch.testing.assert_close(
            result.cpu() / sizes,
            expected / sizes,
            rtol=0,
            atol=16 * near,
            equal_nan=True,
            msg=lambda text: f"{what}\n{text}",
        )
    elif name in NEAR:
        # A slope is a difference of what may be nearly equal.
        near = {key: value * (10 if name.endswith("backward") else 1) for key, value in MEANS[expected.dtype].items()}
        torch.testing.assert_close(result.cpu(), expected, equal_nan=True, **near, msg=lambda text: f"{what}\n{text}")
    elif device == "cpu" and name != "rank_mean" and name != "rank_mean_backward" and name != "drawn_scatter":
        assert_same_bits(result, expected, what)
    elif device == "cpu" or not name.startswith("rank_mean"):
        assert_same_numbers(
            _moved((result,) if isinstance(result, torch.Tensor) else result, "cpu"), _tuple(expected), what
        )
    else:
        torch.testing.assert_close(
            result.cpu(), expected, equal_nan=True, **MEANS[dtype], msg=lambda text: f"{what}\n{text}"
        )
    for r, e in zip(_tuple(result), _tuple(expected), strict=True):
        assert r.is_contiguous() == e.is_contiguous(), what


def _tuple(result: Any) -> tuple[torch.Tensor, ...]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def _distributions(case: Case, dtype: torch.dtype) -> tuple[str, ...]:
    """Choose every second one, by turns, and fewer where only the size is new."""
    if case not in GEOMETRIES:
        return ("ensemble", "ordinal")
    return tuple(DISTRIBUTIONS)[(CASES.index(case) + DTYPES.index(dtype)) % 2 :: 2]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (case, dtype)
        for (i, case), (j, dtype) in itertools.product(enumerate(CASES), enumerate(DTYPES))
        if case in GEOMETRIES or (i + j) % 2 == 0  # Two dtypes by turns where only the size is new.
    ],
    ids=str,
)
def test_kernel(case: Case, dtype: torch.dtype, device: str) -> None:
    for call in calls(case, dtype, _distributions(case, dtype)):
        if call[0] in KERNELS:
            _check(call, device, dtype)


def check_every_second_case(capability: str) -> None:
    """Compare every second case in one type, in a process that was told which instruction set to use."""
    assert empool.kernels()["rank_draw"]["cpu"] == f"C++ ({capability})"
    for index, case in enumerate(CASES[::2]):
        dtype = DTYPES[index % 4]
        for call in calls(case, dtype, _distributions(case, dtype)):
            if call[0] in KERNELS:
                _check(call, "cpu", dtype)


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_other_instruction_sets(capability: str) -> None:
    """One process has one instruction set: the others need processes of their own."""
    own = empool.kernels()["rank_draw"]["cpu"]
    if not own.startswith("C++") or own == f"C++ ({capability})":
        pytest.skip(f"this process has {own}")
    paths = (os.path.dirname(__file__), os.path.dirname(os.path.dirname(empool.__file__)))
    done = subprocess.run(
        [sys.executable, "-c", f"import test_kernels; test_kernels.check_every_second_case({capability!r})"],
        env={**os.environ, "EMPOOL_CPU_CAPABILITY": capability, "PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if "ValueError" in done.stderr and "EMPOOL_CPU_CAPABILITY" in done.stderr:
        pytest.skip(f"this processor has no {capability}")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("window", [(2, 2), (3, 2, 1), (3, 1, 1)], ids=str)
def test_any_number_of_threads_gives_the_same_bits(window: tuple[int, ...], layout: str) -> None:
    case = Case("threads", (5, 19, 61, 67), *window, layout=layout)
    for name, what, args in calls(case, torch.float32, ("ensemble", "max-dropout")):
        torch.set_num_threads(1)
        alone = getattr(ops, name)(*args)
        torch.set_num_threads(7)
        assert_same_bits(getattr(ops, name)(*args), alone, f"{name} {what}")


@pytest.mark.parametrize("name", ["value_draw", "rank_draw"])
def test_several_seeds(name: str, device: str) -> None:
    """vmap folds its batch into the images and gives every example its own seed."""
    case = Case("several seeds", (6, 3, 9, 20), 3, 2, 1)
    call = next(call for call in calls(case, torch.float32, ("ensemble",)) if call[0] == name)
    seeds = torch.tensor([3, -5, 2**62])
    _check((name, "", (call[2][0], seeds, *call[2][2:])), device, torch.float32)
    _check((name, "", (call[2][0], seeds.repeat(2), *call[2][2:])), device, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_expanded_gradients(dtype: torch.dtype, device: str) -> None:
    """The gradient of a sum has stride 0 everywhere."""
    for layout in ("contiguous", "channels last"):
        case = Case("expanded gradient", (2, 5, 7, 10), 3, 2, 1, layout=layout)
        for name, what, args in calls(case, dtype, ("ensemble",)):
            if name in ("drawn_scatter", "rank_mean_backward"):
                ones = torch.ones((), dtype=dtype).expand(case.output_shape)
                _check((name, what, (ones, *args[1:])), device, dtype)


def _available_memory() -> int:
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except OSError:
        return 0


@pytest.fixture
def memory_is_given_back() -> Iterator[None]:
    """The lab has glibc keep what is freed, so a worker that ran its tests would hold what this one took to the end."""
    yield
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


@pytest.mark.skipif(_available_memory() < 13 * 2**30, reason="takes 11 GiB of memory")
@pytest.mark.usefixtures("memory_is_given_back")
def test_more_than_two_to_the_31_elements() -> None:
    """2^31 + 2^16 elements in bfloat16, looked at from both ends; the reference takes the ends alone."""
    if not _has_kernel("rank_draw", "cpu"):
        if "cpu" in REQUIRED:
            pytest.fail(empool.kernels()["rank_draw"]["cpu"])
        pytest.skip("the reference has no memory for this")
    pattern = torch.randn(6, 128, 256).to(torch.bfloat16)
    input = pattern.expand(10923, 6, 128, 256).contiguous()
    window = ([2, 2], [2, 2], [0, 0], [1, 1], [])

    def check(input: torch.Tensor, ends: list[slice], dim: int, threshold: list[int], seed: torch.Tensor) -> None:
        thresholds = torch.tensor([[threshold]], dtype=torch.int64)
        output, drawn = ops.rank_draw(input, seed, thresholds, [4], *window, False, 0)
        gradient = ops.drawn_scatter(output, drawn, input.shape[2:], *window)
        gathered = ops.drawn_gather(input, drawn, *window) if dim == 0 else output
        for end in ends:
            half = slice(end.start and end.start // 2, end.stop and end.stop // 2) if dim == 2 else end
            before = (slice(None),) * dim
            part = input[(*before, end)]
            # Where images are cut off, each has its own seed; where rows are, the draw is the maximum.
            key = seed[end] if dim == 0 else seed
            expected = reference.rank_draw(part, key, thresholds, [4], *window, False, 0)
            assert_same_bits((output[(*before, half)], drawn[(*before, half)]), expected, layout=False)
            expected_gradient = reference.drawn_scatter(*expected, part.shape[2:], *window)
            assert_same_bits(gradient[(*before, end)], expected_gradient, layout=False)
            assert_same_bits(gathered[(*before, half)], expected[0], layout=False)

    images = [slice(0, 2), slice(5460, 5463), slice(-2, None)]
    check(input, images, 0, [2**31], torch.arange(10923))
    rows = [slice(0, 4), slice(-4, None)]
    check(input.view(1, 1, 65538, 32768), rows, 2, [], torch.tensor(0))
    largest = ops.rank_mean(input.view(1, 1, 65538, 32768), torch.ones(1, 1, 1), [4], *window, False)
    tail = input.view(1, 1, 65538, 32768)[:, :, -4:]
    assert_same_bits(largest[:, :, -2:], F.max_pool2d(tail, 2), layout=False)


@pytest.mark.parametrize("counts", [[], [1, 2, 4]], ids=str)
def test_a_table_without_a_row_for_each_count_is_refused(counts: list[int]) -> None:
    input, geometry = torch.randn(1, 1, 4, 4), ([2, 2], [2, 2], [0, 0], [1, 1], [], False)
    thresholds, weights = torch.zeros(1, 2, 1, dtype=torch.int64), torch.ones(1, 2, 1)
    for call in (
        lambda: ops.rank_draw(input, torch.tensor(0), thresholds, counts, *geometry, 0),
        lambda: ops.rank_mean(input, weights, counts, *geometry),
        lambda: ops.rank_mean_backward(input[..., :2, :2], input, weights, counts, *geometry),
    ):
        with pytest.raises(RuntimeError, match="counts"):
            call()


WINDOWS = {
    "2x2/2": ((3, 5, 12, 10), 2, 2, 0),
    "3x3/2 padded": ((2, 5, 13, 30), 3, 2, 1),
    "3x3/2 padded, small": ((2, 18, 7, 9), 3, 2, 1),
    "2x2/2, channels in vectors": ((2, 32, 9, 6), 2, 2, 0),
    "3x3/2 padded, channels in vectors": ((2, 32, 21, 6), 3, 2, 1),
    "3x3/1 padded": ((2, 33, 6, 8), 3, 1, 1),
    "5x5/3 padded": ((2, 70, 11, 8), 5, 3, 2),
    "7x7 global": ((2, 68, 7, 7), 7, 7, 0),
    "4x4/5": ((2, 3, 14, 14), 4, 5, 1),
}
"""The kernels' branches by window and layout: rows, small planes, channels in place, several vectors, disjoint."""


def _tables(channels: int, counts: Sequence[int]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Make tables with every kind of threshold: never reached, always, in between; and weights of 0 and below."""
    generator = torch.Generator().manual_seed(0)
    wide = max(counts)
    edges = torch.tensor([0, 1, 2**31, 2**32 - 1, 2**32])
    any_edge = edges[torch.randint(5, (channels, len(counts), wide), generator=generator)].sort(-1).values
    weights = torch.randn(channels, len(counts), wide, generator=generator, dtype=torch.float64)
    weights *= torch.rand(weights.shape, generator=generator) < 0.6
    largest = torch.zeros_like(weights)
    largest[..., 0] = 1
    weights = torch.where(torch.arange(channels).reshape(-1, 1, 1) % 4 == 0, largest, weights)
    for row, n in enumerate(counts):
        weights[:, row, n:] = 0
    return {
        "each": (any_edge, weights),
        "each, three": (any_edge[:, :, :3], weights[:, :, :3]),
        "one": (any_edge[1:2], weights[1:2].float()),
        "two": (any_edge[1:2, :, :1], weights[1:2, :, :2]),
        "always": (torch.zeros(1, len(counts), 1, dtype=torch.int64), largest[:1]),
        "never": (torch.full((1, len(counts), 2), 2**32), largest[:1]),
    }


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("window", WINDOWS)
def test_any_table(window: str, layout: str, device: str) -> None:
    """Tables that no distribution makes, in every branch of the kernels, with values that are ordinary and special."""
    for dtype, values in itertools.product(DTYPES, ("normal", "ties", "special")):
        case = Case(window, *WINDOWS[window], layout=layout, values=values)
        input, gradient, counts = case.input(dtype), case.grad_output(dtype), case.counts
        for index, (name, (thresholds, weights)) in enumerate(_tables(case.shape[1], counts).items()):
            draw = (input, torch.tensor(index), thresholds, counts, *case.geometry, index % 4, index)
            mean = (input, weights, counts, *case.geometry)
            what = f"{name}, {values}"
            _check(("rank_draw", what, draw), device, dtype)
            _check(("rank_mean", what, mean), device, dtype)
            _check(("rank_mean_backward", what, (gradient, *mean)), device, dtype)
            _check(("rank_mean_weight_grad", what, (gradient, *mean)), device, dtype)
            if not name.startswith("each"):
                drawn = reference.rank_draw(*draw)[1]
                scatter = (gradient, drawn, list(case.shape[2:]), *case.geometry[:5])
                _check(("drawn_scatter", what, scatter), device, dtype)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (3, 1, 1)], ids=str)
def test_sums_that_leave_the_range(window: tuple[int, ...], layout: str, device: str) -> None:
    """Means by value without the largest activation hold for ordinary ones; others, in between, go another way."""
    case = Case("range", (5, 32, 13, 40), *window, layout=layout)
    for dtype, beta in itertools.product(DTYPES[:3], (None, torch.tensor(-2.0), torch.linspace(-3, 3, 32))):
        input, gradient = case.input(dtype), case.grad_output(dtype)
        input[1] *= 12
        input[2, 3:] *= 1e-20
        if device == "cpu" and beta is None:
            input[0, :2] = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        input[3, ::5, 4::3, 2::7] = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.0])[
            torch.arange(7) % 4, None, None
        ]
        if beta is None:  # The windows' sums are infinite, their means aren't.
            input[4] = input[4].clamp(-1, 1) * (0.9 * torch.finfo(dtype).max)
        _check(("value_mean", f"{beta}", (input, beta, *case.geometry)), device, dtype)
        _check(("value_mean_backward", f"{beta}", (gradient, input, beta, *case.geometry)), device, dtype)
        if beta is not None and device == "cpu":
            for wide in (beta, beta.double()):
                _check(("value_mean_beta_grad", f"{wide}", (gradient, input, wide, *case.geometry)), device, dtype)


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1), (3, 1, 0)], ids=str)
def test_the_gradient_of_beta_far_from_zero(window: tuple[int, ...], layout: str) -> None:
    """A variance is no difference of squares: it is right where activations are alike but for their last bits."""
    case = Case("far", (2, 33, 9, 8), *window, layout=layout)
    exact = (case.input(torch.float64) * 16).round() / 16
    for beta in (torch.tensor(-1.5), torch.linspace(-2, 2, 33)):
        whole = (case.grad_output(torch.float64).abs(), exact, beta.double(), *case.geometry)
        expected = reference.value_mean_beta_grad(*whole)
        for far in (0.0, 4096.0, -65536.0):
            input, gradient = (exact + far).float(), case.grad_output(torch.float64).abs().float()
            found = ops.value_mean_beta_grad(gradient, input, beta, *case.geometry)
            torch.testing.assert_close(found, expected.float(), rtol=2e-2 if far else 1e-5, atol=1e-30)


@pytest.mark.parametrize("tied", [0, 1, 2, 3])
def test_an_image_counts_from_its_first(tied: int, device: str) -> None:
    """A shard of a batch draws what the whole batch does."""
    for layout, window in itertools.product(("contiguous", "channels last"), ("3x3/2 padded", "5x5/3 padded")):
        case = Case(window, *WINDOWS[window], layout=layout)
        input, counts = case.input(torch.float32).to(device), case.counts
        table = torch.full((1, len(counts), 1), 2**31).to(device)
        seed = torch.tensor(11, device=device)
        whole = ops.rank_draw(input, seed, table, counts, *case.geometry, tied, 5)
        part = ops.rank_draw(input[1:], seed, table, counts, *case.geometry, tied, 6)
        assert_same_bits(part, tuple(tensor[1:] for tensor in whole), layout=False)
        same = ops.value_draw(input, seed, None, *case.geometry, tied, 5)
        assert_same_bits(ops.value_draw(input[1:], seed, None, *case.geometry, tied, 6), tuple(t[1:] for t in same))
