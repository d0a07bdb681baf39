"""Networks of timm with another pooling, and the usual recipe of residual networks on ImageNet."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from empool.convert import convert_
from empool.distributions import Pooling
from empool.models.recipe import Recipe

_AUGMENT = re.compile(r"none|resized(,mirror)?(,jitter:(0|[1-9]\d*)(\.\d+)?)?", re.ASCII)


@dataclass(frozen=True)
class ImageNetRecipe(Recipe):
    """Choices of a network of timm.

    Attributes:
        learning_rate: highest learning rate for 256 images a step; it is scaled in proportion to the batch size.
        augment: "resized" (a crop of random area and shape, resized), "mirror" and "jitter:S" (of brightness, contrast
            and saturation, S being the strength) in this order with commas between, the latter two if wanted; or
            "none" (the middle of the image).
        image_size: height and width of the network's input, in pixels.
        test_crop: `image_size` as a share of the shorter side of a resized test image, whose middle is used.
        strided_convs: whether convolutions with stride 2 become tandems of the pooling and a convolution.
    """

    augment: str = "resized,mirror"
    image_size: int = 224
    test_crop: float = 0.875
    strided_convs: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _AUGMENT.fullmatch(self.augment):
            raise ValueError(
                f"{type(self).__name__}: expected augment none, or resized, resized,mirror and so on to "
                f'resized,mirror,jitter:S, got "{self.augment}"'
            )
        if self.image_size < 1:
            raise ValueError(f"{type(self).__name__}: expected image_size of at least 1, got {self.image_size}")
        if not 0 < self.test_crop <= 1:
            raise ValueError(f"{type(self).__name__}: expected test_crop in (0, 1], got {self.test_crop}")

    def rate(self, epoch: float) -> float:
        """Give the learning rate after `epoch` epochs, a fraction of an epoch included."""
        return super().rate(epoch) * self.batch_size / 256


# Divided by 10 after 30 and 60 of 90 epochs.
RECIPE = ImageNetRecipe(epochs=90, batch_size=256, schedule="step", milestones=(1 / 3, 2 / 3))

ASSUMPTIONS = (
    "Zhang and Wu (2017) do not say which pooling their ImageNet experiments changed, or how. Here the max-pooling "
    "layers of the network change (a ResNet has one, 3x3 with stride 2 after the first convolution), and with "
    "strided_convs=true its stride-2 convolutions become tandems, as in their DFN-MR.",
    "The recipe is the one of 90 epochs that public implementations of residual networks share: SGD, momentum 0.9 "
    "(here Nesterov's), weight decay 1e-4 on every parameter, 256 images a step at a learning rate of 0.1, divided by "
    "10 after 30 and 60 epochs; random resized crop of 224 pixels and mirror; no label smoothing. Colour augmentation, "
    "which fb.resnet.torch adds, is left out (augment=resized,mirror,jitter:0.4 adds part of it).",
    "Test images are resized to 256 pixels on the shorter side and cropped to the middle 224.",
    "The networks are timm's, with its initial weights: a ResNet's bottleneck has its stride in the 3x3 convolution, "
    "and the last normalisation of each block starts at 0.",
)


def build(
    name: str, num_classes: int, pooling: Pooling | None, in_channels: int = 3, strided_convs: bool = False
) -> nn.Module:
    """Make a network of timm with fresh weights and give it a pooling.

    Args:
        name: as timm spells it, such as "resnet50".
        num_classes: number of outputs.
        pooling: replaces max-pooling; None gives the network as timm has it.
        in_channels: channels of the images.
        strided_convs: with a pooling, turn convolutions with stride 2 into tandems as well.

    Raises:
        ValueError: for an unknown name, or a network without max-pooling to replace.
        ModuleNotFoundError: if timm is not installed.
    """
    import timm

    architecture, dot, _ = name.partition(".")
    if not timm.is_model(architecture):  # `create_model` would look for other names on the hub.
        raise ValueError(f'models: timm {timm.__version__} has no network "{architecture}"')
    if dot:
        raise ValueError(f"models: expected timm:{architecture}, got timm:{name}, whose end names trained weights")
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    if pooling is None:
        return network
    replaced = convert_(network, pooling, strided_convs=strided_convs)
    # With pooling max, max-pooling layers stay as they are, as asked for.
    if not replaced and not any(isinstance(m, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)) for m in network.modules()):
        without = " and no convolution with stride 2" if strided_convs else "; strided_convs=true is another way"
        raise ValueError(f"models: timm:{name} has no max-pooling layer to replace{without}")
    return network
