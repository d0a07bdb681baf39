"""The residual network with stochastic depth (Huang et al. 2016): each mini-batch trains some of the blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from empool.distributions import Pooling
from empool.models._residual import pass_over
from empool.models.recipe import Recipe
from empool.models.resnet import BasicBlock, ResNet

RECIPE = Recipe(
    epochs=500, batch_size=128, learning_rate=0.1, schedule="step", milestones=(0.5, 0.75), weight_decay=1e-4
)

ASSUMPTIONS = (
    "The convolutions have no bias, since batch normalisation follows; those of the authors' code have one.",
    "The parameters of a block that a mini-batch skips have a gradient of 0, so momentum and weight decay still apply "
    "to them, as in the authors' code.",
    "1202 layers have the recipe of 110.",
    "With a pooling, the stride-2 convolutions become tandems of pooling and the same convolution with stride 1. The "
    "shortcuts are averaged as published.",
)


def average(input: Tensor, out_channels: int, stride: int) -> Tensor:
    """Average windows as large as the stride and append channels of zeros."""
    # With ceil_mode the sizes are those of the convolutions for images of odd size too.
    pooled = F.avg_pool2d(input, stride, ceil_mode=True, count_include_pad=False)
    return F.pad(pooled, (0, 0, 0, 0, 0, out_channels - input.size(1)))


class GatedBlock(BasicBlock):
    """A block that may be skipped in training; in eval mode its residual is scaled by its survival probability.

    Its gate is sampled for every mini-batch from PyTorch's default CPU generator. A skipped block costs almost nothing.
    """

    survival = 1.0

    def forward(self, input: Tensor) -> Tensor:
        """Compute ``(N, out_channels, H / stride, W / stride)``."""
        line = self.line(input)
        if not self.training:
            return torch.relu(line + self.survival * self.residual(input))
        if torch.rand((), device="cpu") >= self.survival:
            return torch.relu(pass_over(line, self.residual.parameters()))
        return torch.relu(line + self.residual(input))

    def extra_repr(self) -> str:
        return f"survival={self.survival:.4f}"


class StochasticDepth(ResNet):
    """A residual network of 6n+2 layers, 110 or 1202 in the paper, whose block l of L survives with 1 - (l/L)(1 - 0.5).

    In training one gate per block and mini-batch is sampled. In eval mode every residual is multiplied by its block's
    survival probability.

    Args:
        num_classes: number of outputs.
        pooling: turns the two convolutions with stride 2 into tandems, see `empool.tandem.to_tandem`; None gives the
            network as published.
        in_channels: channels of the images.
        depth: number of layers, 6n+2.
        checkpointing: keep only the blocks' inputs for the backward pass and recompute the rest: less memory, one more
            forward pass.
        last_survival: probability that the last block survives.

    Raises:
        ValueError: for a number out of range.

    Source: Huang et al., arXiv 1603.09382, section 3.
    """

    def __init__(
        self,
        num_classes: int,
        pooling: Pooling | None = None,
        in_channels: int = 3,
        depth: int = 110,
        checkpointing: bool = False,
        last_survival: float = 0.5,
    ) -> None:
        if not 0 < last_survival <= 1:
            raise ValueError(f"StochasticDepth: expected last_survival in (0, 1], got {last_survival}")
        super().__init__(num_classes, pooling, in_channels, depth, checkpointing)
        for place, block in enumerate(self.blocks, 1):
            assert isinstance(block, GatedBlock)
            block.survival = 1 - place / len(self.blocks) * (1 - last_survival)

    def block(self, in_channels: int, out_channels: int, stride: int, pooling: Pooling | None) -> nn.Module:
        """Make one block."""
        return GatedBlock(in_channels, out_channels, stride, pooling, shortcut=average)
