"""SIGTERM as an orderly end: schedulers send it some time before they kill."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_Handler = Callable[[int, FrameType | None], object]


class Terminated(KeyboardInterrupt):
    """SIGTERM came; what ends a study on Ctrl-C ends it then too."""


def exit_code(error: KeyboardInterrupt) -> int:
    """Give the exit code of a process ended by a signal, as shells do: 128 and its number."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


@contextmanager
def raised() -> Iterator[None]:
    """Raise `Terminated` as soon as SIGTERM comes."""

    def raise_terminated(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with _handled(raise_terminated):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """Let SIGTERM wait, and raise `Terminated` at the end of the context if it came."""
    came: list[int] = []
    with _handled(lambda number, frame: came.append(number)):
        yield
    if came:
        raise Terminated


@contextmanager
def _handled(handler: _Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # No other can have handlers.
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
