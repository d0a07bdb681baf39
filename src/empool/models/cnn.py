"""The plain CNN of Table 1 of Zhang and Wu (2017)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from empool.distributions import Pooling
from empool.models.recipe import Recipe
from empool.pooling import layer

NORMALISATIONS = ("batch", "local", "none")


@dataclass(frozen=True)
class CNNRecipe(Recipe):
    """Choices of the plain CNN that Zhang and Wu (2017) do not name.

    Attributes:
        width: maps of each convolution.
        normalisation: "batch" (between convolution and ReLU), "local" (local response, after pooling) or "none".
        dropout: probability of zeroing an input of the fully connected layer.
        pool_size: side of the pooling windows, 3 (with a padding of 1) or 2; their stride is 2.
    """

    width: int = 48
    normalisation: str = "batch"
    dropout: float = 0.0
    pool_size: int = 3


RECIPE = CNNRecipe(epochs=60, learning_rate=0.05, warmup=1.0, weight_decay=5e-4)

ASSUMPTIONS = (
    "Zhang and Wu (2017) do not describe their plain CNN. This is the three-stage network of Zeiler and Fergus (2013): "
    "three times a 5x5 convolution, ReLU and pooling, then one fully connected softmax layer.",
    "Pooling windows are 3x3 with stride 2 and padding 1, so each stage halves the image. Padding is never pooled.",
    "Batch normalisation between convolution and ReLU replaces local response normalisation.",
    "Width, normalisation and the training recipe were chosen by the error of max-pooling alone, trained on 45,000 of "
    "the training images with crop and mirror and tested on the other 5,000: 16 epochs without warm-up gave 20.2 % at "
    "width 32 and 18.3 % at width 48. A full training has not been tried, so how near it comes to the published "
    "15.25 % is not known.",
    "Training images are padded with the mean, cropped at random, and mirrored if the data set allows it. Zhang and Wu "
    "(2017) do not say how they augmented their images.",
)


class CNN(nn.Module):
    """Three stages of convolution, ReLU and pooling, and one fully connected layer.

    The classifier sees every position of the last maps, as in the source, so the network needs the `image_size`.

    Args:
        num_classes: number of outputs.
        pooling: pooling of the three stages.
        in_channels: channels of the images.
        image_size: height and width of the images, or one number for both.
        width: maps of each convolution.
        normalisation: "batch", "local" or "none"; see `CNNRecipe`.
        dropout: probability of zeroing an input of the fully connected layer.
        pool_size: side of the pooling windows, 3 or 2; each stage halves the image with either.

    Raises:
        ValueError: for a number out of range or an unknown normalisation.

    Source: Zeiler and Fergus, arXiv 1301.3557, section 4.1.
    """

    def __init__(
        self,
        num_classes: int,
        pooling: Pooling,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        width: int = RECIPE.width,
        normalisation: str = RECIPE.normalisation,
        dropout: float = RECIPE.dropout,
        pool_size: int = RECIPE.pool_size,
    ) -> None:
        super().__init__()
        height, columns = (image_size, image_size) if isinstance(image_size, int) else image_size
        for name, number in (
            ("num_classes", num_classes),
            ("in_channels", in_channels),
            ("image_size", min(height, columns)),
            ("width", width),
        ):
            if number < 1:
                raise ValueError(f"CNN: expected {name} of at least 1, got {number}")
        if normalisation not in NORMALISATIONS:
            raise ValueError(
                f'CNN: expected normalisation to be one of {", ".join(NORMALISATIONS)}, got "{normalisation}"'
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"CNN: expected dropout in [0, 1), got {dropout}")
        if pool_size not in (2, 3):
            raise ValueError(f"CNN: expected pool_size 2 or 3, got {pool_size}")
        stages: list[nn.Module] = []
        for channels in (in_channels, width, width):
            stages.append(_stage(channels, width, pooling, normalisation, pool_size))
            height, columns = (height + 1) // 2, (columns + 1) // 2
        self.image_size = image_size
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width * height * columns, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the logits of images ``(N, C, H, W)``, ``(N, num_classes)``."""
        maps: Tensor = self.stages(input)
        logits: Tensor = self.classifier(self.dropout(maps.flatten(1)))
        return logits


def _stage(in_channels: int, width: int, pooling: Pooling, normalisation: str, pool_size: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, width, kernel_size=5, padding=2, bias=normalisation != "batch")
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    # Windows of 2 need no padding: with ceil_mode, the last window of an odd side is smaller.
    pool = layer(pooling, 2, kernel_size=pool_size, stride=2, padding=pool_size // 3, ceil_mode=pool_size == 2)
    if normalisation == "batch":
        return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), pool)
    if normalisation == "local":
        # Size, alpha and beta as in the source's implementation (cuda-convnet's rnorm over 9 maps).
        return nn.Sequential(convolution, nn.ReLU(), pool, nn.LocalResponseNorm(9, alpha=1e-3, beta=0.75))
    return nn.Sequential(convolution, nn.ReLU(), pool)
