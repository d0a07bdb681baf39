"""The Triton kernels against the reference, bit for bit: interpreted on the CPU, and compiled on a GPU.

Whether Triton interprets is settled when it is imported, so the interpreted tests are this file once more, in a process
of its own. Without a GPU, kernels are also compiled for one: the interpreter accepts what the compiler refuses.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import cases
import empool
from cases import Case
from empool import reference
from empool._window import Geometry

if importlib.util.find_spec("triton") is None:
    if "triton" in os.environ.get("EMPOOL_REQUIRE", ""):
        raise ImportError("EMPOOL_REQUIRE asks for Triton, which is not installed")
    pytest.skip("Triton is not installed", allow_module_level=True)

pytestmark = [  # NumPy's, which computes for the interpreter.
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_device = pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="no CUDA device")

NAMED = {case.name: case for case in cases.CASES}
INTERPRETED_CASES = [
    *map(
        NAMED.__getitem__,
        (
            "1d 3/2 padded",
            "1d channels last",
            "2x2/2",
            "2x2/2 odd",
            "3x3/2 padded",
            "asymmetric",
            "wider than the image",
            "stride beyond the window, padded",
            "ceil, left out",
            "padding only",
            "no images",
            "3d 2x2x2/2",
            "2x2/2, channels last",
            "2x2/2, offset",
        ),
    ),
    Case("2x2/2, mixed", (2, 3, 6, 12), 2, 2, values="special"),
    Case("3x3/2 padded, halved, mixed", (2, 2, 8, 6), 3, 2, 1, values="special"),
    Case("3x3/2 padded, in lines, ties", (2, 2, 6, 14), 3, 2, 1, values="ties"),
    Case("3x3/2 padded, mixed, channels last", (1, 3, 5, 7), 3, 2, 1, layout="channels last", values="special"),
    Case("3x3/2 padded, 30 channels last, mixed", (2, 30, 5, 9), 3, 2, 1, layout="channels last", values="special"),
    Case("overlapping, stride 2, aligned", (1, 2, 6, 16), 3, 2, 1, values="ties"),
    Case("stride too large to unroll", (1, 2, 11, 12), 5, 5, 1, values="special"),
    Case("window too large to unroll", (1, 2, 9, 10), (6, 6), (3, 2), 1, values="special"),
    Case("window too large to unroll, channels last", (1, 3, 9, 10), (6, 6), 3, layout="channels last"),
    Case("adaptive", (1, 2, 5, 7), 0, 0, output_size=(3, 4), values="special"),
    Case("adaptive, channels last", (1, 3, 5, 4), 0, 0, output_size=(2, 3), layout="channels last"),
]
"""Every branch of the kernels: about 0.1 seconds a call."""
COMPILED_CASES = [*cases.GEOMETRIES, *INTERPRETED_CASES[-10:], *(case for case in cases.CASES if "large" in case.name)]
QUICK = os.environ.get("EMPOOL_QUICK") == "1"
if QUICK:
    few = (
        "3x3/2 padded, halved, mixed",
        "2x2/2, mixed",
        "adaptive",
        "3x3/2 padded, 30 channels last, mixed",
        "asymmetric",
    )
    COMPILED_CASES = [case for case in INTERPRETED_CASES if case.name in few]
"""What a GPU is tested on; a kernel compiles for one or two seconds, and every case needs several of its own."""


def _dtype(case: Case) -> torch.dtype:
    """Spread the types over the cases."""
    return cases.DTYPES[sum(case.name.encode()) % len(cases.DTYPES)]


def _run(name: str, arguments: tuple[Any, ...]) -> Any:
    from empool import _triton

    moved = [_to_device(argument) if isinstance(argument, Tensor) else argument for argument in arguments]
    return getattr(_triton, name)(*moved)


ROUNDED = {"value_mean", "value_mean_backward", "value_mean_beta_grad", "rank_mean_weight_grad"}
"""What is compared up to rounding: sums and exponentials whose order and bits no one fixes."""
SERVED = ("rank_mean_jvp", "rank_mean_weight_grad_jvp")
"""What the reference serves on CUDA."""


def _to_device(tensor: Tensor) -> Tensor:
    """Move a tensor with its strides, an offset from an aligned address and elements that repeat."""
    if DEVICE == "cpu":
        return tensor
    storage = torch.empty(0, dtype=tensor.dtype, device=DEVICE).set_(tensor.untyped_storage().cuda())
    return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _assert_same(actual: Any, expected: Any) -> None:
    """Compare bits (of a NaN, only that it is one) and layout."""
    if isinstance(expected, tuple):
        for one, other in zip(actual, expected, strict=True):
            _assert_same(one, other)
        return
    assert (actual.dtype, actual.shape, _layout(actual)) == (expected.dtype, expected.shape, _layout(expected))
    actual = actual.cpu()
    if expected.is_floating_point():
        torch.testing.assert_close(actual.isnan(), expected.isnan())
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
        actual, expected = (torch.where(t.isnan(), 0, t.contiguous().view(bits)) for t in (actual, expected))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def _assert_right(name: str, arguments: tuple[Any, ...]) -> None:
    """Compare a kernel's result with the reference's: bits, or where none are fixed, up to rounding."""
    actual, expected = _run(name, arguments), getattr(reference, name)(*arguments)
    # The maximum's backward is summed in float32 by a GPU, in the tensor's own type by the reference on a CPU.
    if name not in ROUNDED and not (name == "rank_mean_backward" and reference.is_maximum(arguments[2])):
        _assert_same(actual, expected)
        return
    epsilon = max(torch.finfo(t).eps for t in (expected.dtype, torch.promote_types(arguments[0].dtype, torch.float32)))
    added = expected
    if name == "value_mean_beta_grad":  # One sum over all windows, whose terms may cancel.
        added = reference.value_mean_beta_grad(arguments[0].abs(), *arguments[1:])
    scale = max([1.0, *added.double().nan_to_num(0, 0, 0).abs().flatten().tolist()])
    torch.testing.assert_close(actual.cpu(), expected, rtol=8 * epsilon, atol=32 * epsilon * scale, equal_nan=True)


def _layout(tensor: Tensor) -> list[int]:
    """Return the strides that mean something."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1 and tensor.numel()]


