"""Asking a worker to stop: signals and other requests end in one flag with a reason and a deadline."""

from __future__ import annotations

import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from batchmill.errors import EXIT_PREEMPTED, ConfigError

# Seconds from the request until this process has left; whoever asks usually kills after 30 (torchrun, Kubernetes).
DEFAULT_GRACE = 25.0
GRACE_VARIABLE = "BATCHMILL_GRACE"
# A chunk in progress may use this share of the grace; the rest is for committing what is queued.
_PROCESSING_SHARE = 0.6

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# What ends the watching thread; no signal has this number.
_ENOUGH = b"\0"


class StopFlag:
    """Set once when a worker should stop. Safe to set from a signal handler or another thread.

    Args:
        grace: Seconds from the request until this process should have left.
        clock: Tells the time in seconds.

    Attributes:
        requested: Whether somebody asked.
        reason: Why, for people; None until then.
        interrupted: Whether the request came from the keyboard (SIGINT).
        grace: As given.
    """

    def __init__(self, grace: float = DEFAULT_GRACE, clock: Callable[[], float] = time.monotonic) -> None:
        self.requested = False
        self.reason: str | None = None
        self.interrupted = False
        self.grace, self._clock = grace, clock
        self._deadline = float("inf")
        self._since = 0.0

    def request(self, reason: str, *, now: bool = False) -> None:
        """Ask to stop: finish and commit the chunk in progress if it fits in the grace.

        Args:
            reason: Why, for people.
            now: Drop the chunk in progress.
        """
        # No lock: a signal handler would wait for the very thread that it interrupted. The earlier deadline stands.
        asked = self._clock()
        if not self.requested:
            self._since = asked
        self._deadline = min(self._deadline, asked if now else asked + self.grace * _PROCESSING_SHARE)
        self.reason = self.reason or reason
        self.requested = True

    def elapsed(self) -> float:
        """Return the seconds since the first request; 0 before it."""
        return self._clock() - self._since if self.requested else 0.0

    def overdue(self) -> bool:
        """Return whether the chunk in progress should be dropped."""
        return self._clock() >= self._deadline


def grace_of(environ: Mapping[str, str]) -> float:
    """Return the grace in seconds: ``BATCHMILL_GRACE``, else 25.

    Raises:
        ConfigError: The variable is no positive number.
    """
    given = environ.get(GRACE_VARIABLE, "")
    if not given:
        return DEFAULT_GRACE
    try:
        grace = float(given)
    except ValueError:
        grace = math.nan
    if not 0 < grace < math.inf:
        raise ConfigError(
            f"{GRACE_VARIABLE} is {given!r}; expected the seconds in which a run that is asked to stop has left: a few "
            f"less than the scheduler waits before it kills."
        )
    return grace


def stop_reason(number: int) -> str:
    """Return the reason that a signal gives for a stop."""
    return f"received {signal.Signals(number).name}"


@contextmanager
def stop_on_signals(flag: StopFlag, *, leave: bool = True) -> Iterator[None]:
    """Let SIGTERM, SIGUSR1 and SIGINT set ``flag``; a second SIGINT drops the chunk in progress.

    A thread hears of them at once, also while the main thread is inside a call that does not return to Python. A third
    SIGINT raises KeyboardInterrupt, for user code that never comes back to look at the flag. The handlers of a program
    that embeds Python stay as they are. Outside the main thread, where Python allows no handlers, nothing is installed.

    Args:
        flag: What to set.
        leave: Whether to end the process, with exit code 75, if the block has not ended when the grace after SIGTERM or
            SIGUSR1 is over: somebody is about to kill it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, ear = os.getpid(), _Ear(flag)

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            _handle_in_child(number, before)
            return
        ear.hear(number)
        if ear.interrupts > 2 and number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {number: handler for number in STOP_SIGNALS if (handler := signal.getsignal(number)) is not None}
    watch = _Watch(flag, leave)
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        watch.close()


class _Ear:
    """Turns signals into requests. The handler and the thread have one each, for each hears every signal."""

    def __init__(self, flag: StopFlag) -> None:
        self._flag = flag
        self.interrupts = 0

    def hear(self, number: int) -> None:
        self.interrupts += number == signal.SIGINT
        if self.interrupts:
            self._flag.interrupted = True
        self._flag.request(stop_reason(number), now=number == signal.SIGINT and self.interrupts > 1)


class _Watch:
    """A thread that learns of signals from the interpreter's wake-up pipe, whatever the main thread does."""

    def __init__(self, flag: StopFlag, leave: bool) -> None:
        self._flag, self._leave, self._owner = flag, leave, os.getpid()
        self._ear = _Ear(flag)
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        _watching.append(self)
        self._thread = threading.Thread(target=self._watch, name="batchmill-signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and give the wake-up pipe back to whoever had it."""
        if os.getpid() != self._owner:  # a forked child that leaves the block on its own; its pipe is closed
            return
        _watching.remove(self)
        signal.set_wakeup_fd(self._before, warn_on_full_buffer=False)
        os.write(self._writing, _ENOUGH)
        self._thread.join()
        os.close(self._reading)
        os.close(self._writing)

    def forget(self) -> None:
        """Let go of the pipe in a forked child, whose signals are no business of its parent's."""
        signal.set_wakeup_fd(-1)
        os.close(self._reading)
        os.close(self._writing)

    def _watch(self) -> None:
        end = math.inf
        while True:
            wait = None if end == math.inf else max(0.0, end - time.monotonic())
            if not select.select([self._reading], [], [], wait)[0]:
                self._exit()
            received = os.read(self._reading, 1024)
            heard = received.replace(_ENOUGH, b"")
            for number in heard:
                if number in STOP_SIGNALS:
                    self._ear.hear(number)
                if self._leave and number in (signal.SIGTERM, signal.SIGUSR1):
                    end = min(end, time.monotonic() + self._flag.grace)
            self._pass_on(heard)
            if _ENOUGH in received:
                return

    def _pass_on(self, heard: bytes) -> None:
        """Tell whoever had the wake-up pipe before, such as an event loop."""
        if self._before == -1 or not heard:
            return
        try:
            os.write(self._before, heard)
        except BlockingIOError:  # full, so whoever reads it is awake already
            return

    def _exit(self) -> None:
        told = (
            f"batchmill: {self._flag.reason}, and the work in progress has not come to its end within "
            f"{self._flag.grace:g} s; leaving now. What is committed stays, the same run_id resumes.\n"
        )
        os.write(2, told.encode())
        os._exit(EXIT_PREEMPTED)


_watching: list[_Watch] = []


def _forget_in_child() -> None:
    while _watching:
        _watching.pop().forget()


os.register_at_fork(after_in_child=_forget_in_child)


def _handle_in_child(number: int, before: Mapping[signal.Signals, Any]) -> None:
    """Treat a signal to a forked child as before the run: whoever sends it, as a pool to its processes, means it.

    Loader processes leave drain signals to their worker, from their first moment on.
    """
    import multiprocessing

    target = getattr(multiprocessing.current_process(), "_target", None)
    if getattr(target, "__module__", "").startswith("torch.utils.data."):
        return
    signal.signal(number, before[signal.Signals(number)])
    os.kill(os.getpid(), number)
