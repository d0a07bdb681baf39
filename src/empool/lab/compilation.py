"""Training steps through `torch.compile`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from empool.lab.checkpoint import first_line
from empool.lab.errors import LabError
from empool.models import StochasticDepth


def compile_(network: nn.Module, device: str) -> None:
    """Have calls of a network compiled, in place: names and places of its weights stay.

    A network of stochastic depth is compiled block by block, since every batch passes over other blocks; without CUDA
    graphs, of which one would be recorded for each choice of blocks.

    Args:
        network: is compiled when it is called first, which takes from seconds to minutes.
        device: "cpu" or "cuda".
    """
    if not isinstance(network, StochasticDepth):
        network.compile(mode="reduce-overhead" if device == "cuda" else None, dynamic=False)
        return
    for block in network.blocks:
        residual = block.get_submodule("residual")
        # Its `compile` would leave the forward of `nn.Sequential`, which is PyTorch's own, as it is.
        residual.forward = torch.compile(residual.forward, dynamic=False)


def stance(compiled: bool) -> AbstractContextManager[object]:
    """Give the context in which calls are compiled, or computed as if they were not."""
    return nullcontext() if compiled else torch.compiler.set_stance("force_eager")


def refusal(error: RuntimeError, model: str) -> LabError | None:
    """Say that a network cannot be compiled, if that is what an error says."""
    from torch._dynamo.exc import TorchDynamoException  # Importing it takes a second.

    if not isinstance(error, TorchDynamoException):
        return None
    return LabError(
        f"--compile: PyTorch cannot compile {model} here ({first_line(error)}); on the CPU it needs a C++ compiler, on "
        "a GPU Triton. Leave --compile out, or install what is missing"
    )
