"""Deaths of loader processes: heard of while something is read from them, and at no other moment.

PyTorch tells of them in a signal handler, which raises out of whatever the main thread is doing: out of the processor,
whose sample would take the blame, or out of the engine.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

# Seconds in which a process whose connection broke has ended.
_LAST_MOMENT = 1.0

_TORCH = "torch.utils.data._utils.signal_handling"

_torch_handler: Any = None
_reading = 0
_heard: list[RuntimeError] = []


class LoaderProcesses:
    """The processes of one loader."""

    def __init__(self) -> None:
        self._processes: list[BaseProcess] = []

    @contextmanager
    def started(self) -> Iterator[None]:
        """Watch the processes that are started in the block."""
        before = set(multiprocessing.active_children())
        yield
        self._processes += [child for child in multiprocessing.active_children() if child not in before]
        _listen()

    def died(self) -> bool:
        """Return whether one of them has ended."""
        return any(not process.is_alive() for process in self._processes)

    def what_happened(self, error: Exception) -> tuple[str, str]:
        """Return the name and the text of an error that reading from the loader raised.

        PyTorch's own texts depend on who noticed first, and may be empty.
        """
        if isinstance(error, (OSError, EOFError)):
            # A connection breaks a moment before the process that held it can be seen to be dead.
            connection.wait([process.sentinel for process in self._processes], _LAST_MOMENT)
        for process in self._processes:
            if code := process.exitcode:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return "ProcessDied", f"A loader process {how}."
        if "timed out" in str(error):
            return "Hung", f"A loader process did not come to an end: {error}."
        return type(error).__name__, str(error) or "A loader process ended while it was being read from."

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hear of deaths in the block, and of those of these processes since the last one.

        Raises:
            RuntimeError: A loader process died.
        """
        global _reading
        if _heard and self.died():
            raise _heard.pop()
        _reading += 1
        try:
            yield
        finally:
            _reading -= 1


def _listen() -> None:
    """Step between PyTorch's handler and the signal."""
    global _torch_handler
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", None) == _TORCH:
        _torch_handler = handler
        signal.signal(signal.SIGCHLD, _hear)


def _hear(number: int, frame: FrameType | None) -> None:
    try:
        _torch_handler(number, frame)
    except RuntimeError as error:
        if _reading:
            raise
        _heard[:] = [error]
