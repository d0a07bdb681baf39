"""What a process that does a run tells the process of the study."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping

from empool.lab.study.run import RunConfig

_PAUSE = 0.5  # seconds between two words within an epoch


class Words(ABC):
    """Tells how far a run is, not more often than there is someone to look; what `fit` takes to watch it."""

    def __init__(self) -> None:
        self.said = 0.0

    @abstractmethod
    def say(self, *words: object) -> None:
        """Say it, if there is anyone to hear."""

    def __call__(self, epochs: float, row: Mapping[str, float | None] | None) -> None:
        now = time.monotonic()
        if row is not None or now - self.said > _PAUSE:
            self.said = now
            self.say("advanced", epochs, row)


def named(config: RunConfig) -> str:
    """Name a run of a study."""
    return f"{config.pooling}, seed {config.seed}"
