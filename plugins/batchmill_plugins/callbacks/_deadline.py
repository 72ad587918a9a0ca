"""Stopping in good time: after so many minutes, before a moment, or when a file appears."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime

from batchmill import ConfigError, TorchBatchProcessorContext, hookimpl


class DeadlineCallback:
    """Asks each worker to stop at the end of the chunk in which the time is over. The run can be resumed.

    Args:
        minutes: Minutes from now.
        at: A moment: seconds since 1970, or ISO 8601 (without a zone: this machine's time).
        margin: Seconds before that moment at which to stop.
        file: A file whose appearance means "stop".
        clock: Tells the seconds since 1970.

    Raises:
        ConfigError: Nothing is given that could end, or a value is out of range.
    """

    def __init__(
        self,
        minutes: float | None = None,
        at: str | float | None = None,
        margin: float = 60.0,
        file: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        if minutes is None and at in (None, "") and not file:
            raise ConfigError(
                "callbacks.deadline has nothing to wait for: set callbacks.deadline.minutes, .at or .file."
            )
        for name, value in (("minutes", minutes), ("margin", margin)):
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"callbacks.deadline.{name} is {value}; expected a number that is not negative.")
        self._clock, self._file = clock, os.path.abspath(os.path.expanduser(file)) if file else ""
        self._ends: list[tuple[float, str]] = []
        if minutes is not None:
            self._ends.append((clock() + 60 * minutes, f"{minutes:g} minutes are over"))
        if at not in (None, ""):
            self._ends.append((_moment(at) - margin, f"it is {margin:g} s before {at}"))

    @hookimpl
    def should_stop(self, context: TorchBatchProcessorContext) -> str | None:
        """Return why to stop now, or None."""
        now = self._clock()
        for end, reason in self._ends:
            if now >= end:
                return f"deadline: {reason}"
        if self._file and os.path.exists(self._file):
            return f"deadline: {self._file} is there"
        return None


def _moment(at: str | float | None) -> float:
    """Return a moment as seconds since 1970."""
    try:
        return float(at)  # type: ignore[arg-type] # None is refused by the caller, and would be here
    except (TypeError, ValueError):
        pass  # not a number, so a date
    try:
        return datetime.fromisoformat(str(at)).timestamp()
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"callbacks.deadline.at is {at!r}; expected seconds since 1970, or a moment as in 2026-01-31T18:30."
        ) from error
