"""Convert the strided convolutions of a trained ResNet to pooling and fine-tune it: gain over three seeds.

Needs: pip install empool pyarrow pillow numpy, and data/cifar10-mini of this repository
Run:   python examples/finetune.py [--epochs 4] [--seeds 3]
"""

from __future__ import annotations

import argparse
import copy
import io
import statistics
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import empool

FOLDER = Path(__file__).parents[1] / "data" / "cifar10-mini"


def photographs(split: str) -> tuple[Tensor, Tensor]:
    """Read 2,000 images, shrunk to ``(N, 3, 16, 16)`` to save time and normalised, and their labels."""
    table = pq.read_table(FOLDER / f"{split}.parquet")
    pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["img"].to_pylist()]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return (F.avg_pool2d(images / 255, 2) - 0.47) / 0.25, torch.tensor(table["label"].to_pylist())


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int, learning_rate: float) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps)
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def error(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Give the share of wrong answers in per cent."""
    net.eval()
    predicted = torch.cat([net(batch).argmax(1) for batch in images.split(500)])
    return 100 * (predicted != labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    train_data, test_data = photographs("train"), photographs("test")
    gains = []
    for seed in range(arguments.seeds):
        torch.manual_seed(seed)
        trained = empool.models.create("resnet:8", num_classes=10, pooling=None)
        train(trained, *train_data, arguments.epochs, learning_rate=0.1)
        converted = copy.deepcopy(trained)
        replaced = empool.convert_(converted, empool.EnsembleMax(0.1), strided_convs=True)
        if seed == 0:
            print(replaced)
        before = f"before: {error(trained, *test_data):.2f} %, converted {error(converted, *test_data):.2f} %"
        errors = []
        for net in (trained, converted):
            torch.manual_seed(seed)
            train(net, *train_data, arguments.epochs, learning_rate=0.05)
            errors.append(error(net, *test_data))
        gains.append(errors[0] - errors[1])
        print(f"seed {seed}: test error {before}; fine-tuned: {errors[0]:.2f} %, converted {errors[1]:.2f} %")
    print(f"converted has {statistics.mean(gains):.2f} points lower error", end="")
    print(f" (standard deviation {statistics.stdev(gains):.2f})" if len(gains) > 1 else "")


if __name__ == "__main__":
    main()
