"""What torch.compile sees of the operators on a GPU: traced with fake CUDA tensors, on any machine."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch import config
from torch._functorch.aot_autograd import aot_function, make_boxed_func
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses.fake_tensor import FakeTensorMode

import cases
import empool
from cases import Case

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from empool import _traced

pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="what is interpreted is not traced"),
    pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles there alone"),
    # Raised by PyTorch's own compiler.
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.?isinstance.*LeafSpec:FutureWarning"),
]

NAMED = {case.name: case for case in cases.CASES}
OPTIONS = {"num_warps", "num_stages", "enable_fp_fusion", "maxnreg"}
WRITTEN = {
    "_rank_draw_kernel": {"output", "drawn"},
    "_rank_draw_line_kernel": {"output", "drawn"},
    "_value_draw_kernel": {"output", "drawn"},
    "_value_draw_line_kernel": {"output", "drawn"},
    "_drawn_scatter_kernel": {"grad_input"},
    "_drawn_scatter_line_kernel": {"grad_input"},
    "_drawn_scatter_any_kernel": {"grad_input"},
    "_drawn_gather_kernel": {"output"},
}
"""The kernels that a graph shows, and what they write."""


@pytest.fixture(autouse=True)
def _target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Triton generate code for an H100 where there is no GPU; nothing is started."""
    if torch.cuda.is_available():
        return
    import triton
    from triton.backends.compiler import GPUTarget

    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda _: 0,
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)


def test_inductor_can_write_the_constants() -> None:
    """It puts a kernel's source, with the constants that it uses, between three quotes in another source."""
    import triton.language as tl

    from empool import _triton

    modules = [
        importlib.import_module(f"empool._triton.{each.name}") for each in pkgutil.iter_modules(_triton.__path__)
    ]
    values = [value for module in modules for value in vars(module).values()]
    constants = [repr(value.value) for value in values if isinstance(value, tl.constexpr)]
    assert any("setp.ge.u32" in constant for constant in constants)
    assert not any("\\" in constant or "'''" in constant for constant in constants)


