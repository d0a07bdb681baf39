"""What the residual networks share: convolutions, depths, checkpointed blocks, skipped blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from empool._private import BatchNorm
from empool.distributions import Pooling
from empool.tandem import to_tandem


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, pooling: Pooling | None = None
) -> nn.Module:
    """Make a convolution padded by half its kernel, without bias, He-normal by fan-in.

    With a stride and a pooling it is a tandem: pooling with that stride, then the convolution with stride 1.
    """
    made = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    return made if pooling is None or stride == 1 else to_tandem(made, pooling)


def blocks_per_stage(owner: str, depth: int, layers: int) -> int:
    """Return n for a depth of ``layers * n + 2``: three stages of n blocks, a first convolution, a classifier.

    Raises:
        ValueError: if the depth has no such n.
    """
    if depth < layers + 2 or (depth - 2) % layers:
        raise ValueError(
            f"{owner}: expected a depth of {layers}n+2, such as {layers + 2} or {2 * layers + 2}, got {depth}"
        )
    return (depth - 2) // layers


def require_positive(owner: str, **numbers: int) -> None:
    """Raise a ValueError for a number that is less than 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{owner}: expected {name} of at least 1, got {number}")


def run(block: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """Run a block; with `checkpointing` its inner activations are recomputed in the backward pass instead of kept.

    Outputs, gradients, samples and running statistics are the same either way.
    """
    if not (checkpointing and torch.is_grad_enabled()):
        return block(*inputs)

    runs = 0

    def once_counted(*inputs: Any) -> Any:
        nonlocal runs
        if torch.compiler.is_compiling():  # A compiled graph updates the statistics in its forward pass alone.
            return block(*inputs)
        runs += 1
        with _statistics_kept(block) if runs > 1 else nullcontext():
            return block(*inputs)

    return checkpoint(once_counted, *inputs, use_reentrant=False)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Keep batch normalisation from counting a recomputed batch again."""
    # The layers update copies: autograd checks that the recomputed tensors are like the first ones.
    counted = [(m, dict(m._buffers)) for m in block.modules() if isinstance(m, BatchNorm)]
    for module, buffers in counted:
        module._buffers = {name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()}
    try:
        yield
    finally:
        for module, buffers in counted:
            module._buffers = buffers


def pass_over(input: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the input, and give parameters of a skipped block a gradient of 0 instead of none.

    Momentum and weight decay then still apply to them, as in frameworks whose gradients start at 0, and distributed
    training finds a gradient for every parameter.
    """
    passed: Tensor = _PassOver.apply(input, *parameters)  # type: ignore[no-untyped-call]
    return passed


class _PassOver(torch.autograd.Function):
    @staticmethod
    def forward(input: Tensor, *parameters: Tensor) -> Tensor:
        return input.view_as(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return gradients[0], *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)
