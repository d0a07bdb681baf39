"""The network of airbench (Jordan 2024), a public baseline for CIFAR-10 that pools before it normalises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from empool.distributions import Pooling
from empool.models._residual import require_positive
from empool.models.recipe import Recipe
from empool.pooling import layer

WHITENING_IMAGES = 5000
"""Training images whose patches give the first convolution's weights."""


@dataclass(frozen=True)
class AirbenchRecipe(Recipe):
    """The published recipe. `learning_rate` and `weight_decay` are those of 1024 images, as it counts them.

    Attributes:
        label_smoothing: of the cross-entropy, which is summed over the batch.
        bias_scale: factor of the learning rate of batch normalisation's biases; their decay stays.
        whitening_epochs: epochs in which the bias of the frozen first convolution is trained.
        start: learning rate of the first step, as a share of the highest.
        peak: share of the steps in which it rises.
        end: learning rate after the last step, as a share of the highest.
        lookahead: steps between two updates of the slow weights; 0 for none.
    """

    SCHEDULES: ClassVar[tuple[str, ...]] = ("triangle",)
    reduction: ClassVar[str] = "sum"  # of the cross-entropy over a batch
    drop_last: ClassVar[bool] = True  # an incomplete batch

    epochs: int = 11
    batch_size: int = 1024
    learning_rate: float = 11.5
    schedule: str = "triangle"
    momentum: float = 0.85
    weight_decay: float = 0.0153
    augment: str = "shift:2,alternating-mirror"
    label_smoothing: float = 0.2
    bias_scale: float = 64.0
    whitening_epochs: float = 3.0
    start: float = 0.2
    peak: float = 0.23
    end: float = 0.07
    lookahead: int = 5

    @property
    def sgd_rate(self) -> float:
        """The highest learning rate as SGD takes it: for a loss summed over the batch, momentum counted in."""
        return self.learning_rate / (1024 * (1 + 1 / (1 - self.momentum)))

    @property
    def sgd_decay(self) -> float:
        """Weight decay times learning rate: what decoupling keeps, whatever rate a group has."""
        return self.weight_decay * self.batch_size / (1024 * (1 + 1 / (1 - self.momentum)))

    def factor(self, step: int, steps: int) -> float:
        """Give the learning rate of a step, counted from 0, as a share of the highest."""
        top = int(self.peak * steps)
        if step < top:
            return self.start + (1 - self.start) * step / top
        return 1 - (1 - self.end) * (step - top) / (steps - top)

    def rate(self, epoch: float) -> float:
        """Give the learning rate, as SGD takes it, after `epoch` epochs."""
        fine = 1_000_000
        return self.sgd_rate * self.factor(round(fine * epoch / self.epochs), fine)

    def slow_share(self, step: int, steps: int) -> float:
        """Give what the slow weights keep of themselves in their update after `step` steps."""
        return float(0.95**5 * (step / steps) ** 3)

    def groups(self, network: nn.Module) -> list[dict[str, object]]:
        """Give the parameter groups of `torch.optim.SGD`: batch normalisation's biases have a rate of their own."""
        trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
        fast = [parameter for name, parameter in trained if "norm" in name]
        rest = [parameter for name, parameter in trained if "norm" not in name]
        rate, decay = self.sgd_rate, self.sgd_decay
        return [
            {"params": fast, "lr": rate * self.bias_scale, "weight_decay": decay / (rate * self.bias_scale)},
            {"params": rest, "lr": rate, "weight_decay": decay / rate},
        ]

    def begin_epoch(self, network: nn.Module, epoch: int) -> None:
        """Train the first convolution's bias in the first epochs alone; `epoch` counts from 0."""
        assert isinstance(network, Airbench)
        assert network.whiten.bias is not None
        network.whiten.bias.requires_grad_(epoch < self.whitening_epochs)


RECIPE = AirbenchRecipe()

ASSUMPTIONS = (
    "The network is that of airbench (Jordan 2024), with every max-pooling replaced, the last one over 3x3 included.",
    "It pools signed activations directly before batch normalisation, so stochastic pooling sees their positive part.",
)


