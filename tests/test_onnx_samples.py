"""ONNX export of the sampling phase: standard operators alone, and ONNX Runtime draws as the distributions say."""

from __future__ import annotations

import warnings
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import empool
from cases import DISTRIBUTIONS
from tolerances import assert_frequencies


def _session(model: nn.Module, input: Tensor) -> onnxruntime.InferenceSession:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns of its own workings, differently in each version.
        batch = {0: torch.export.Dim("batch", min=1, max=100_000)}
        program = torch.onnx.export(model, (input,), dynamo=True, dynamic_shapes=(batch,), verbose=False)
    proto = program.model_proto
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    domains = {node.domain for node in nodes}
    assert domains <= {"", "ai.onnx", "pkg.onnxscript.torch_lib", "pkg.onnxscript.torch_lib.common"}, domains
    assert any(node.op_type.startswith("RandomUniform") for node in nodes)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


class _Pools(nn.Module):
    def __init__(self, pools: list[nn.Module]) -> None:
        super().__init__()
        self.pools = nn.ModuleList(pools)

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        return tuple(pool(input) for pool in self.pools)


def _run(session: onnxruntime.InferenceSession, input: Tensor) -> list[Tensor]:
    return [torch.from_numpy(part) for part in session.run(None, {session.get_inputs()[0].name: input.numpy()})]


NAMES = [name for name in DISTRIBUTIONS if name not in ("max", "ensemble, always", "max-dropout, always")]


def test_ranks_are_as_frequent_as_the_distributions_say() -> None:
    """Windows of 4 in a row; the value is the rank, and 0 is nothing drawn."""
    model = _Pools([empool.RankPool1d(4, distribution=DISTRIBUTIONS[name]) for name in NAMES])
    ranks = torch.tensor([3.0, 1.0, 4.0, 2.0]).repeat(200)
    session = _session(model, ranks.expand(2, 5, 800))
    outputs = _run(session, ranks.expand(20, 5, 800).contiguous())
    again = _run(session, ranks.expand(20, 5, 800).contiguous())
    for name, output, other in zip(NAMES, outputs, again, strict=True):
        distribution = DISTRIBUTIONS[name]
        assert output.shape == (20, 5, 200)
        if name != "ordinal, third":
            assert not torch.equal(output, other)
        observed = torch.bincount(output.flatten().long(), minlength=5).flip(0)
        probabilities = list(distribution.probabilities(4))
        probabilities += [0.0] * (4 - len(probabilities))
        assert_frequencies(observed, [*probabilities, distribution.zero_probability(4)])


@pytest.mark.parametrize("beta", [None, 0.7], ids=["stochastic", "soft"])
def test_values_are_as_frequent_as_they_should_be(beta: float | None) -> None:
    window = torch.tensor([1.0, 4.0, 2.0, 0.0])
    pool = empool.StochasticPool1d(4) if beta is None else empool.SoftPool1d(4, beta=beta)
    session = _session(pool, window.repeat(100).expand(2, 5, 400))
    (output,) = _run(session, window.repeat(100).expand(40, 5, 400).contiguous())
    weights = window if beta is None else (beta * window).exp()
    observed = torch.bincount(output.flatten().long(), minlength=5)[[1, 4, 2, 0]]
    assert_frequencies(observed, (weights / weights.sum()).tolist())


@pytest.mark.parametrize("tied", ["channel", "position", "image"])
def test_tied_outputs_share_their_draw(tied: Any) -> None:
    pool = empool.EnsembleMaxPool2d(2, p=0.5, tied=tied)
    input = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat(4, 4).expand(8, 3, 8, 8).contiguous()
    (output,) = _run(_session(pool, input), input)
    flat = output.flatten(2)
    assert (flat == flat[:, :1]).all() == (tied in ("channel", "image"))
    assert (flat == flat[:, :, :1]).all() == (tied in ("position", "image"))
    assert not (flat == flat[:1]).all()


def test_members_of_a_network() -> None:
    """Batch normalisation as in testing, pools as in training: what `monte_carlo` runs, in ONNX Runtime."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), empool.EnsembleMaxPool2d(2, p=0.5), nn.Flatten())
    net.eval()[2].train()
    input = torch.randn(2, 3, 8, 8)
    session = _session(net, input)
    members = torch.stack([_run(session, input)[0] for _ in range(50)])
    pools = torch.stack([net(input) for _ in range(50)])
    assert members.std(0).max() > 0
    torch.testing.assert_close(members.mean(), pools.detach().mean(), rtol=0.1, atol=0.05)
