"""What storage promises to the commit protocol: few operations, each with exact words on durability."""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object: its path relative to the storage's root (``/`` between names) and its size in bytes."""

    path: str
    size: int


class Storage(ABC):
    """A tree of objects below one root (a directory or a URL prefix). Safe to use from several threads.

    Paths are relative, use ``/`` and never leave the root. Every error that is not "not there" is raised as
    ``StorageError`` with the path and the cause.
    """

    url: str
    """The root as a path or URL, as shown to people and accepted by ``batchmill show``."""

    exclusive_create: bool = True
    """Whether ``put_if_absent`` lets exactly one of many writers win. The engine refuses to run without it."""

    shared_between_processes: bool = True
    """Whether other processes that open the same URL see the same objects."""

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Store ``data`` under ``path``, replacing what was there, atomically and durably.

        When it returns, the object survives a power loss; nobody ever sees a part of it.
        """

    @abstractmethod
    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Store ``data`` under ``path`` unless something is there, atomically and durably.

        Returns:
            True if this call created the object, False if it was there already. Either way it is durable now.

        Raises:
            StorageError: The answer is unclear (time-out, connection lost); the object may exist. The commit log
                settles it by reading back.
        """

    @abstractmethod
    def get(self, path: str) -> bytes:
        """Return the object's bytes.

        Raises:
            ObjectNotFoundError: There is no such object.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield all objects below the folder ``prefix`` (recursively), sorted by path; unfinished writes are hidden."""

    @abstractmethod
    def list_folders(self, prefix: str = "") -> builtins.list[str]:
        """Return the sorted names (not paths) of the folders directly below the folder ``prefix``."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove the object; nothing happens if it is not there."""

    def sync(self, prefix: str) -> None:  # noqa: B027 - most stores are durable per object
        """Make the names below the folder ``prefix`` durable, where that is a step of its own (POSIX directories)."""

    def exists(self, path: str) -> bool:
        """Return whether there is an object under ``path``."""
        from batchmill.errors import ObjectNotFoundError

        try:
            self.get(path)
        except ObjectNotFoundError:
            return False
        return True

    def lock(self, path: str) -> AbstractContextManager[bool]:
        """Return a context manager that yields whether this process now holds the advisory lock ``path``.

        A lock is comfort (it tells a second launcher that the run is being worked on); safety never depends on it.
        Storage that cannot lock yields True.
        """
        return nullcontext(True)