@pytest.mark.skipif(INTERPRETED, reason="runs once")
def test_a_few_windows_stand_for_all() -> None:
    """How many positions are valid is worked out without looking at every window, of which a signal has millions."""
    from empool._triton._plan import Windows

    for size, kernel, stride, padding, dilation in itertools.product(
        range(1, 10), (1, 2, 3, 5), (1, 2, 4), (0, 1, 2), (1, 2)
    ):
        output = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 2  # One more, as of ceil_mode.
        if padding <= kernel // 2 and output > 0:
            starts = [index * stride - padding for index in range(output)]
            valid = {sum(0 <= start + k * dilation < size for k in range(kernel)) for start in starts}
            geometry = Geometry((kernel,), (stride,), (padding,), (dilation,), (), True)
            assert Windows.of((1, 1, size), (1, 1, output), geometry, False, 4).sides[2] == tuple(sorted(valid))
    for size, output in itertools.product(range(1, 13), repeat=2):
        bounds = [(index * size // output, -(-(index + 1) * size // output)) for index in range(output)]
        geometry = Geometry((size,), (1,), (0,), (1,), (output,), False)
        windows = Windows.of((1, 1, size), (1, 1, output), geometry, False, 4)
        assert windows.sides[2] == tuple(sorted({end - start for start, end in bounds}))
        assert windows.cover[2] == max(sum(start <= i < end for start, end in bounds) for i in range(size))
    signal = Windows.of((1, 1, 1 << 40), (1, 1, 1 << 39), Geometry((2,), (2,), (0,), (1,), (), False), False, 4)
    assert signal.sides[2] == (2,)


@pytest.mark.skipif(INTERPRETED, reason="runs the interpreted tests")
def test_interpreted() -> None:
    # On a GPU too: what is compiled there and what is interpreted here are the same kernels.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-20000:] + result.stderr[-5000:]


@pytest.fixture(autouse=True)
def _rounding_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round to bfloat16 as a GPU does: the interpreter cuts off. Delete when Triton's does not."""
    if not INTERPRETED:
        return
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounding(input: Any, source: Any, target: Any, mode: Any) -> Any:
        if source == tl.float32 and target == tl.bfloat16:
            wide = torch.from_numpy(np.array(input)).view(torch.float32)
            return wide.bfloat16().view(torch.int16).numpy().view(np.uint16)
        return convert(input, source, target, mode)

    monkeypatch.setattr(interpreter, "_convert_float", rounding)


def _selected(case: Case) -> list[tuple[str, str, tuple[Any, ...]]]:
    """List the calls on a case; interpreted, those that differ in more than numbers, and no slow ones."""
    calls = [call for call in cases.calls(case, _dtype(case)) if call[0] not in SERVED]
    if not INTERPRETED and not QUICK:
        return calls
    small, wide = case.geometry.volume <= 6, case.geometry.volume > 9
    contiguous = case.layout == "contiguous"  # Channels last, four outputs are interpreted one after another.
    ranked = ("max", "ensemble", "max-dropout") if small else ("max", "ordinal") if wide else ("ensemble", "by channel")
    tied = (
        ("by channel", "ensemble, tied", "average, tied", "ordinal, tied") if small and contiguous else ("by channel",)
    )
    kept = {
        "rank_draw": ranked if wide else (*ranked, *tied),
        "rank_mean": ("max", "ensemble", "ordinal", "by channel") if small and contiguous else ("ensemble",),
        "rank_mean_backward": ("max", "ordinal", "by channel") if small and contiguous else (),
        "rank_mean_weight_grad": ("ordinal", "by channel") if small and (contiguous or case.dims == 1) else (),
        "drawn_scatter": ("max",),
        "drawn_gather": ("max",),
        "value_draw": ("", "soft, negative", "by channel") if small and contiguous else ("by channel",),
        "value_mean": ("", "by channel") if small and contiguous else ("soft",),
        "value_mean_backward": ("", "by channel") if small and contiguous else (),
        "value_mean_beta_grad": ("soft", "by channel") if small else (),
    }
    return [call for call in calls if call[1] in kept[call[0]]]


@needs_device
@pytest.mark.parametrize("case", INTERPRETED_CASES if INTERPRETED else COMPILED_CASES, ids=str)
def test_same_bits(case: Case) -> None:
    for name, what, arguments in _selected(case):
        try:
            _assert_right(name, arguments)
        except AssertionError as error:
            raise AssertionError(f"{name}, {what}, {_dtype(case)}: {error}") from error


@needs_device
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype, layout: str) -> None:
    case = Case("dtypes", (2, 3, 6, 8), 3, 2, 1, layout=layout, values="special")
    for name, what, arguments in cases.calls(case, dtype, ["ensemble"]):
        if (name, what) in {
            ("rank_draw", "ensemble"),
            ("drawn_scatter", "ensemble"),
            ("rank_mean", "ensemble"),
            ("value_draw", "" if layout == "contiguous" else "by channel"),
        }:
            _assert_right(name, arguments)


@needs_device
@pytest.mark.parametrize(
    ("kernel", "padding", "width", "dtype", "offset"),
    [
        ((3, 3), (1, 1), 7, torch.bfloat16, 1),
        ((3, 3), (1, 1), 6, torch.float16, 0),
        ((4, 3), (1, 1), 9, torch.bfloat16, 3),
        ((2, 2), (0, 0), 5, torch.float32, 1),
        ((5, 3), (2, 1), 7, torch.float32, 0),
    ],
    ids=str,
)
def test_short_rows(kernel: list[int], padding: list[int], width: int, dtype: torch.dtype, offset: int) -> None:
    """One thread has a whole row of windows, which begins at any address; draws in the padding count for nothing."""
    from empool._triton import _operators

    shape = (4, 3, 5, width)
    volume, number = math.prod(kernel), math.prod(shape)
    gradient = torch.randn(number + offset).masked_fill(torch.rand(number + offset) < 0.2, -0.0).to(dtype)
    gradient[offset::7] = torch.inf
    drawn = torch.randint(0, volume + 1, (number + offset,))
    drawn = torch.where(drawn < volume, drawn, 255).to(torch.uint8)
    geometry = kernel, (2, 2), padding, (1, 1), ()
    size = (10, 2 * width)
    kernel, _ = _operators._drawn_scatter(shape, torch.uint8, dtype, False, size, *geometry)
    assert kernel is _operators._drawn_scatter_line_kernel
    _assert_right("drawn_scatter", (*(t[offset:].view(shape) for t in (gradient, drawn)), size, *geometry))


@needs_device
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_several_seeds(layout: str) -> None:
    case = Case("seeds", (6, 3, 4, 9), 2, 2, layout=layout)
    for seeds in (cases.SEEDS[:2], cases.SEEDS[1:4], cases.SEEDS[1:]):
        signed = [seed - 2**64 if seed >= 2**63 else seed for seed in seeds]
        arguments = (
            case.input(torch.float32),
            torch.tensor(signed),
            torch.tensor([[[3 << 30]]]),
            [4],
            *case.geometry,
            0,
        )
        _assert_same(_run("rank_draw", arguments), reference.rank_draw(*arguments))


@needs_device
def test_a_seed_that_is_repeated() -> None:
    """`torch.vmap` expands a seed over its examples; a kernel reads seeds side by side."""
    case = Case("repeated seed", (6, 3, 4, 9), 2, 2)
    seed = torch.tensor([12345, 678])[:1].expand(3)
    arguments = (case.input(torch.float32), seed, torch.tensor([[[3 << 30]]]), [4], *case.geometry, 0)
    moved = arguments[0].to(DEVICE), torch.tensor([12345, 678], device=DEVICE)[:1].expand(3)
    expected = reference.rank_draw(*arguments)
    _assert_same(_run("rank_draw", (moved[0], moved[1], *arguments[2:])), expected)


@needs_device
def test_seeds_that_do_not_divide_the_images() -> None:
    case = Case("seeds", (6, 1, 4, 4), 2, 2)
    arguments = (case.input(torch.float32), torch.arange(4), torch.tensor([[[1 << 31]]]), [4], *case.geometry, 0)
    with pytest.raises(RuntimeError):
        reference.rank_draw(*arguments)
    with pytest.raises(ValueError, match="divide the 6 images"):
        _run("rank_draw", arguments)


@needs_device
def test_mean_of_whole_windows() -> None:
    """Under `ceil_mode` a table has rows for partial windows, of which a call may have none."""
    case = Case("whole windows", (2, 3, 13, 13), 3, 2, ceil_mode=True)
    assert case.counts == [1, 2, 3, 4, 6, 9]
    weights = cases.weights(empool.EnsembleMax(0.3), case.counts)
    arguments = (case.input(torch.float32), weights, case.counts, *case.geometry)
    _assert_same(_run("rank_mean", arguments), reference.rank_mean(*arguments))


@needs_device
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_wide_indices(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from empool._triton import _operators, _plan

    def forget() -> None:
        for remembered in (_operators._made, _plan.output_plan, _plan.input_plan):
            remembered.cache_clear()

    monkeypatch.setattr(_plan, "INDEX_LIMIT", 1)
    forget()
    case = Case("wide indices", (2, 3, 2, 4, 10), (1, 2, 2), (1, 2, 2), layout=layout)
    try:
        for name, what, arguments in cases.calls(case, torch.float32):
            if what in ("", "ensemble", "max") and name in ("rank_draw", "value_draw", "drawn_scatter", "rank_mean"):
                _assert_right(name, arguments)
    finally:
        forget()


def test_division() -> None:
    from empool._triton._plan import _magic

    for divisor in (*range(1, 70), 255, 256, 257, 12345, (1 << 16) - 1, 1 << 16, (1 << 30) + 1, (1 << 31) - 1):
        multiplier, shift = _magic(divisor)
        edges = {0, 1, divisor - 1, divisor, 7 * divisor - 1, 7 * divisor, (1 << 31) - 2, (1 << 31) - 1}
        for number in edges:
            if 0 <= number < 1 << 31:
                high = number * (multiplier % (1 << 32)) >> 32
                assert high + number < 1 << 32
                assert (high + number) >> shift == number // divisor


@pytest.mark.parametrize("channels", [20, 50, 65, 100, 130, 513])
def test_channels_last_tiles_waste_a_quarter_at_most(channels: int) -> None:
    """Channels that no power of two divides had tiles of two or four, and as many more programs."""
    from empool._triton._plan import Windows, _tile

    geometry = Geometry((2, 2), (2, 2), (0, 0), (1, 1), (), False)
    windows = Windows.of((8, channels, 14, 14), (8, channels, 7, 7), geometry, True, 4)
    width = _tile(windows, True)[1]
    assert width >= 8
    assert -(-channels // width) * width <= 1.25 * channels


def test_a_kernel_is_started_again_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton finds out at every start what was compiled for the arguments; a plan remembers it."""
    from empool._triton import _plan

    class Compiled:
        function, packed_metadata = 2, (3,)

        def run(self, *arguments: Any) -> None:
            starts.append(("again", *arguments))

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *arguments: starts.append(("told", grid, arguments))

    class Kernel:
        arg_names = ("input", "output", "rows", "WINDOW", "share")

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def start(*tensors: Tensor, **arguments: Any) -> Compiled:
                starts.append(("Triton", grid, arguments))
                return Compiled()

            return start

    class Launcher:  # Triton 3.6's.
        global_scratch_size = profile_scratch_size = 0
        launch_cooperative_grid, launch_pdl = False, True
        launch = Compiled.run

    monkeypatch.setattr(_plan.triton, "__version__", "3.6.0")
    made = SimpleNamespace(function=2, packed_metadata=(3,), run=Launcher())
    assert _plan._launcher(made) == (made.run.launch, (2, False, True, None, None, (3,), None, None, None))
    monkeypatch.setattr(_plan, "CompiledKernel", Compiled)
    monkeypatch.setattr(_plan, "driver", SimpleNamespace(active=SimpleNamespace(get_current_stream=lambda _: 1)))
    starts: list[Any] = []
    plan = _plan.Plan(3, {"WINDOW": (2, 2), "rows": 7, "num_warps": 4}).of(share=5)
    input, output = torch.zeros(8), torch.zeros(8)
    for _ in range(2):
        _plan.launch(Kernel(), plan, input, output)
    pointers = (input.data_ptr(), output.data_ptr())
    assert starts[1] == ("again", 3, 1, 1, 1, 2, (3,), None, None, None, *pointers, 7, (2, 2), 5)
    with monkeypatch.context() as profiled:
        profiled.setattr(_plan.triton.knobs.runtime.launch_enter_hook, "calls", [print])
        _plan.launch(Kernel(), plan, input, output)
    assert starts.pop() == ("told", (3, 1, 1), (*pointers, 7, (2, 2), 5))
    with monkeypatch.context() as newer:
        newer.setattr(_plan, "HAS_KNOWN_LAUNCHER", False)
        _plan.launch(Kernel(), plan, input, output)
    assert starts.pop()[0] == "told"
    # Another argument, type or alignment is another kernel.
    for other, tensors in (
        (plan.of(share=6), (input, output)),
        (plan, (input.double(), output)),
        (plan, (input[1:], output)),
    ):
        _plan.launch(Kernel(), other, *tensors)
        assert starts[-1][0] == "Triton"
    _plan.launch(Kernel(), plan, input[1:], output)
    assert [start[0] for start in starts] == ["Triton", "again", "Triton", "Triton", "Triton", "Triton"]


@pytest.mark.parametrize(("stride", "width", "expected"), [(2, 14, True), (2, 3, True), (5000, 5000, False)])
def test_a_thread_has_a_short_line(stride: int, width: int, expected: bool) -> None:
    """It also reads what no window covers."""
    from empool._triton import _plan

    geometry = Geometry([2, 2], [2, stride], [0, 0], [1, 1], [], False)
    output = (1, 4, 1, *geometry.output_sizes((2, width))[1:])
    assert _plan.has_lines(_plan.Windows.of((1, 4, 2, width), output, geometry, False, 4, (4,))) == expected


# Compiling for a GPU without one.


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Make launches compile for an H100 and start nothing; collect what was compiled."""
    import triton
    from triton.backends.compiler import GPUTarget

    from empool._triton import _operators

    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda _: 0,
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    found: list[Any] = []

    def compile(kernel: Any, plan: Any, *tensors: Tensor, **arguments: Any) -> None:
        found.append(kernel.warmup(*tensors, grid=(1,), **plan.arguments, **arguments))

    monkeypatch.setattr(_operators, "launch", compile)
    return found


needs_compiler = pytest.mark.skipif(
    INTERPRETED or torch.cuda.is_available() or sys.platform != "linux", reason="compiles without a GPU"
)


def _accesses(ptx: str) -> list[str]:
    """List the loads and stores of device memory: instruction, vector and type."""
    words = (line.split() for line in ptx.splitlines() if ".global" in line)
    return [next(w for w in line if ".global" in w).replace(".global", "") for line in words]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1)], ids=["2x2/2", "3x3/2"])
