"""A schedule of p for a Lightning training of a user's own."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from empool.distributions import probability
from empool.ensemble import set_p
from empool.lab.train.schedule import Schedule, parse


class PSchedule(pl.Callback):
    """Set p of all ensemble max-pooling and max-pooling dropout of a network, batch by batch, in a Lightning training.

    The value is a function of the epoch and the batch alone (of the epoch where the number of batches is unknown), so a
    training that goes on from a checkpoint has the p that it would have had. What is tested in between and after has
    the p of that time. A network that is loaded later has the p that it was made with: `empool.set_p` sets another.

    Args:
        schedule: "constant", "warmup:EPOCHS" (from 0 to p), "anneal:FINAL" (from p to FINAL at the end of the
            training), "cosine:FINAL" (the same along half a cosine), or a `Schedule`.
        p: the probability that is scheduled, in [0, 1].

    Raises:
        ValueError: for an unknown schedule, or p outside [0, 1]; when training starts, for a network without such
            layers, or without `max_epochs` where the schedule depends on the training's end.

    Example:
        >>> import lightning
        >>> from empool.lab import PSchedule
        >>> trainer = lightning.Trainer(max_epochs=60, callbacks=[PSchedule("anneal:0.1", p=0.4)])
    """

    def __init__(self, schedule: str | Schedule, p: float) -> None:
        self.schedule = parse(schedule) if isinstance(schedule, str) else schedule
        self.p = probability("PSchedule", "p", p)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set p for what comes before the first batch, or refuse what cannot be scheduled."""
        self.now: float | None = None  # what p was set to last
        self._set(trainer, pl_module, 0)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set p for a batch."""
        self._set(trainer, pl_module, batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Set p for what comes after a batch, which may be a test."""
        self._set(trainer, pl_module, batch_idx + 1)

    def _set(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batches: int) -> None:
        fraction = batches / trainer.num_training_batches if batches else 0.0  # 0 of infinitely many, too
        p = self.schedule.value(self.p, trainer.current_epoch + fraction, trainer.max_epochs or 0)
        if p != self.now:
            set_p(pl_module, p)
            self.now = p
