"""Storage and tracker that kill their process before, in or after the n-th thing they change."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import batchmill
from batchmill_plugins.storage._local import LocalStorage
from batchmill_plugins.trackers._sqlite import SqliteTracker

T = TypeVar("T")


class CrashPoint:
    """Counts changes and dies at one of them.

    Args:
        at: The change to die at, counted from 1.
        when: "before", "torn" (a write stays half done) or "after".
    """

    def __init__(self, at: int, when: str) -> None:
        self._at, self._when = at, when
        self._seen = 0
        self._mutex = threading.Lock()

    def pass_through(self, change: Callable[[], T], tear: Callable[[], object] = lambda: None) -> T:
        with self._mutex:
            self._seen += 1
            here = self._seen == self._at
        if here and self._when in ("before", "torn"):
            if self._when == "torn":
                tear()
            os.kill(os.getpid(), signal.SIGKILL)
        value = change()
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return value


# One count for all components of the process.
_point: CrashPoint | None = None


def _shared_point(at: int, when: str) -> CrashPoint:
    global _point
    _point = _point or CrashPoint(at, when)
    return _point


class CrashingStorage(batchmill.Storage):
    """Local storage with a crash point. Reading is not counted: it leaves nothing that could be half done."""

    def __init__(self, url: str, at: int, when: str) -> None:
        self._inner = LocalStorage(url)
        self._point = _shared_point(at, when)
        self.url = self._inner.url

    def put(self, path: str, data: bytes) -> None:
        self._point.pass_through(lambda: self._inner.put(path, data), lambda: self._tear(path, data))

    def put_if_absent(self, path: str, data: bytes) -> bool:
        return self._point.pass_through(lambda: self._inner.put_if_absent(path, data), lambda: self._tear(path, data))

    def delete(self, path: str) -> None:
        self._point.pass_through(lambda: self._inner.delete(path))

    def sync(self, prefix: str) -> None:
        self._point.pass_through(lambda: self._inner.sync(prefix))

    def get(self, path: str) -> bytes:
        return self._inner.get(path)

    def exists(self, path: str) -> bool:
        return self._inner.exists(path)

    def list(self, prefix: str = "") -> Iterator[batchmill.ObjectInfo]:
        return self._inner.list(prefix)

    def list_folders(self, prefix: str = "") -> Any:
        return self._inner.list_folders(prefix)

    def lock(self, path: str) -> Any:
        return self._inner.lock(path)

    def _tear(self, path: str, data: bytes) -> None:
        """Leave what a writer leaves that dies in the middle of its temporary file."""
        folder = (Path(self.url) / path).parent
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".{secrets.token_hex(16)}.tmp").write_bytes(data[: len(data) // 2])


class CrashingTracker(SqliteTracker):
    """The embedded tracker with a crash point at every report."""

    def __init__(self, output: str, at: int, when: str) -> None:
        super().__init__(output)
        self._point = _shared_point(at, when)

    def report(self, record: batchmill.MetricsRecord) -> None:
        self._point.pass_through(lambda: super(CrashingTracker, self).report(record))

    def link_run(self, *arguments: Any, **named: Mapping[str, Any]) -> None:
        self._point.pass_through(lambda: super(CrashingTracker, self).link_run(*arguments, **named))  # type: ignore[arg-type]
