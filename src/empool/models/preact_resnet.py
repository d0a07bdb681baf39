"""The pre-activation residual network for small images (He et al. 2016), of bottleneck blocks."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from empool.distributions import Pooling
from empool.models._residual import blocks_per_stage, convolution, require_positive, run
from empool.models.resnet import DEEP_RECIPE

STEM_WIDTH = 16
WIDTHS = (64, 128, 256)

RECIPE = DEEP_RECIPE
# Zhang and Wu (2017) cite 4.62 % for 1001 layers, which the authors' code reached with 64 images a step.
RECIPES = {1001: replace(RECIPE, epochs=200, batch_size=64, milestones=(0.4, 0.605), warmup=0.0)}

ASSUMPTIONS = (
    "The paper counts 64,000 iterations of 128 images; they are 164 epochs of 50,000 images here, the first 400 "
    "iterations at a learning rate of 0.01 at every depth.",
    "1001 layers have the recipe of the authors' later code, with 64 images a step: it reached the 4.62 % that Zhang "
    "and Wu (2017) cite.",
    "Where the number of channels changes, the shortcut is a 1x1 convolution of the activated input, and the block's "
    "first 1x1 convolution has the stride, as in the authors' code.",
    "With a pooling, the stride-2 convolutions become tandems of pooling and the same convolution with stride 1, "
    "including those of the shortcuts.",
)


class Bottleneck(nn.Module):
    """Batch normalisation and ReLU before each of three convolutions, 1x1, 3x3 and 1x1, beside a shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, four times those of the 3x3 convolution.
        stride: of the first convolution and the shortcut.
        pooling: turns convolutions with stride 2 into tandems; None leaves them.
        pool_projections: whether this includes the shortcut.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, pooling: Pooling | None, pool_projections: bool
    ) -> None:
        super().__init__()
        inner = out_channels // 4
        self.activation = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.residual = nn.Sequential(
            convolution(in_channels, inner, 1, stride, pooling),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            convolution(inner, inner, 3),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            convolution(inner, out_channels, 1),
        )
        self.projection = None
        if in_channels != out_channels:
            self.projection = convolution(in_channels, out_channels, 1, stride, pooling if pool_projections else None)

    def forward(self, input: Tensor) -> Tensor:
        """Compute ``(N, out_channels, H / stride, W / stride)``."""
        activated = self.activation(input)
        line = input if self.projection is None else self.projection(activated)
        output: Tensor = line + self.residual(activated)
        return output


class PreActResNet(nn.Module):
    """A pre-activation residual network of 9n+2 layers: 164 and 1001 in the paper.

    Args:
        num_classes: number of outputs.
        pooling: turns the convolutions with stride 2 into tandems, see `empool.tandem.to_tandem`; None gives the
            network as published.
        in_channels: channels of the images.
        depth: number of layers, 9n+2.
        checkpointing: keep only the blocks' inputs for the backward pass and recompute the rest: less memory, one more
            forward pass.
        pool_projections: whether the 1x1 convolutions of the shortcuts become tandems too.

    Raises:
        ValueError: for a number out of range.

    Source: He et al., arXiv 1603.05027.
    """

    def __init__(
        self,
        num_classes: int,
        pooling: Pooling | None = None,
        in_channels: int = 3,
        depth: int = 164,
        checkpointing: bool = False,
        pool_projections: bool = True,
    ) -> None:
        super().__init__()
        require_positive("PreActResNet", num_classes=num_classes, in_channels=in_channels)
        count = blocks_per_stage("PreActResNet", depth, layers=9)
        self.checkpointing = checkpointing
        self.stem = convolution(in_channels, STEM_WIDTH, 3)
        self.blocks = nn.ModuleList()
        channels = STEM_WIDTH
        for stage, width in enumerate(WIDTHS):
            for place in range(count):
                stride = 2 if stage > 0 and place == 0 else 1
                self.blocks.append(Bottleneck(channels, width, stride, pooling, pool_projections))
                channels = width
        self.activation = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, num_classes)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the logits of images ``(N, C, H, W)``, ``(N, num_classes)``."""
        maps = self.stem(input)
        for block in self.blocks:
            maps = run(block, maps, checkpointing=self.checkpointing)
        logits: Tensor = self.classifier(self.activation(maps).mean((2, 3)))
        return logits
