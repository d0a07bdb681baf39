"""The Triton kernels against the reference, bit for bit: interpreted on the CPU, and compiled on a GPU.

Whether Triton interprets is settled when it is imported, so the interpreted tests are this file once more, in a process
of its own. Without a GPU, kernels are also compiled for one: the interpreter accepts what the compiler refuses.
"""

from __future__ import annotations

import importlib.util
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
    Case("3x3/2 padded, mixed, channels last", (1, 3, 5, 7), 3, 2, 1, layout="channels last", values="special"),
    Case("overlapping, stride 2, aligned", (1, 2, 6, 16), 3, 2, 1, values="special"),
    Case("stride too large to unroll", (1, 2, 11, 12), 5, 5, 1, values="special"),
    Case("window too large to unroll", (1, 2, 9, 10), (6, 6), (3, 2), 1, values="special"),
    Case("window too large to unroll, channels last", (1, 3, 9, 10), (6, 6), 3, layout="channels last"),
]
"""Every branch of the kernels: about 0.1 seconds a call."""
COMPILED_CASES = [*cases.GEOMETRIES, *INTERPRETED_CASES[-6:], *(case for case in cases.CASES if "large" in case.name)]
if os.environ.get("EMPOOL_QUICK") == "1":
    COMPILED_CASES = [case for case in COMPILED_CASES if case in INTERPRETED_CASES or "large" in case.name]
"""What a GPU is tested on; a kernel compiles for one or two seconds, and every case needs several of its own."""


def _dtype(case: Case) -> torch.dtype:
    """Spread the types over the cases."""
    return cases.DTYPES[sum(case.name.encode()) % len(cases.DTYPES)]


def _run(name: str, arguments: tuple[Any, ...]) -> Any:
    from empool import _triton

    moved = [_to_device(argument) if isinstance(argument, Tensor) else argument for argument in arguments]
    return getattr(_triton, name)(*moved)


def _to_device(tensor: Tensor) -> Tensor:
    """Move a tensor with its strides, an offset from an aligned address and elements that repeat."""
    if DEVICE == "cpu":
        return tensor
    storage = torch.empty(0, dtype=tensor.dtype, device=DEVICE).set_(tensor.untyped_storage().to(DEVICE))
    return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _assert_same(actual: Any, expected: Any) -> None:
    """Compare bits (of a NaN, only that it is one) and layout."""
    if isinstance(expected, tuple):
        for one, other in zip(actual, expected, strict=True):
            _assert_same(one, other)
        return
    assert (actual.dtype, actual.shape, actual.stride()) == (expected.dtype, expected.shape, expected.stride())
    actual = actual.cpu()
    if expected.is_floating_point():
        torch.testing.assert_close(actual.isnan(), expected.isnan())
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
        actual, expected = (torch.where(t.isnan(), 0, t.contiguous().view(bits)) for t in (actual, expected))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


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
    calls = cases.calls(case, _dtype(case))
    if not INTERPRETED:
        return calls
    small, wide = case.geometry.volume <= 6, case.geometry.volume > 9
    kept = {
        "rank_draw": ("max", "ensemble", "max-dropout") if small else ("max", "ordinal") if wide else ("ensemble",),
        "rank_mean": ("max", "ensemble", "ordinal") if small else ("ensemble",),
        "rank_mean_backward": ("max", "ordinal") if small and case.layout == "contiguous" else (),
        "drawn_scatter": ("max",),
        "drawn_gather": ("max",),
    }
    return [call for call in calls if call[1] in kept.get(call[0], (call[1],))]


@needs_device
@pytest.mark.parametrize("case", INTERPRETED_CASES if INTERPRETED else COMPILED_CASES, ids=str)
def test_same_bits(case: Case) -> None:
    for name, what, arguments in _selected(case):
        if name == "rank_mean_jvp":  # The reference serves it.
            continue
        expected = getattr(reference, name)(*arguments)
        try:
            _assert_same(_run(name, arguments), expected)
        except AssertionError as error:
            raise AssertionError(f"{name}, {what}, {_dtype(case)}: {error}") from error


