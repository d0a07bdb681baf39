"""SIGTERM as an orderly end: schedulers send it some time before they kill."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_Handler = Callable[[int, FrameType | None], object] | int | None


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


class Deferred:
    """Notes that SIGTERM came."""

    came = False  # or, if that is set, to a process that ends together with this one

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        self.came = True


@contextmanager
def deferred() -> Iterator[Deferred]:
    """Let SIGTERM wait, and raise `Terminated` at the end of the context if it came."""
    term = Deferred()
    with _handled(term.note):
        yield term
    if term.came:
        raise Terminated


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore SIGTERM: what it would end is ending."""
    with _handled(signal.SIG_IGN):
        yield


@contextmanager
def kept() -> Iterator[None]:
    """Give the handler of SIGTERM back at the end of the context."""
    with _handled(signal.getsignal(signal.SIGTERM)):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C, as processes that are started in the context will: the terminal sends it to them too."""
    with _handled(signal.SIG_IGN, signal.SIGINT):
        yield


@contextmanager
def _handled(handler: _Handler, number: int = signal.SIGTERM) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # No other can have handlers.
        yield
        return
    before = signal.signal(number, signal.SIG_DFL if handler is None else handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL if before is None else before)
