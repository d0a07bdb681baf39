"""How a network is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Recipe:
    """Training choices of one network. A network with choices of its own extends it.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: highest learning rate of the schedule.
        schedule: "cosine" falls to 0 at the end; "step" multiplies by `decay` at every milestone.
        milestones: of the "step" schedule, as fractions of the epochs.
        decay: factor of the "step" schedule.
        warmup: epochs in which the learning rate rises linearly from 0 (shortened to a fifth of the epochs).
        momentum: Nesterov momentum of SGD.
        weight_decay: L2 penalty on every parameter.
        augment: "crop:P" (pad P pixels with the mean, random crop), "mirror", both as "crop:P,mirror", "none", or
            "auto": what suits the data set.
    """

    SCHEDULES: ClassVar[tuple[str, ...]] = ("cosine", "step")

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: str = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    decay: float = 0.1
    warmup: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augment: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{type(self).__name__}: expected {name} of at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "decay", "warmup", "momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{type(self).__name__}: expected {name} of at least 0, got {getattr(self, name)}")
        if self.schedule not in self.SCHEDULES:
            known = " or ".join(f'"{schedule}"' for schedule in self.SCHEDULES)
            raise ValueError(f'{type(self).__name__}: expected schedule {known}, got "{self.schedule}"')
        if not all(0 < milestone < 1 for milestone in self.milestones):
            raise ValueError(f"{type(self).__name__}: expected milestones between 0 and 1, got {self.milestones}")

    def rate(self, epoch: float) -> float:
        """Give the learning rate after `epoch` epochs, a fraction of an epoch included."""
        warmup = min(self.warmup, self.epochs / 5)
        if epoch < warmup:
            return self.learning_rate * epoch / warmup
        if self.schedule == "cosine":
            progress = (epoch - warmup) / (self.epochs - warmup)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        passed = sum(epoch >= milestone * self.epochs for milestone in self.milestones)
        return self.learning_rate * self.decay**passed
