"""ONNX export of the testing phase: standard operators only, and the eager results in ONNX Runtime."""

from __future__ import annotations

import warnings
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import empool
from cases import METHODS, layer
from tolerances import MEANS


class _Several(nn.Module):
    """Pool one input in several ways."""

    def __init__(self, pools: list[nn.Module]) -> None:
        super().__init__()
        self.pools = nn.ModuleList(pools)

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        return tuple(pool(input) for pool in self.pools)


def _export(model: nn.Module, input: Tensor, dynamic: dict[int, Any]) -> tuple[onnxruntime.InferenceSession, set[str]]:
    """Return a session of the exported model, and the standard operators in it."""
    with warnings.catch_warnings():
        # The exporter warns of its own workings, differently in each version.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(), (input,), dynamo=True, dynamic_shapes=({**dynamic},) if dynamic else None, verbose=False
        )
    proto = program.model_proto
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    domains = {node.domain for node in nodes}
    assert domains <= {"", "ai.onnx", "pkg.onnxscript.torch_lib", "pkg.onnxscript.torch_lib.common"}, domains
    operators = {node.op_type for node in nodes if node.domain in ("", "ai.onnx")}
    assert operators
    assert all(function.domain.startswith("pkg.onnxscript") for function in proto.functions)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]), operators


def _check(session: onnxruntime.InferenceSession, model: nn.Module, input: Tensor) -> None:
    results = session.run(None, {session.get_inputs()[0].name: input.numpy()})
    expected = model(input)
    expected = (expected,) if isinstance(expected, Tensor) else expected
    assert len(results) == len(expected)
    for result, tensor in zip(results, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(result), tensor, **MEANS[torch.float32])


ARGUMENTS: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)},
]


def test_two_dimensions_with_a_dynamic_batch() -> None:
    """Every method with two of the four geometries, by turns."""
    model = _Several(
        [
            layer(stem, 2)(**ARGUMENTS[(turn + shift) % 4], **METHODS[stem])
            for turn, stem in enumerate(METHODS)
            for shift in (0, 1)
        ]
    )
    session, _ = _export(model, torch.randn(2, 3, 9, 10), {0: torch.export.Dim("batch", min=1, max=64)})
    for batch in (1, 2, 7):
        _check(session, model, torch.randn(batch, 3, 9, 10))


@pytest.mark.parametrize("dims", [1, 3])
def test_one_and_three_dimensions(dims: int) -> None:
    model = _Several(
        [layer(stem, dims)(4 if dims == 1 else 2, 2, 1, ceil_mode=True, **METHODS[stem]) for stem in METHODS]
    )
    input = torch.randn(2, 3, *[8] * dims)
    session, _ = _export(model, input, {})
    _check(session, model, input)


def test_the_maximum_becomes_max_pooling() -> None:
    model, input = empool.EnsembleMaxPool2d(3, 2, 1, p=0.0), torch.randn(2, 3, 9, 9)
    session, operators = _export(model, input, {})
    assert "MaxPool" in operators
    assert "TopK" not in operators
    _check(session, model, input)


def test_an_exported_program_exports_to_onnx() -> None:
    model, input = empool.EnsembleMaxPool2d(2, p=0.25).eval(), torch.randn(2, 3, 8, 8)
    program = torch.export.export(model, (input,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proto = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    _check(session, model, input)
