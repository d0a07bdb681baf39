"""SIGTERM as an orderly end: schedulers send it some time before they kill."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came; what ends a study on Ctrl-C ends it then too."""


def exit_code(error: KeyboardInterrupt) -> int:
    """Give the exit code of a process ended by a signal, as shells do: 128 and its number."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


@contextmanager
def handled(
    handler: Callable[[int, FrameType | None], object] | int | None, number: int = signal.SIGTERM
) -> Iterator[None]:
    """Handle a signal in another way to the end of the context, where the handler before it is given back."""
    if threading.current_thread() is not threading.main_thread():  # No other can have handlers.
        yield
        return
    before = signal.signal(number, signal.SIG_DFL if handler is None else handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL if before is None else before)


@contextmanager
def raised() -> Iterator[None]:
    """Raise `Terminated` as soon as SIGTERM comes."""

    def raise_terminated(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with handled(raise_terminated):
        yield


@contextmanager
def deferred() -> Iterator[list[int]]:
    """Note in a list that SIGTERM came, and raise `Terminated` at the end of the context if it did."""
    came: list[int] = []
    with handled(lambda number, frame: came.append(number)):
        yield came
    if came:
        raise Terminated
