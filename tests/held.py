"""Runs in other processes that wait at gates, so that what happens to them does so while they are on."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from empool.lab.data.sets import Split
from empool.lab.study.run import RunConfig
from empool.lab.train import loop
from empool.lab.watch.progress import Progress

_LONGEST = 120  # seconds after which a test that would wait for ever fails


def at_step(epoch: int, step: int, act: Callable[[], object]) -> None:
    """Act after a step of an epoch, both counted from 1."""
    following = loop._Run._step

    def stepped(self: Any, number: int, batch: int, *images: Any) -> None:
        following(self, number, batch, *images)
        if (number + 1, batch + 1) == (epoch, step):
            act()

    loop._Run._step = stepped  # type: ignore[method-assign]


class Gates:
    """A folder of named pipes: one by which runs say that they wait, and one for each gate, readable once it is open.

    Args:
        folder: a new one.
        epochs: after each of these, in the first step of the next, runs wait.
    """

    def __init__(self, folder: Path, epochs: tuple[int, ...]) -> None:
        self.folder, self.epochs = folder, epochs
        for name in ("waiting", *map(str, epochs)):
            os.mkfifo(folder / name)
        self.waits = os.open(folder / "waiting", os.O_RDWR)
        self.gates = {epoch: os.open(folder / str(epoch), os.O_RDWR) for epoch in epochs}

    def open(self, *epochs: int) -> None:
        """Let the runs that wait there, and those that come later, go on."""
        for epoch in epochs:
            os.write(self.gates[epoch], b".")

    def waiting(self) -> int:
        """Wait for a run to wait, and give its process."""
        assert select.select([self.waits], [], [], _LONGEST)[0], "no run waits"
        return int(os.read(self.waits, 8))

    def hold(self, images: Split) -> Held:
        """Give images at which runs wait."""
        return Held(images.images, images.labels, self.folder, self.epochs)


class Together(Progress):
    """Lets runs that wait go on once two are on."""

    def __init__(self, held: Gates) -> None:
        super().__init__(quiet=True)
        self.held, self.abreast = held, 0

    def started(self, run: RunConfig) -> None:
        super().started(run)
        self.abreast = max(self.abreast, len(self.tasks))
        if self.abreast == 2:
            self.held.open(*self.held.epochs)


@contextlib.contextmanager
def gates(folder: Path, *epochs: int) -> Iterator[Gates]:
    """Make gates, which are open in the end."""
    made = Gates(folder, epochs)
    try:
        yield made
    finally:
        made.open(*epochs)
        for pipe in (made.waits, *made.gates.values()):
            os.close(pipe)


def wait(gate: Path) -> None:
    """Say in a run's process that it waits, and do so until the gate is open, or for SIGTERM, which ends the run."""
    told = os.open(gate.with_name("waiting"), os.O_WRONLY)
    os.write(told, f"{os.getpid():8}".encode())
    os.close(told)
    is_open = os.open(gate, os.O_RDONLY | os.O_NONBLOCK)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    before = signal.set_wakeup_fd(wakes)
    # While a run is on in the main thread, the handler is that of `signals.deferred`, which holds its list.
    held = getattr(signal.getsignal(signal.SIGTERM), "__closure__", None)
    came = held[0].cell_contents if held else []
    try:
        while not came:
            ready, _, _ = select.select([is_open, woken], [], [], _LONGEST)
            assert ready, f"{gate} was not opened"
            if is_open in ready:
                break
            os.read(woken, 1)
    finally:
        signal.set_wakeup_fd(before)
        for pipe in (is_open, woken, wakes):
            os.close(pipe)


@dataclasses.dataclass(frozen=True)
class Held(Split):
    """Images at which runs in other processes wait; see `Gates`."""

    folder: Path
    epochs: tuple[int, ...]

    def __reduce__(self) -> Any:
        return unpacked, (self.images, self.labels, self.folder, self.epochs)


def unpacked(images: Any, labels: Any, folder: Path, epochs: tuple[int, ...]) -> Split:
    """Give a process that does runs its images, and have it wait."""
    for epoch in epochs:
        at_step(epoch + 1, 1, functools.partial(wait, folder / str(epoch)))
    return Split(images, labels)
