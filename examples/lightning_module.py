"""How to use it: a LightningModule whose p warms up from 0, on scikit-learn's digits.

Needs: pip install "empool[lab]"
Run:   python examples/lightning_module.py [--epochs 20]
"""

from __future__ import annotations

import argparse

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import empool
from empool.lab import PSchedule

Batch = tuple[Tensor, ...]


class Classifier(lightning.LightningModule):
    """Two convolutions, each with ensemble max-pooling, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            empool.EnsembleMaxPool2d(kernel_size=2),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            empool.EnsembleMaxPool2d(kernel_size=2),
            nn.Flatten(),
            nn.Linear(64 * 2 * 2, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        self.log("error", 100 * (self(images).argmax(1) != labels).float().mean())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


class Printer(lightning.Callback):
    """Print a line after every epoch."""

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        p = next(layer.p for layer in pl_module.modules() if isinstance(layer, empool.EnsembleMaxPool2d))
        print(f"epoch {trainer.current_epoch + 1}: p {p:.2f}, test error {trainer.callback_metrics['error']:.2f} %")


def digits() -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Split 1797 images of 8x8 pixels in two halves as they come."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16  # (N, 1, 8, 8)
    labels = torch.tensor(data.target)
    half = len(labels) // 2
    first, second = TensorDataset(images[:half], labels[:half]), TensorDataset(images[half:], labels[half:])
    return DataLoader(first, batch_size=64, shuffle=True), DataLoader(second, batch_size=1000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs
    lightning.seed_everything(0)
    train_data, test_data = digits()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[PSchedule(f"warmup:{epochs / 2}", p=0.3), Printer()],
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), train_data, test_data)


if __name__ == "__main__":
    main()
