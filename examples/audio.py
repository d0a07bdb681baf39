"""How to use it: pooling in 1d. A network tells synthesised sounds in noise apart from their waveforms.

Needs: pip install empool
Run:   python examples/audio.py [--epochs 12]
"""

from __future__ import annotations

import argparse
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import empool

CLASSES = ("tone", "rising chirp", "falling chirp", "tremolo", "noise burst", "silence")
RATE, SAMPLES = 4000, 1024  # hertz; a quarter of a second


def sounds(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Make sounds ``(count, 1, SAMPLES)`` in white noise, signal to noise from -3 to 12 dB, and their classes."""
    random = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=random)

    labels = torch.arange(count) % len(CLASSES)
    kind = labels.unsqueeze(1)
    start, length = uniform(0, 0.1), uniform(0.1, 0.15)  # seconds
    time = torch.arange(SAMPLES) / RATE - start
    slope = uniform(2000, 5000) * ((kind == 1).float() - (kind == 2).float())  # hertz a second
    phase = uniform(0, 1) + uniform(700, 1300) * time + slope * (time - length / 2) ** 2 / 2
    tremolo = (kind == 3) * torch.sin(2 * math.pi * (uniform(0, 1) + uniform(20, 40) * time))
    waves = math.sqrt(2) * torch.sin(2 * math.pi * phase) * (1 + tremolo)
    waves = torch.where(kind == 4, torch.randn(count, SAMPLES, generator=random), waves)
    waves = waves * ((kind != 5) & (time >= 0) & (time < length)) * 10 ** (uniform(-3, 12) / 20)
    return (waves + torch.randn(count, SAMPLES, generator=random)).unsqueeze(1), labels


def network(p: float) -> nn.Module:
    """Three convolutions on the waveform; with p = 0 the pooling is max-pooling, bit for bit."""
    layers: list[nn.Module] = []
    for channels, more, kernel in ((1, 16, 31), (16, 24, 9), (24, 32, 9)):
        layers += [
            nn.Conv1d(channels, more, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm1d(more),
            nn.ReLU(),
            empool.EnsembleMaxPool1d(kernel_size=4, p=p),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(32 * 4, len(CLASSES)))


def train(net: nn.Module, waves: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(waves)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(net(waves[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()


@torch.no_grad()
def errors(net: nn.Module, waves: Tensor, labels: Tensor) -> list[float]:
    """Give the share of wrong answers for each class, in per cent."""
    wrong = net.eval()(waves).argmax(1) != labels
    return [100 * wrong[labels == label].float().mean().item() for label in range(len(CLASSES))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs
    train_data, test_data = sounds(960, seed=1), sounds(960, seed=2)
    for name, p in (("max", 0.0), ("ensemble", 0.3)):
        torch.manual_seed(0)
        net = network(p)
        train(net, *train_data, epochs)
        found = errors(net, *test_data)
        print(f"{name}: " + ", ".join(f"{kind} {error:.1f}" for kind, error in zip(CLASSES, found, strict=True)))
        print(f"{name}: test error {sum(found) / len(found):.1f} %")


if __name__ == "__main__":
    main()