class Group(nn.Module):
    """Convolution, pooling, normalisation and GELU; then convolution, normalisation and GELU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        pooling: over windows of 2x2.
    """

    def __init__(self, in_channels: int, out_channels: int, pooling: Pooling) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, out_channels)
        self.pool = layer(pooling, 2, kernel_size=2)
        self.norm1 = _norm(out_channels)
        self.conv2 = _convolution(out_channels, out_channels)
        self.norm2 = _norm(out_channels)
        self.activation = nn.GELU()

    def forward(self, input: Tensor) -> Tensor:
        """Halve maps ``(N, C, H, W)``."""
        maps = self.activation(self.norm1(self.pool(self.conv1(input))))
        output: Tensor = self.activation(self.norm2(self.conv2(maps)))
        return output


class Airbench(nn.Module):
    """A frozen whitening convolution, three groups that pool, a last pooling and a linear layer.

    The first convolution's weights come from the training images: call `prepare_` before training.

    Args:
        num_classes: number of outputs.
        pooling: of the three groups, and of what is left after them.
        in_channels: channels of the images.
        widths: maps of the three groups.

    Raises:
        ValueError: for a number out of range.

    Source: Jordan, arXiv 2404.00498, and its public code.
    """

    def __init__(
        self,
        num_classes: int,
        pooling: Pooling,
        in_channels: int = 3,
        widths: tuple[int, int, int] = (64, 128, 128),
    ) -> None:
        super().__init__()
        require_positive("Airbench", num_classes=num_classes, in_channels=in_channels, width=min(widths))
        if len(widths) != 3:
            raise ValueError(f"Airbench: expected three widths, got {widths}")
        self.whiten = nn.Conv2d(in_channels, 8 * in_channels, 2)  # A 2x2 patch's components, and their negatives.
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        self.activation = nn.GELU()
        before = (8 * in_channels, *widths)
        self.groups = nn.Sequential(*(Group(before[place], widths[place], pooling) for place in range(3)))
        self.pool = layer(pooling, 2, kernel_size=3)
        self.classifier = nn.Linear(widths[-1], num_classes, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the logits of images ``(N, C, 32, 32)``, ``(N, num_classes)``."""
        maps = self.groups(self.activation(self.whiten(input)))
        logits: Tensor = self.classifier(self.pool(maps).flatten(1)) / 9
        return logits

    @torch.no_grad()
    def prepare_(self, images: Tensor) -> None:
        """Set the frozen first convolution from normalised training images ``(N, C, H, W)``.

        Example:
            >>> import empool, torch
            >>> net = empool.models.create("airbench:8-8-8", num_classes=10, pooling=empool.EnsembleMax(0.1))
            >>> net.prepare_(torch.randn(16, 3, 32, 32))
        """
        self.whiten.weight.copy_(whitening(images))


def read_widths(text: str) -> tuple[int, int, int]:
    """Read the widths in ``airbench:64-128-128``.

    Raises:
        ValueError: if they aren't three numbers.
    """
    parts = text.split("-")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f'models: expected "airbench:W-W-W" with three widths, got "airbench:{text}"')
    first, second, third = (int(part) for part in parts)
    return first, second, third


@torch.no_grad()
def whitening(images: Tensor, eps: float = 5e-4) -> Tensor:
    """Compute the weights that whiten 2x2 patches.

    Args:
        images: normalised training images ``(N, C, H, W)``; the first 5,000 are used.
        eps: added to the variances.

    Returns:
        ``(8 * C, C, 2, 2)``: the patches' principal directions over their standard deviations, the largest first,
        then the negatives of these.
    """
    images = images[:WHITENING_IMAGES].float()
    channels = images.shape[1]
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).movedim(1, 3).reshape(-1, 4 * channels)
    covariance = (patches.T @ patches / len(patches)).double().cpu()
    variances, directions = torch.linalg.eigh(covariance)
    scaled = (directions / torch.sqrt(variances + eps)).T.flip(0)
    weights = torch.cat((scaled, -scaled)).reshape(-1, channels, 2, 2)
    return weights.to(device=images.device, dtype=torch.float32)


def _convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    # The first filters hand the input on.
    nn.init.dirac_(convolution.weight.data[: min(in_channels, out_channels)])
    return convolution


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
