"""Asking a worker to stop: signals and other requests end in one flag with a reason and a deadline."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Seconds between the request and the moment when whoever asked will kill us; the usual grace of torchrun and
# Kubernetes is 30 s.
DEFAULT_GRACE = 25.0
# A chunk in progress may use this share of the grace; the rest is for committing what is queued.
_PROCESSING_SHARE = 0.6

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopFlag:
    """Set once when a worker should stop. Safe to set from a signal handler or another thread.

    Attributes:
        requested: Whether somebody asked.
        reason: Why, for people; None until then.
        interrupted: Whether the request came from the keyboard (SIGINT).
    """

    def __init__(self, grace: float = DEFAULT_GRACE, clock: Callable[[], float] = time.monotonic) -> None:
        self.requested = False
        self.reason: str | None = None
        self.interrupted = False
        self._grace, self._clock = grace, clock
        self._deadline = float("inf")
        self._since = 0.0

    def request(self, reason: str, *, now: bool = False) -> None:
        """Ask to stop: finish and commit the chunk in progress if it fits in the grace.

        Args:
            reason: Why, for people.
            now: Drop the chunk in progress.
        """
        if not self.requested:
            self._since = self._clock()
        if now:
            self._deadline = self._clock()
        elif not self.requested:
            self._deadline = self._clock() + self._grace * _PROCESSING_SHARE
        self.reason = self.reason or reason
        self.requested = True

    def elapsed(self) -> float:
        """Return the seconds since the first request; 0 before it."""
        return self._clock() - self._since if self.requested else 0.0

    def overdue(self) -> bool:
        """Return whether the chunk in progress should be dropped."""
        return self._clock() >= self._deadline


def stop_reason(number: int) -> str:
    """Return the reason that a signal gives for a stop."""
    return f"received {signal.Signals(number).name}"


@contextmanager
def stop_on_signals(flag: StopFlag) -> Iterator[None]:
    """Let SIGTERM, SIGUSR1 and SIGINT set ``flag``; a second SIGINT drops the chunk in progress.

    A third SIGINT raises KeyboardInterrupt, for user code that never comes back to look at the flag. The handlers of
    a program that embeds Python stay as they are. Outside the main thread, where Python allows no handlers, nothing
    is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        flag.interrupted = interrupts > 0
        flag.request(stop_reason(number), now=number == signal.SIGINT and interrupts > 1)
        if number == signal.SIGINT and interrupts > 2:
            raise KeyboardInterrupt

    before = {number: handler for number in STOP_SIGNALS if (handler := signal.getsignal(number)) is not None}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
