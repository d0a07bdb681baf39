"""A plain training loop: max-pooling and ensemble max-pooling from the same weights, on scikit-learn's digits.

Needs: pip install empool scikit-learn
Run:   python examples/training_loop.py [--epochs 40] [--seeds 3]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import empool

POOLINGS: dict[str, Callable[..., nn.Module]] = {
    "max": nn.MaxPool2d,
    "ensemble": partial(empool.EnsembleMaxPool2d, p=0.3),
}


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Split 1797 images of 8x8 pixels in two halves as they come."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16  # (N, 1, 8, 8)
    labels = torch.tensor(data.target)
    half = len(labels) // 2
    return TensorDataset(images[:half], labels[:half]), TensorDataset(images[half:], labels[half:])


def network(pool: Callable[..., nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        pool(kernel_size=2),
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.ReLU(),
        pool(kernel_size=2),
        nn.Flatten(),
        nn.Linear(64 * 2 * 2, 10),
    )


def train(net: nn.Module, data: TensorDataset, epochs: int, seed: int) -> None:
    # A generator of its own keeps the order of the images apart from what the pooling draws.
    batches = DataLoader(data, batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=epochs * len(batches))
    net.train()
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def error(net: nn.Module, data: TensorDataset) -> float:
    """Give the share of images with a wrong answer, in per cent."""
    net.eval()
    images, labels = data.tensors
    predicted: Tensor = net(images).argmax(1)
    return 100 * (predicted != labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    train_data, test_data = digits()
    errors: dict[str, list[float]] = {name: [] for name in POOLINGS}
    for seed in range(arguments.seeds):
        for name, pool in POOLINGS.items():
            torch.manual_seed(seed)
            net = network(pool)
            train(net, train_data, arguments.epochs, seed)
            errors[name].append(error(net, test_data))
        print(f"seed {seed}: test error " + ", ".join(f"{name} {found[-1]:.2f} %" for name, found in errors.items()))
    print("mean: test error " + ", ".join(f"{name} {statistics.mean(found):.2f} %" for name, found in errors.items()))


if __name__ == "__main__":
    main()
