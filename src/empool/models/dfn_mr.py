"""The merge-and-run network (Zhao et al. 2016), in which Zhang and Wu (2017) replace strides by pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from empool.distributions import Pooling
from empool.models._residual import blocks_per_stage, convolution, require_positive, run
from empool.models.recipe import Recipe


@dataclass(frozen=True)
class DFNMRRecipe(Recipe):
    """The published recipe, and the options that make variants of the network.

    Attributes:
        width: maps of the first stage: 16, or 64 for the wide network of 32 layers.
        pool_projections: whether the 1x1 convolutions with stride 2 become tandems like the 3x3 ones.
    """

    width: int = 16
    pool_projections: bool = True


RECIPE = DFNMRRecipe(
    epochs=400,
    batch_size=64,
    learning_rate=0.1,
    schedule="step",
    milestones=(0.5, 0.75, 0.875),
    weight_decay=1e-4,
)

ASSUMPTIONS = (
    "All eight stride-2 convolutions become tandems, including the four 1x1 projections: Zhang and Wu (2017) say every "
    "stride-2 convolution, but not whether this includes the projections.",
    "Pooling windows are 2x2 with stride 2 and no padding: each activation is pooled once, and every map keeps the "
    "size that the strided convolution gives it. Zhang and Wu (2017) name only the stride.",
    "A line's residual and its projection pool the same maps with independent samples.",
)


class MergeAndRun(nn.Module):
    """Two residual lines that meet: each adds its own residual to the mean of both shortcuts.

    Args:
        in_channels: channels of either input.
        out_channels: channels of either output.
        pooling: turns convolutions with stride 2 into tandems; None leaves them.
        pool_projections: whether this includes the 1x1 projections.
        is_last: whether this is the network's last block, whose one output adds both residuals.
    """

    def __init__(
        self, in_channels: int, out_channels: int, pooling: Pooling | None, pool_projections: bool, is_last: bool
    ) -> None:
        super().__init__()
        self.is_last = is_last
        stride = 1 if in_channels == out_channels else 2
        self.lines = nn.ModuleList(nn.Identity() for _ in range(2))
        if stride == 2:
            line_pooling = pooling if pool_projections else None
            self.lines = nn.ModuleList(
                nn.Sequential(convolution(in_channels, out_channels, 1, stride, line_pooling), _norm(out_channels))
                for _ in range(2)
            )
        self.residuals = nn.ModuleList(
            nn.Sequential(
                convolution(in_channels, out_channels, 3, stride, pooling),
                _norm(out_channels),
                nn.ReLU(),
                convolution(out_channels, out_channels, 3),
                _norm(out_channels),
            )
            for _ in range(2)
        )

    def forward(self, first: Tensor, second: Tensor) -> Any:
        """Compute both lines, each ``(N, C, H, W)``; the last block returns one tensor."""
        fused = (self.lines[0](first) + self.lines[1](second)) / 2
        one, two = self.residuals[0](first), self.residuals[1](second)
        if self.is_last:
            return torch.relu(fused + one + two)
        return torch.relu(fused + one), torch.relu(fused + two)


class DFNMR(nn.Module):
    """The deeply-fused network with merge-and-run mappings, of 6n+2 layers: 56 in the paper, or 32 wide ones.

    Args:
        num_classes: number of outputs.
        pooling: turns the convolutions with stride 2 into tandems, see `empool.tandem.to_tandem`; None gives the
            network as published.
        in_channels: channels of the images.
        depth: number of layers along one line, 6n+2.
        checkpointing: keep only the blocks' inputs for the backward pass and recompute the rest: less memory, one more
            forward pass.
        width: maps of the first stage; the next two have twice and four times as many.
        pool_projections: whether the 1x1 projections become tandems too; see `ASSUMPTIONS`.

    Raises:
        ValueError: for a number out of range.

    Source: Zhao et al., arXiv 1611.07718; with a pooling, Zhang and Wu, J. USTC 47(10), 2017.
    """

    def __init__(
        self,
        num_classes: int,
        pooling: Pooling | None = None,
        in_channels: int = 3,
        depth: int = 56,
        checkpointing: bool = False,
        width: int = RECIPE.width,
        pool_projections: bool = RECIPE.pool_projections,
    ) -> None:
        super().__init__()
        require_positive("DFNMR", num_classes=num_classes, in_channels=in_channels, width=width)
        count = blocks_per_stage("DFNMR", depth, layers=6)
        self.checkpointing = checkpointing
        self.stem = nn.Sequential(convolution(in_channels, width, 3), _norm(width), nn.ReLU())
        widths = [width << stage for stage in range(3) for _ in range(count)]
        self.blocks = nn.ModuleList(
            MergeAndRun(before, after, pooling, pool_projections, is_last=place == len(widths))
            for place, (before, after) in enumerate(zip([width, *widths], widths, strict=False), 1)
        )
        # PyTorch's initial weights of a linear layer are the published ones, uniform within 1 / sqrt(fan_in).
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the logits of images ``(N, C, H, W)``, ``(N, num_classes)``."""
        maps = self.stem(input)
        lines = (maps, maps)
        for block in self.blocks:
            lines = run(block, *lines, checkpointing=self.checkpointing)
        logits: Tensor = self.classifier(lines.mean((2, 3)))  # type: ignore[attr-defined]
        return logits


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=2e-5, momentum=0.1)