@needs_device
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype, layout: str) -> None:
    case = Case("dtypes", (2, 3, 6, 8), 3, 2, 1, layout=layout, values="special")
    seed, counts = torch.tensor(9), case.counts
    thresholds = list(empool.EnsembleMax(0.3).threshold_table(counts))
    weights = list(empool.EnsembleMax(0.3).weight_table(counts))
    input, grad_output = case.input(dtype), case.grad_output(dtype)
    drawn = reference.rank_draw(input, seed, counts, thresholds, *case.geometry)[1]
    for name, arguments in (
        ("rank_draw", (input, seed, counts, thresholds, *case.geometry)),
        ("value_draw", (input, seed, *case.geometry)),
        ("drawn_scatter", (grad_output, drawn, list(case.shape[2:]), *case.geometry[:4])),
        ("rank_mean", (input, counts, weights, *case.geometry)),
    ):
        _assert_same(_run(name, arguments), getattr(reference, name)(*arguments))


@needs_device
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_several_seeds(layout: str) -> None:
    case = Case("seeds", (6, 3, 4, 9), 2, 2, layout=layout)
    for seeds in (cases.SEEDS[:2], cases.SEEDS[1:4], cases.SEEDS[1:]):
        signed = [seed - 2**64 if seed >= 2**63 else seed for seed in seeds]
        arguments = (case.input(torch.float32), torch.tensor(signed), [4], [3 << 30], *case.geometry)
        _assert_same(_run("rank_draw", arguments), reference.rank_draw(*arguments))


@needs_device
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_wide_indices(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from empool._triton import _plan

    monkeypatch.setattr(_plan, "INDEX_LIMIT", 1)
    _plan.output_plan.cache_clear()
    _plan.input_plan.cache_clear()
    case = Case("wide indices", (2, 3, 2, 4, 10), (1, 2, 2), (1, 2, 2), layout=layout)
    try:
        for name, what, arguments in cases.calls(case, torch.float32):
            if what in ("", "ensemble", "max") and name not in ("rank_mean_jvp", "rank_mean_backward"):
                _assert_same(_run(name, arguments), getattr(reference, name)(*arguments))
    finally:
        _plan.output_plan.cache_clear()
        _plan.input_plan.cache_clear()


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


# Compiling for a GPU without one.


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Make launches compile for an H100 and start nothing; collect what was compiled."""
    import triton
    from triton.backends.compiler import GPUTarget

    from empool._triton import _operators, _tables

    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda _: 0,
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    monkeypatch.setattr(_tables, "table", lambda values, dtype, device: torch.empty(len(values), dtype=dtype))
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
    thresholds = list(empool.EnsembleMax(0.1).threshold_table(case.counts))
    output, drawn = _triton.rank_draw(case.input(dtype), torch.tensor(0), case.counts, thresholds, *case.geometry)
    _triton.drawn_scatter(output, drawn, list(case.shape[2:]), *case.geometry[:4])
    draw, scatter = (_accesses(kernel.asm["ptx"]) for kernel in compiled)
    assert "ld.v4.b32" in draw
    assert any(access.startswith("st.v") for access in draw)
    assert "st.v4.b32" in scatter
    assert not any(access in ("ld.b8", "st.b8") for access in (*draw, *scatter)) or (window[0], layout) == (
        3,
        "contiguous",
    )


@needs_compiler
@pytest.mark.parametrize(
    "case", [NAMED["3x3/2 padded"], NAMED["3x3/2 padded, channels last"], *INTERPRETED_CASES[-3:]], ids=str
)
def test_compiles(case: Case, compiled: list[Any]) -> None:
    from empool import _triton

    dtype = torch.float16 if case.layout == "contiguous" else torch.float64
    wanted = {"max-dropout", ""} if case.geometry.volume > 9 else {"max", "ensemble", "ordinal", ""}
    calls = [call for call in cases.calls(case, dtype) if call[1] in wanted and call[0] != "rank_mean_jvp"]
    for name, _, arguments in calls:
        getattr(_triton, name)(*arguments)
    assert len(compiled) == len(calls)
