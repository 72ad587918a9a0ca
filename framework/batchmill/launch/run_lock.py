"""Tells a second launcher that a run is being worked on. Comfort only: safety never depends on it."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Self

from batchmill.contracts.storage import Storage
from batchmill.engine.run_directory import LOCK
from batchmill.errors import AlreadyRunningError


class RunLock(AbstractContextManager["RunLock"]):
    """Held by a run's launcher from the time the run is open until it leaves.

    Args:
        join: Work beside another launcher instead of refusing.
    """

    def __init__(self, join: bool) -> None:
        self._join = join
        self._stack = ExitStack()

    def take(self, storage: Storage) -> None:
        """Take the lock of a run.

        Args:
            storage: The run's storage.

        Raises:
            AlreadyRunningError: Another launcher holds it, and ``join`` was not asked for.
        """
        if not self._stack.enter_context(storage.lock(LOCK)) and not self._join:
            raise AlreadyRunningError(
                f"Another launcher is working on run {storage.url}. Wait for it, or set join=true to work beside it "
                f"(that is safe: each chunk is committed once)."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
