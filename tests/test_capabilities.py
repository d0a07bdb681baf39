"""The table of docs/support.md: every cell is done for real; what the page does not claim must fail."""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import empool
from cases import LAYERS, METHODS
from tolerances import MEANS, assert_same_bits

OWN: dict[str, list[dict[str, Any]]] = {
    **{LAYERS[stem]: [arguments] for stem, arguments in METHODS.items()},
    "RankPool": [
        {"distribution": distribution}
        for distribution in (
            empool.Ordinal((0.5, 0.3, 0.2)),
            empool.TopMean(3),
            empool.Geometric(0.6),
            empool.Mixed(0.5),
        )
    ],
    "LearnedRankPool": [{"sample": True, "start": empool.Mixed(0.5)}],
}
"""Every layer, without the number of dimensions, and the arguments of its own that it is tried with."""


class Pools(nn.Module):
    """One kind of layer, once with each of its arguments."""

    def __init__(self, name: str, dims: int, *geometry: int, **options: Any) -> None:
        super().__init__()
        kind = getattr(empool, f"{name}{dims}d")
        self.pools = nn.ModuleList(kind(*geometry, **own, **options) for own in OWN[name.removeprefix("Adaptive")])

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([pool(input) for pool in self.pools], 1)


def image(dims: int = 2) -> Tensor:
    return torch.rand(2, 3, *[9, 10, 8][:dims], requires_grad=True)


def both_phases(pools: Pools, input: Tensor, twin: nn.Module) -> None:
    """Train and infer: sizes as the twin gives, samples of the input that differ by call, one expectation."""
    shape = twin(input).shape
    for training in (True, False):
        output, again = pools.train(training)(input), pools(input)
        assert output.shape == (shape[0], shape[1] * len(pools.pools), *shape[2:])
        assert torch.equal(output, again) is not training
        (gradient,) = torch.autograd.grad(output.sum(), input)
        assert gradient.any()
        if training:
            assert torch.isin(output, torch.cat([input.flatten(), torch.zeros(1)])).all()


def windows(name: str, dims: int) -> None:
    both_phases(Pools(name, dims, 3, 2, 1), image(dims), getattr(nn, f"MaxPool{dims}d")(3, 2, 1))


def adaptive(name: str) -> None:
    for dims in (1, 2, 3):
        both_phases(Pools(f"Adaptive{name}", dims, 4), image(dims), getattr(nn, f"AdaptiveMaxPool{dims}d")(4))


def tied(name: str) -> None:
    """Of windows that are all alike, outputs that share a sample are equal, and others are not."""
    alike = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(4, 4).expand(8, 3, 8, 8).contiguous()
    for what in ("channel", "position", "image"):
        for pool in Pools(name, 2, 2, tied=what).pools:
            flat = pool(alike).flatten(2)
            assert (flat == flat[:, :1]).all() == (what in ("channel", "image"))
            assert (flat == flat[:, :, :1]).all() == (what in ("position", "image"))
            assert not (flat == flat[:1]).all()


class Operators(TorchDispatchMode):
    """Keeps the names of empool's operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "empool":
            self.called.add(func._opname)
        return func(*args, **(kwargs or {}))


def kernel(name: str, device: str, served_by: str) -> None:
    """Every operator that a training step and an inference with its backward call has a kernel."""
    pools, operators = Pools(name, 2, 2), Operators()
    with operators:
        for training in (True, False):
            pools.train(training)(image()).sum().backward()
    assert len(operators.called) >= 4
    if os.environ.get("EMPOOL_EXTENSION") == "0" and device == "cpu":
        pytest.skip("the extension is switched off")
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    assert {empool.kernels()[operator][device].split(" ")[0] for operator in operators.called} == {served_by}


def compiled(name: str) -> None:
    torch._dynamo.reset()
    pools, input = Pools(name, 2, 3, 2, 1, seed=3), image()
    call = torch.compile(pools, fullgraph=True, backend="aot_eager")
    for training in (True, False):
        results = [each(input) for each in (call, pools.train(training))]
        gradients = [torch.autograd.grad(result.square().sum(), input)[0] for result in results]
        torch.testing.assert_close(*results, **MEANS[torch.float32])
        torch.testing.assert_close(*gradients, **MEANS[torch.float32])
    torch._dynamo.reset()


def exported(name: str) -> None:
    pools, input = Pools(name, 2, 3, 2, 1), image().detach()
    program = torch.export.export(pools.eval(), (input,)).module()
    assert_same_bits(program(input), pools(input))
    sampling = torch.export.export(pools.train(), (input,)).module()
    assert not torch.equal(sampling(input), sampling(input))


def session(pools: Pools, input: Tensor) -> tuple[onnxruntime.InferenceSession, set[str]]:
    """Return what runs the exported network, and its operators, which are ONNX's own."""
    proto = torch.onnx.export(pools, (input,), dynamo=True, verbose=False).model_proto
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    assert not [node.domain for node in nodes if "empool" in node.domain]
    made = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return made, {node.op_type for node in nodes}


def onnx_inference(name: str) -> None:
    pools, input = Pools(name, 2, 3, 2, 1).eval(), image().detach()
    (output,) = session(pools, input)[0].run(None, {"input": input.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), pools(input).detach(), **MEANS[torch.float32])


def onnx_sampling(name: str) -> None:
    pools, input = Pools(name, 2, 3, 2, 1).train(), image().detach()
    made, operators = session(pools, input)
    assert any(operator.startswith("RandomUniform") for operator in operators)
    first, second = (torch.from_numpy(made.run(None, {"input": input.numpy()})[0]) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.isin(first, torch.cat([input.flatten(), torch.zeros(1)])).all()


TRIED: dict[str, Callable[[str], None]] = {
    "1d": lambda name: windows(name, 1),
    "2d": lambda name: windows(name, 2),
    "3d": lambda name: windows(name, 3),
    "adaptive": adaptive,
    "tied": tied,
    "CPU kernel": lambda name: kernel(name, "cpu", "C++"),
    "CUDA kernel": lambda name: kernel(name, "cuda", "Triton"),
    "compile": compiled,
    "export": exported,
    "ONNX, inference": onnx_inference,
    "ONNX, sampling": onnx_sampling,
}
"""What is done for a cell of each column."""

PAGE = (Path(__file__).parents[1] / "docs/support.md").read_text(encoding="utf-8")
HEAD, _, *ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", PAGE, re.M)]
CELLS = [
    pytest.param(row[0].strip("`"), column, cell == "✓", id=f"{row[0].strip('`')}, {column}")
    for row in ROWS
    for column, cell in zip(HEAD[1:], row[1:], strict=True)
]


def test_the_table_has_every_layer_and_column() -> None:
    assert [row[0].strip("`") for row in ROWS] == list(OWN)
    layers = {name[:-2] for name in empool.__all__ if name.endswith("2d")}
    assert {name for name in layers if not name.startswith("Adaptive")} == set(OWN)
    assert HEAD[1:] == list(TRIED)
    assert {cell for row in ROWS for cell in row[1:]} <= {"✓", "-"}


@pytest.mark.parametrize(("name", "column", "claimed"), CELLS)
def test_cell(name: str, column: str, claimed: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's compiler and exporters warn of their own workings.
        if claimed:
            TRIED[column](name)
        else:
            with pytest.raises(AttributeError):
                TRIED[column](name)