def test_vectors(window: tuple[int, int, int], layout: str, dtype: torch.dtype, compiled: list[Any]) -> None:
    from empool import _triton

    case = Case("vectors", (2, 64, 56, 56), *window, layout=layout)
    table = cases.thresholds(empool.EnsembleMax(0.1), case.counts)
    output, drawn = _triton.rank_draw(case.input(dtype), torch.tensor(0), table, case.counts, *case.geometry, 0)
    _triton.drawn_scatter(output, drawn, list(case.shape[2:]), *case.geometry[:5])
    draw, scatter = (_accesses(kernel.asm["ptx"]) for kernel in compiled)
    half = layout == "channels last" and dtype is torch.bfloat16  # 8 bytes a thread, which keeps many windows.
    assert ("ld.v2.b32" if half else "ld.v4.b32") in draw
    assert any(access.startswith("st.v") for access in draw)
    assert "st.v4.b32" in scatter
    assert not any(access in ("ld.b8", "st.b8") for access in scatter) or (window[0], layout) == (3, "contiguous")


@needs_compiler
@pytest.mark.parametrize(
    "case", [NAMED["3x3/2 padded"], NAMED["3x3/2 padded, channels last"], *INTERPRETED_CASES[-3:]], ids=str
)
def test_compiles(case: Case, compiled: list[Any]) -> None:
    from empool import _triton

    dtype = torch.float16 if case.layout == "contiguous" else torch.float64
    if case.geometry.volume > 9:
        wanted = {"max-dropout", ""}
    elif dtype is torch.float64:  # Several seconds a kernel.
        wanted = {"ensemble", "ordinal", ""}
    else:
        wanted = {"max", "ensemble", "ordinal", "by channel", ""}
    calls = [call for call in cases.calls(case, dtype) if call[1] in wanted and call[0] not in SERVED]
    for name, _, arguments in calls:
        getattr(_triton, name)(*arguments)
    assert len(compiled) >= len(calls)
