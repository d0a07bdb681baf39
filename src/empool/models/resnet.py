"""The residual network for small images (He et al. 2015): blocks of two convolutions, ReLU after the addition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from empool.distributions import Pooling
from empool.models._residual import blocks_per_stage, convolution, require_positive, run
from empool.models.recipe import Recipe

WIDTHS = (16, 32, 64)


@dataclass(frozen=True)
class ResNetRecipe(Recipe):
    """A recipe whose first epochs have one low learning rate instead of a rising one.

    Attributes:
        warmup: epochs at `warmup_rate` (shortened to a fifth of the epochs).
        warmup_rate: learning rate of these epochs.
    """

    warmup_rate: float = 0.01

    def rate(self, epoch: float) -> float:
        """Give the learning rate after `epoch` epochs, a fraction of an epoch included."""
        return self.warmup_rate if epoch < min(self.warmup, self.epochs / 5) else super().rate(epoch)


# 64,000 iterations with drops after 32,000 and 48,000: of 128 images each, 164 epochs of 50,000 images.
RECIPE = ResNetRecipe(
    epochs=164, batch_size=128, learning_rate=0.1, schedule="step", milestones=(0.5, 0.75), weight_decay=1e-4
)
# 110 layers did not start at the full rate; 0.01 for about 400 iterations, 51,200 images.
DEEP_RECIPE = replace(RECIPE, warmup=1.024)
RECIPES = {110: DEEP_RECIPE, 1202: DEEP_RECIPE}

ASSUMPTIONS = (
    "The paper counts 64,000 iterations of 128 images; they are 164 epochs of 50,000 images here.",
    "The paper does not say which momentum; it is Nesterov's here, as in its authors' later public code.",
    "The network of 1202 layers starts like that of 110, at a learning rate of 0.01 for 400 iterations.",
    "At a stage change, a shortcut's missing channels are zeros appended to the others.",
    "With a pooling, the stride-2 convolutions become tandems of pooling and the same convolution with stride 1. The "
    "shortcuts have no convolution and still take every second pixel.",
)


def subsample(input: Tensor, out_channels: int, stride: int) -> Tensor:
    """Take every second pixel and append channels of zeros: the paper's option A."""
    return F.pad(input[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, out_channels - input.size(1)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: of the first convolution and the shortcut.
        pooling: turns a convolution with stride 2 into a tandem; None leaves it.
        shortcut: takes the input, the number of channels and the stride; called only where one of the two changes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        pooling: Pooling | None,
        shortcut: Callable[[Tensor, int, int], Tensor] = subsample,
    ) -> None:
        super().__init__()
        self.out_channels, self.stride = out_channels, stride
        self.changes = stride != 1 or in_channels != out_channels
        self.shortcut = shortcut
        self.residual = nn.Sequential(
            convolution(in_channels, out_channels, 3, stride, pooling),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            convolution(out_channels, out_channels, 3),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Compute ``(N, out_channels, H / stride, W / stride)``."""
        return torch.relu(self.line(input) + self.residual(input))

    def line(self, input: Tensor) -> Tensor:
        """Compute the shortcut."""
        return self.shortcut(input, self.out_channels, self.stride) if self.changes else input


class ResNet(nn.Module):
    """A residual network of 6n+2 layers: 20, 32, 44, 56, 110 and 1202 in the paper.

    Args:
        num_classes: number of outputs.
        pooling: turns the two convolutions with stride 2 into tandems, see `empool.tandem.to_tandem`; None gives the
            network as published.
        in_channels: channels of the images.
        depth: number of layers, 6n+2.
        checkpointing: keep only the blocks' inputs for the backward pass and recompute the rest: less memory, one more
            forward pass.

    Raises:
        ValueError: for a number out of range.

    Source: He et al., arXiv 1512.03385, section 4.2.
    """

    def __init__(
        self,
        num_classes: int,
        pooling: Pooling | None = None,
        in_channels: int = 3,
        depth: int = 20,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        require_positive(owner, num_classes=num_classes, in_channels=in_channels)
        count = blocks_per_stage(owner, depth, layers=6)
        self.checkpointing = checkpointing
        self.stem = nn.Sequential(convolution(in_channels, WIDTHS[0], 3), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU())
        self.blocks = nn.ModuleList()
        channels = WIDTHS[0]
        for width in WIDTHS:
            for _ in range(count):
                self.blocks.append(self.block(channels, width, 1 if channels == width else 2, pooling))
                channels = width
        self.classifier = nn.Linear(channels, num_classes)
        nn.init.zeros_(self.classifier.bias)

    def block(self, in_channels: int, out_channels: int, stride: int, pooling: Pooling | None) -> nn.Module:
        """Make one block."""
        return BasicBlock(in_channels, out_channels, stride, pooling)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the logits of images ``(N, C, H, W)``, ``(N, num_classes)``."""
        maps = self.stem(input)
        for block in self.blocks:
            maps = run(block, maps, checkpointing=self.checkpointing)
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits
