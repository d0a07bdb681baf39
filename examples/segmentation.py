"""How to use it: a UNet that unpools with the indices of its pooling, on shapes.

Needs: pip install empool
Run:   python examples/segmentation.py [--epochs 12]
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import empool

CLASSES = ("background", "disc", "square", "triangle")
SIZE = 32  # pixels


def drawings(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw two shapes on each noisy canvas ``(count, 1, SIZE, SIZE)``; labels ``(count, SIZE, SIZE)`` are classes."""
    random = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=random)

    across = torch.arange(SIZE).float()
    images = uniform(-0.5, 0.5).expand(count, SIZE, SIZE)
    labels = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    for _ in range(2):
        kind = torch.randint(1, len(CLASSES), (count, 1, 1), generator=random)
        x, y = across - uniform(5, SIZE - 6), across.unsqueeze(1) - uniform(5, SIZE - 6)
        radius = uniform(5, 9)
        disc = x**2 + y**2 < radius**2
        square = torch.maximum(x.abs(), y.abs()) < 0.85 * radius
        triangle = (y.abs() < radius) & (2 * x.abs() < y + radius)
        inside = torch.where(kind == 1, disc, torch.where(kind == 2, square, triangle))
        images = torch.where(inside, uniform(1, 2), images)
        labels = torch.where(inside, kind, labels)
    return (images + 0.5 * torch.randn(images.shape, generator=random)).unsqueeze(1), labels


def convolution(channels: int, more: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, more, 3, padding=1, bias=False), nn.BatchNorm2d(more), nn.ReLU())


class UNet(nn.Module):
    """Three stages: the decoder puts values back where pooling found them, and adds the encoder's maps as channels."""

    def __init__(self, p: float, width: int = 12) -> None:
        super().__init__()
        sizes = (width, 2 * width, 2 * width)
        self.pool = empool.EnsembleMaxPool2d(kernel_size=2, return_indices=True, p=p)  # p = 0: max-pooling, bit for bit
        self.unpool = nn.MaxUnpool2d(kernel_size=2)
        self.encoder = nn.ModuleList(convolution(*pair) for pair in zip((1, *sizes), sizes, strict=False))
        self.bottom = convolution(sizes[2], sizes[2])
        self.decoder = nn.ModuleList(
            [convolution(2 * sizes[2], sizes[1]), convolution(2 * sizes[1], sizes[0]), convolution(2 * sizes[0], width)]
        )
        self.classes = nn.Conv2d(width, len(CLASSES), kernel_size=1)

    def forward(self, input: Tensor) -> Tensor:
        skipped = []
        for layer in self.encoder:
            maps = layer(input)
            input, indices = self.pool(maps)
            skipped.append((maps, indices))
        input = self.bottom(input)
        for layer in self.decoder:
            maps, indices = skipped.pop()
            input = layer(torch.cat([self.unpool(input, indices), maps], dim=1))
        logits: Tensor = self.classes(input)
        return logits


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(16):
            optimizer.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()


@torch.no_grad()
def intersection_over_union(net: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Give each class's, over the pixels of all images."""
    predicted = net.eval()(images).argmax(1)
    pairs = torch.bincount((labels * len(CLASSES) + predicted).flatten(), minlength=len(CLASSES) ** 2)
    confusion = pairs.reshape(len(CLASSES), len(CLASSES))
    both = confusion.diag()
    shares: list[float] = (both / (confusion.sum(0) + confusion.sum(1) - both)).tolist()
    return shares


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs
    train_data, test_data = drawings(512, seed=1), drawings(256, seed=2)
    for name, p in (("max", 0.0), ("ensemble", 0.1)):
        torch.manual_seed(0)
        net = UNet(p)
        train(net, *train_data, epochs)
        shares = intersection_over_union(net, *test_data)
        print(f"{name}: " + ", ".join(f"{kind} {share:.3f}" for kind, share in zip(CLASSES, shares, strict=True)))
        print(f"{name}: mean IoU {sum(shares) / len(shares):.3f}")


if __name__ == "__main__":
    main()
