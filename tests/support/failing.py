"""Storage that fails: a share of its calls, in every way that stores on a network do."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import batchmill
from batchmill_plugins.storage._local import LocalStorage

T = TypeVar("T")

# What happens to a call that fails: nothing is done, or it is done and the answer is lost.
FAULTS = {
    "503": "before",
    "connection reset": "before",
    "409": "before",
    "time-out": "after",
    "connection closed": "after",
    "500": "after",
}


class FailingStorage(batchmill.Storage):
    """Local storage of which a share of all calls fails.

    A create that was applied and whose answer was lost is repeated, as clients of object stores do by themselves, and
    then finds its own object: 412, "there already".

    Args:
        url: The run's folder.
        share: Share of calls that fail.
        seed: Of the dice; each process throws its own.
        hang: Seconds that a call hangs, in one of twenty of those that fail.
        told: File that gets a line for every fault.
        broken: Name of a method that fails each time; empty for none.
    """

    def __init__(
        self, url: str, share: float = 0.0, seed: int = 0, hang: float = 0.0, told: str = "", broken: str = ""
    ) -> None:
        self._inner = LocalStorage(url)
        self.url = self._inner.url
        self._share, self._hang, self._told, self._broken = share, hang, told, broken
        self._dice = random.Random(f"{seed} {os.getpid()}")
        self._mutex = threading.Lock()

    def put(self, path: str, data: bytes) -> None:
        self._call("put", path, lambda: self._inner.put(path, data))

    def put_if_absent(self, path: str, data: bytes) -> bool:
        return self._call("create", path, lambda: self._inner.put_if_absent(path, data), repeated=True)

    def get(self, path: str) -> bytes:
        return self._call("get", path, lambda: self._inner.get(path))

    def exists(self, path: str) -> bool:
        return self._call("look up", path, lambda: self._inner.exists(path))

    def delete(self, path: str) -> None:
        self._call("delete", path, lambda: self._inner.delete(path))

    def list(self, prefix: str = "") -> Iterator[batchmill.ObjectInfo]:
        yield from self._call("list", prefix, lambda: [*self._inner.list(prefix)])

    def list_folders(self, prefix: str = "") -> Any:
        return self._inner.list_folders(prefix)

    def sync(self, prefix: str) -> None:
        self._call("sync", prefix, lambda: self._inner.sync(prefix))

    def lock(self, path: str) -> Any:
        return self._inner.lock(path)

    def _call(self, action: str, path: str, call: Callable[[], T], repeated: bool = False) -> T:
        if action == self._broken:
            raise batchmill.StorageError(f"Could not {action} {path}: 503 Service Unavailable.")
        with self._mutex:
            fails, hangs = self._dice.random() < self._share, self._hang and self._dice.random() < 0.05
            fault = self._dice.choice([*FAULTS, *["412"] * len(FAULTS)] if repeated else list(FAULTS))
        if not fails:
            return call()
        if hangs:
            self._tell(f"{action} hang")
            time.sleep(self._hang)
        self._tell(f"{action} {fault}")
        if fault == "412":
            call()
            return call()
        if FAULTS[fault] == "after":
            call()
        raise batchmill.StorageError(f"Could not {action} {path}: {fault}.")

    def _tell(self, line: str) -> None:
        if self._told:
            with open(self._told, "a") as file:
                file.write(f"{line}\n")


def faults_told(file: Path) -> Counter[str]:
    """Return how often each fault was injected."""
    return Counter(file.read_text().splitlines() if file.exists() else [])