def _trace(function: Callable[..., Any], *tensors: Tensor, device: str = "cuda") -> list[torch.fx.GraphModule]:
    """Trace a function as torch.compile does, and its backward if an input asks for one, with tensors without data."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph)

    with FakeTensorMode():
        moved = [
            torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device, requires_grad=tensor.requires_grad
            )
            for tensor in tensors
        ]
        with torch.set_grad_enabled(any(tensor.requires_grad for tensor in tensors)):
            result = aot_function(function, keep, keep)(*moved)
            if isinstance(result, Tensor) and result.requires_grad:
                result.backward()
    return graphs


def _targets(graphs: list[torch.fx.GraphModule]) -> set[str]:
    """Name the operators and the kernels in graphs."""
    operators = {str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "call_function"}
    ours = {operator for operator in operators if operator.startswith("empool.")}
    return ours | {launch["kernel"] for launch in _launches(graphs)}


def _launches(graphs: list[torch.fx.GraphModule]) -> list[dict[str, Any]]:
    """List what every kernel in graphs is started with."""
    found = []
    for node in [node for graph in graphs for node in graph.graph.nodes]:
        if node.target is torch.ops.higher_order.triton_kernel_wrapper_functional:
            tuner = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
            (options,) = tuner.configs
            constants = kernel_side_table.get_constant_args(node.kwargs["constant_args_idx"])
            arguments = {**node.kwargs["kwargs"], **constants}
            found.append(_launch(tuner.fn, node.kwargs["grid"][0][0], options.num_warps, arguments))
            assert set(node.kwargs["tensors_to_clone"]) == WRITTEN[tuner.fn.__name__]
    return found


def _launch(kernel: Any, programs: int, warps: int, arguments: dict[str, Any]) -> dict[str, Any]:
    described = {name: _described(value) for name, value in arguments.items() if name not in OPTIONS}
    return {"kernel": kernel.__name__, "programs": programs, "warps": warps, **described}


def _described(value: Any) -> Any:
    value = value.meta["val"] if isinstance(value, torch.fx.Node) else value
    return (value.dtype, value.shape, value.stride()) if isinstance(value, Tensor) else value


def _calls(case: Case, dtype: torch.dtype) -> list[tuple[str, tuple[Any, ...]]]:
    """List the calls on a case that a graph shows as kernels."""
    return [
        (name, arguments)
        for name, what, arguments in cases.calls(case, dtype, ("max", "ensemble"))
        if name in _traced.VISIBLE
        and what in ("", "max", "ensemble", "ensemble, tied")
        and not (name == "value_draw" and arguments[2] is not None)
    ]


@pytest.mark.parametrize(
    "case",
    [
        NAMED["1d 3/2 padded"],
        NAMED["2x2/2"],
        NAMED["3x3/2 padded"],
        NAMED["3d 2x2x2/2"],
        NAMED["2x2/2, channels last"],
        NAMED["no images"],
        Case("stride too large to unroll", (1, 2, 11, 12), 5, 5, 1),
    ],
    ids=str,
)
def test_the_graph_starts_what_is_started_without_one(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from empool import _triton
    from empool._triton import _operators

    expected: list[dict[str, Any]] = []

    def launch(kernel: Any, plan: Any, *tensors: Tensor, **arguments: Any) -> None:
        by_name = dict(zip(kernel.arg_names, tensors, strict=False))
        if plan.programs:
            everything = by_name | plan.arguments | arguments
            expected.append(_launch(kernel, plan.programs, plan.arguments["num_warps"], everything))

    for name, arguments in _calls(case, torch.float16):
        with monkeypatch.context() as patch:
            patch.setattr(_operators, "launch", launch)
            getattr(_triton, name)(*arguments)
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        operator = functools.partial(_applied, getattr(torch.ops.empool, name), arguments[len(tensors) :])
        graphs = _trace(operator, *tensors)
        assert _launches(graphs) == expected, name
        assert not any("empool" in target for target in _targets(graphs))
        expected.clear()


def _applied(operator: Any, rest: tuple[Any, ...], *tensors: Tensor) -> Any:
    return operator(*tensors, *rest)


WINDOWS = ([2, 2], [2, 2], [0, 0], [1, 1], [], False)


def test_what_stays_an_operator() -> None:
    def draw(input: Tensor, seed: Tensor, table: Tensor) -> Any:
        return torch.ops.empool.rank_draw(input, seed, table, [4], *WINDOWS, 0)

    def soft(input: Tensor, seed: Tensor, beta: Tensor) -> Any:
        return torch.ops.empool.value_draw(input, seed, beta, *WINDOWS, 0)

    def mean(input: Tensor, weights: Tensor) -> Tensor:
        return torch.ops.empool.rank_mean(input, weights, [4], *WINDOWS)

    for columns in (0, 1, 4):
        tensors = (*_tensors(), torch.zeros(1, 1, columns, dtype=torch.int64))
        assert _targets(_trace(draw, *tensors)) == {"_rank_draw_kernel"}
        assert _targets(_trace(draw, *tensors, device="cpu")) == {"empool.rank_draw.default"}
    assert _targets(_trace(soft, *_tensors(), torch.ones(1))) == {"empool.value_draw.default"}
    assert _targets(_trace(mean, _tensors()[0], torch.ones(1, 1, 2))) == {"empool.rank_mean.default"}
    with config.patch(decompose_custom_triton_ops=False):
        assert _targets(_trace(draw, *tensors)) == {"empool.rank_draw.default"}


def test_a_kernel_that_cannot_be_traced(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*args: Any) -> None:
        raise NotImplementedError("a kernel of tomorrow")

    monkeypatch.setattr(torch.library, "wrap_triton", refuse)
    graphs = _trace(lambda input, seed: empool.functional.stochastic_pool2d(input, 2, seed=seed), *_tensors())
    assert _targets(graphs) == {"empool.value_draw.default"}
    assert "empool::value_draw is compiled as an operator" in caplog.text


def _tensors() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 8, 8), torch.tensor(3)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_backward_is_seen_too(memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a GPU, PyTorch's engine has no stream for tensors that claim to be on one.
    monkeypatch.setattr(_traced, "DEVICE", "cpu")
    input = torch.randn(2, 3, 16, 16).to(memory_format=memory_format).requires_grad_()

    def step(input: Tensor) -> Tensor:
        first = empool.functional.ensemble_max_pool2d(input.relu(), 3, 2, 1)
        return empool.functional.stochastic_pool2d(first, 2).sum()

    forward, backward = _trace(step, input, device="cpu")
    assert [launch["kernel"] for launch in _launches([forward])] == ["_rank_draw_kernel", "_value_draw_kernel"]
    assert [launch["kernel"] for launch in _launches([backward])] == ["_drawn_scatter_kernel"] * 2
    assert _targets([forward, backward]) == {"_rank_draw_kernel", "_value_draw_kernel", "_drawn_scatter_kernel"}


def test_unknown_sizes_and_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_traced, "DEVICE", "cpu")
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph)

    layer, input = empool.EnsembleMaxPool2d(2), torch.randn(2, 3, 8, 8)
    torch._dynamo.reset()
    torch.compile(layer, dynamic=True, backend=aot_autograd(fw_compiler=keep))(input)
    torch._dynamo.reset()
    assert _targets(graphs) == {"empool.rank_draw.default"}
    assert _targets([torch.export.export(layer, (input,)).run_decompositions()]) == {"empool.rank_draw.default"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiles without a GPU")
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_compiles_as_inductor_does(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor makes a constant of every argument that is 1, and lets products and sums be fused."""
    import triton

    from empool import _triton
    from empool._triton import _operators, _plan

    assembly: dict[str, str] = {}

    def compile(kernel: Any, plan: Any, *tensors: Tensor, **arguments: Any) -> None:
        options = {name: value for name, value in plan.arguments.items() if name not in _plan.UNTRACED}
        specialized = triton.jit(kernel.fn)
        assembly[kernel.__name__] = specialized.warmup(*tensors, grid=(1,), **options, **arguments).asm["ptx"]

    monkeypatch.setattr(_operators, "launch", compile)
    for case in (
        Case("ones", (1, 1, 2, 4), 2, 2, layout=layout),
        Case("ones, padded", (1, 1, 4, 4), 2, 2, 1, layout=layout),
        Case("ones, in lines", (1, 1, 8, 2), 2, 2, layout=layout),
        Case("ones, large", (1, 1, 6, 6), 6, 6, layout=layout),
    ):
        for name, arguments in _calls(case, torch.float32):
            if name != "rank_draw" or case.geometry.volume < 10:
                getattr(_triton, name)(*arguments)
    assert set(assembly) == set(WRITTEN)
    draws = ("_rank_draw_kernel", "_rank_draw_line_kernel")  # They add up powers of two, and no activations.
    assert not any("fma" in instructions for name, instructions in assembly.items() if name not in draws)


def test_the_cache_of_graphs_knows_the_kernels() -> None:
    from empool._triton import KERNELS

    for name in _traced.VISIBLE:
        assert tuple(torch._library.triton.get_triton_kernels_for_op(f"empool::{name}")) == KERNELS
