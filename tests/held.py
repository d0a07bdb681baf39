"""Runs in other processes that wait for a file, so that what happens to them does so while they are on."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from empool.lab.data.sets import Split
from empool.lab.train import loop


def at_step(epoch: int, step: int, act: Callable[[], object]) -> None:
    """Act after a step of an epoch, both counted from 1."""
    following = loop._Run._step

    def stepped(self: Any, number: int, batch: int, *images: Any) -> None:
        following(self, number, batch, *images)
        if (number + 1, batch + 1) == (epoch, step):
            act()

    loop._Run._step = stepped  # type: ignore[method-assign]


def wait(file: Path) -> None:
    """Wait in a run's process for a file, or for SIGTERM, which ends the run after its step."""
    with contextlib.suppress(OSError):
        file.with_name(f"waiting-{os.getpid()}").touch()
    end = time.monotonic() + 120
    # While a run is on in the main thread, the handler is `signals.Deferred.note`.
    term = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    while not file.exists() and not getattr(term, "came", False):
        assert time.monotonic() < end, f"{file} did not come"
        time.sleep(0.01)


@dataclasses.dataclass(frozen=True)
class Held(Split):
    """Images at which runs in other processes wait.

    Attributes:
        folder: of the files that let them go on.
        epochs: after each of these, in the first step of the next, a run waits for the file of that name.
    """

    folder: Path
    epochs: tuple[int, ...]

    def __reduce__(self) -> Any:
        return unpacked, (self.images, self.labels, self.folder, self.epochs)


def unpacked(images: Any, labels: Any, folder: Path, epochs: tuple[int, ...]) -> Split:
    """Give a process that does runs its images, and have it wait."""
    for epoch in epochs:
        at_step(epoch + 1, 1, functools.partial(wait, folder / str(epoch)))
    return Split(images, labels)
