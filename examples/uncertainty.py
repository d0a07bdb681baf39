"""Find images unlike the training images by the uncertainty of sub-networks: AUROC over five seeds, with its spread.

Needs: pip install empool scikit-learn
Run:   python examples/uncertainty.py [--epochs 30] [--seeds 5]
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import empool

KNOWN = 8  # the digits 0 to 7 are learned, 8 and 9 are not
MEASURES = ("entropy of one pass", "entropy of the mean of 32 sub-networks", "mutual information")


def digits() -> tuple[tuple[Tensor, Tensor], Tensor, dict[str, Tensor]]:
    """Give training digits 0 to 7, test digits 0 to 7, and kinds of images that the network is never trained on."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16  # (N, 1, 8, 8)
    labels = torch.tensor(data.target)
    known = labels < KNOWN
    first = torch.arange(len(labels)) < len(labels) // 2
    test = images[known & ~first]
    unknown = {
        "digits 8 and 9": images[~known],
        "inverted": 1 - test,
        "noise": torch.rand(test.shape, generator=torch.Generator().manual_seed(0)),
    }
    return (images[known & first], labels[known & first]), test, unknown


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        empool.EnsembleMaxPool2d(kernel_size=2, p=0.3),
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.ReLU(),
        empool.EnsembleMaxPool2d(kernel_size=2, p=0.3),
        nn.Flatten(),
        nn.Linear(64 * 2 * 2, KNOWN),
    )


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()


@torch.no_grad()
def measures(net: nn.Module, images: Tensor) -> Tensor:
    """Give the `MEASURES` of each image, ``(3, N)``, in nats."""
    once = net.eval()(images).softmax(1)
    members = empool.monte_carlo(net, images, samples=32)
    return torch.stack([torch.special.entr(once).sum(1), members.entropy, members.mutual_information])


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Give the probability that an unknown image has the larger measure of the two."""
    is_unknown = torch.cat([torch.zeros(len(known)), torch.ones(len(unknown))])
    return float(roc_auc_score(is_unknown, torch.cat([known, unknown])))


def verdict(gains: npt.NDArray[np.float64]) -> str:
    if (gains > 0).all():
        return "better with every seed"
    return "worse with every seed" if (gains < 0).all() else "no clear difference"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    train_data, test, unknown = digits()
    found = np.empty((arguments.seeds, len(unknown), len(MEASURES)))
    for seed, of_seed in enumerate(found):
        torch.manual_seed(seed)
        net = network()
        train(net, *train_data, arguments.epochs)
        of_known = measures(net, test)
        for row, images in zip(of_seed, unknown.values(), strict=True):
            row[:] = [auroc(*pair) for pair in zip(of_known, measures(net, images), strict=True)]
    print(f"AUROC against known digits: mean (standard deviation) over {arguments.seeds} seeds")
    for kind, means, spreads in zip(unknown, found.mean(0), found.std(0), strict=True):
        cells = [f"{name} {m:.3f} ({s:.3f})" for name, m, s in zip(MEASURES, means, spreads, strict=True)]
        print(f"{kind}: {', '.join(cells)}")
    gains = found[:, :, 1:] - found[:, :, :1]  # (seeds, kinds, measures but the first)
    for name, of_kinds in zip(MEASURES[1:], gains.T, strict=True):
        cells = [
            f"{kind} {gain.mean():+.3f} ± {gain.std():.3f} ({verdict(gain)})"
            for kind, gain in zip(unknown, of_kinds, strict=True)
        ]
        print(f"gain of the {name}: {', '.join(cells)}")


if __name__ == "__main__":
    main()
