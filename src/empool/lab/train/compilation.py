"""Training steps through `torch.compile`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from empool.lab.errors import LabError, first_line
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


@contextmanager
def complete(model: str) -> Iterator[None]:
    """Forget what was compiled before, and refuse a network of which a part would silently be left uncompiled.

    PyTorch keeps a few compiled versions of a function and runs it as it is when it would need more; every network of
    a kind, whatever its pooling, is another version of the same function.

    Raises:
        LabError: if the network cannot be compiled, or not all of it.
    """
    from torch._dynamo import config  # Importing it takes a second.

    torch.compiler.reset()
    with config.patch(fail_on_recompile_limit_hit=True):
        try:
            yield
        except Exception as error:
            if refused := refusal(error, model):
                raise refused from error
            raise


def refusal(error: Exception, model: str) -> LabError | None:
    """Say that a network cannot be compiled, if that is what an error says."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    if isinstance(error, FailOnRecompileLimitHit):
        return LabError(
            f"--compile: {model} needs more versions of its code than PyTorch keeps (torch._dynamo.config."
            "recompile_limit), and the rest would be left uncompiled. Leave --compile out"
        )
    if not isinstance(error, TorchDynamoException):
        return None
    return LabError(
        f"--compile: PyTorch cannot compile {model} here ({first_line(error)}); on the CPU it needs a C++ compiler, on "
        "a GPU Triton. Leave --compile out, or install what is missing"
    )
