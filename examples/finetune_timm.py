"""How to use it: convert a network of timm and fine-tune it, here on scikit-learn's digits.

Needs: pip install "empool[imagenet]", or `make setup` in a clone
Run:   python examples/finetune_timm.py [--pretrained] [--epochs 3]
       python examples/finetune_timm.py --model regnety_002 --strided-convs    # a network without max-pooling
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import empool


def import_timm() -> Any:
    """Import timm, also where `make setup` puts it: beside an environment whose PyTorch is built without CUDA.

    PyPI's torchvision, which timm imports, is built for CUDA. Without CUDA its import misses two operators that
    classification doesn't need.
    """
    sys.path.append(str(Path(sys.prefix) / "imagenet"))
    try:
        return importlib.import_module("timm")
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
            del sys.modules[name]
        return importlib.import_module("timm")


def digits(mean: tuple[float, ...], std: tuple[float, ...], size: int) -> tuple[Tensor, Tensor]:
    """Give 1797 images ``(N, 3, size, size)``, normalised as the network expects them, and their labels."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16  # (N, 1, 8, 8)
    images = F.interpolate(images, size=(size, size), mode="bilinear").expand(-1, 3, -1, -1)
    images = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    return images, torch.tensor(data.target)


def train(net: nn.Module, images: Tensor, labels: Tensor, epochs: int, learning_rate: float) -> None:
    batch_size = 32
    optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=0.05)
    steps = epochs * -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def error(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Give the share of images with a wrong answer, in per cent."""
    net.eval()
    predicted = torch.cat([net(batch).argmax(1) for batch in images.split(256)])
    return 100 * (predicted != labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--strided-convs", action="store_true", help="replace stride-2 convolutions too")
    parser.add_argument("--pretrained", action="store_true", help="take weights from the Hugging Face hub")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    timm = import_timm()
    net = timm.create_model(arguments.model, pretrained=arguments.pretrained, num_classes=10)
    keys = set(net.state_dict())
    print(empool.convert_(net, empool.EnsembleMax(0.1), strided_convs=arguments.strided_convs))
    print("the state_dict has " + ("the same keys" if set(net.state_dict()) == keys else "other keys"))

    expected = timm.data.resolve_model_data_config(net)
    images, labels = digits(expected["mean"], expected["std"], size=32)
    half = len(labels) // 2
    print(f"before: test error {error(net, images[half:], labels[half:]):.2f} %")
    train(net, images[:half], labels[:half], arguments.epochs, learning_rate=1e-3)
    print(f"after: test error {error(net, images[half:], labels[half:]):.2f} %")


if __name__ == "__main__":
    main()
