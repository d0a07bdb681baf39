"""A plain training loop, max-pooling against ensemble max-pooling over five seeds. The diff is three lines:

    + import empool
    - nn.MaxPool2d(3, stride=2, padding=1)
    + empool.EnsembleMaxPool2d(3, stride=2, padding=1, p=0.4)

Needs: pip install empool pyarrow pillow numpy, and data/cifar10-mini of this repository
Run:   python examples/training_loop.py [--epochs 15] [--seeds 5]
"""

from __future__ import annotations

import argparse
import io
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import empool

FOLDER = Path(__file__).parents[1] / "data" / "cifar10-mini"
POOLINGS: dict[str, Callable[..., nn.Module]] = {
    "max": partial(nn.MaxPool2d, 3, stride=2, padding=1),
    "ensemble": partial(empool.EnsembleMaxPool2d, 3, stride=2, padding=1, p=0.4),
}


def photographs(split: str) -> tuple[Tensor, Tensor]:
    """Read 2,000 images ``(N, 3, 32, 32)``, normalised, and their labels."""
    table = pq.read_table(FOLDER / f"{split}.parquet")
    pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["img"].to_pylist()]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return (images / 255 - 0.47) / 0.25, torch.tensor(table["label"].to_pylist())


def network(pool: Callable[..., nn.Module], width: int = 16) -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (3, width, width):
        layers += [nn.Conv2d(channels, width, 5, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU(), pool()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 4 * 4, 10))


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    order = torch.Generator().manual_seed(seed)  # the same order of images for every pooling
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=epochs * -(-len(images) // 64))
    net.train()  # samples
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=order).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def error(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Give the share of wrong answers in per cent."""
    net.eval()  # the expectation
    predicted: Tensor = net(images).argmax(1)
    return 100 * (predicted != labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    train_data, test_data = photographs("train"), photographs("test")
    errors: dict[str, list[float]] = {name: [] for name in POOLINGS}
    for seed in range(arguments.seeds):
        for name, pool in POOLINGS.items():
            torch.manual_seed(seed)
            net = network(pool)
            train(net, *train_data, arguments.epochs, seed)
            errors[name].append(error(net, *test_data))
        print(f"seed {seed}: test error " + ", ".join(f"{name} {found[-1]:.2f} %" for name, found in errors.items()))
    print("mean: test error " + ", ".join(f"{name} {statistics.mean(found):.2f} %" for name, found in errors.items()))
    if arguments.seeds > 1:
        gains = [a - b for a, b in zip(errors["max"], errors["ensemble"], strict=True)]
        better = sum(gain > 0 for gain in gains)
        print(f"ensemble has {statistics.mean(gains):.2f} points lower error on average", end=", ")
        print(f"standard deviation {statistics.stdev(gains):.2f}, lower with {better} of {len(gains)} seeds")


if __name__ == "__main__":
    main()
