"""Storage methods that leave a step out, or do it in another way; used by mutants only."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import batchmill_plugins.storage._new_files as new_files
import batchmill_plugins.storage._posix as posix
from batchmill_plugins.storage._local import LocalStorage
from batchmill_plugins.storage._object_store import ObjectStorage

from .runtime import active

Affected = Callable[[str], bool]
Publish = Callable[[str, str], bool]

_real_put, _real_put_if_absent = LocalStorage.put, LocalStorage.put_if_absent
_real_objects_put, _real_objects_put_if_absent = ObjectStorage.put, ObjectStorage.put_if_absent


def parts(path: str) -> bool:
    """Whether a path is that of a part."""
    return path.startswith("parts/")


def records(path: str) -> bool:
    """Whether a path is that of a commit record."""
    return path.startswith("commits/")


def ends(path: str) -> bool:
    """Whether a path is that of a result."""
    return path in ("result.json", "_SUCCESS")


def manifest(path: str) -> bool:
    """Whether a path is that of ``run.json``."""
    return path == "run.json"


def nothing(*arguments: Any, **named: Any) -> None:
    """Do nothing at all."""


def put(affected: Affected, *, contents: bool = True, name: bool = True) -> Callable[..., None]:
    """Return a ``put`` that leaves out the fsync of contents or of the name, for affected paths."""

    def broken_put(self: LocalStorage, path: str, data: bytes) -> None:
        if not affected(path):
            _real_put(self, path, data)
            return

        def replace(target: str, private: bool) -> None:
            posix.os.rename(_stage(target, data, contents), target)
            if name:
                posix.sync_folder(os.path.dirname(target))

        with posix.as_storage_error("write", path):
            self._write(self._locate(path), replace, names_first=False)

    return broken_put


def put_if_absent(
    affected: Affected, *, contents: bool = True, name: bool = True, publish: Publish | None = None
) -> Callable[..., bool]:
    """Return a ``put_if_absent`` that leaves out an fsync, or publishes in another way, for affected paths."""

    def broken_put_if_absent(self: LocalStorage, path: str, data: bytes) -> bool:
        if not affected(path):
            return _real_put_if_absent(self, path, data)

        def create(target: str, private: bool) -> bool:
            created = (publish or new_files.publish_exclusively)(_stage(target, data, contents), target)
            if name:
                posix.sync_folder(os.path.dirname(target))
            return created

        with posix.as_storage_error("create", path):
            return self._write(self._locate(path), create, names_first=True)

    return broken_put_if_absent


def by_rename(staged: str, target: str) -> bool:
    """Publish by rename, which replaces what is there."""
    posix.os.rename(staged, target)
    return True


def by_checked_rename(staged: str, target: str) -> bool:
    """Look first, and then publish by rename."""
    try:
        posix.os.close(posix.os.open(target, os.O_RDONLY))
    except FileNotFoundError:
        return by_rename(staged, target)
    posix.os.unlink(staged)
    return False


def locked_put_if_absent(self: LocalStorage, path: str, data: bytes) -> bool:
    """Overwrite where this launch holds the lock."""
    simulation = active()
    ours = any(holder.group == simulation.current_process().group for holder in simulation.locks.values())
    if ours and records(path):
        _real_put(self, path, data)
        return True
    return _real_put_if_absent(self, path, data)


def create_in_place(self: LocalStorage, path: str, data: bytes) -> bool:
    """Create records under their final name, and then write them piece by piece."""
    if not records(path):
        return _real_put_if_absent(self, path, data)

    def create(target: str, private: bool) -> bool:
        try:
            _write(target, data, os.O_CREAT | os.O_EXCL, synced=True)
        except FileExistsError:
            return False
        posix.sync_folder(os.path.dirname(target))
        return True

    with posix.as_storage_error("create", path):
        return self._write(self._locate(path), create, names_first=True)


def write_shared_temporary(folder: str, data: bytes, private: bool) -> str:
    """Write under a temporary name that is the same for everyone."""
    path = f"{folder}/.{'0' * 32}.tmp"
    _write(path, data, os.O_CREAT | os.O_TRUNC, synced=True)
    return path


def put_in_place(self: LocalStorage, path: str, data: bytes) -> None:
    """Write parts under their final name, piece by piece."""
    if not parts(path):
        _real_put(self, path, data)
        return

    def replace(target: str, private: bool) -> None:
        _write(target, data, os.O_CREAT | os.O_TRUNC, synced=True)
        posix.sync_folder(os.path.dirname(target))

    with posix.as_storage_error("write", path):
        self._write(self._locate(path), replace, names_first=False)


def put_after_torn_part(self: LocalStorage, path: str, data: bytes) -> None:
    """Leave a torn part under a name that nobody will ever use, and then put as usual."""
    if parts(path):
        with posix.as_storage_error("write", path):
            torn = self._locate(f"{path}.{new_files.secrets.token_hex(4)}")
            self._prepare_folder(os.path.dirname(torn))
            _write(torn, data[: len(data) // 2], os.O_CREAT, synced=False)
    _real_put(self, path, data)


def put_objects_after_torn_part(self: ObjectStorage, path: str, data: bytes) -> None:
    """See ``put_after_torn_part``."""
    if parts(path):
        _real_objects_put(self, f"{path}.{active().token_hex(4)}", data[: len(data) // 2])
    _real_objects_put(self, path, data)


def overwriting_objects(affected: Affected) -> Callable[..., bool]:
    """Return a ``put_if_absent`` that forgets the condition, for affected paths."""

    def broken_put_if_absent(self: ObjectStorage, path: str, data: bytes) -> bool:
        if not affected(path):
            return _real_objects_put_if_absent(self, path, data)
        _real_objects_put(self, path, data)
        return True

    return broken_put_if_absent


def checked_objects(affected: Affected) -> Callable[..., bool]:
    """Return a ``put_if_absent`` that looks first and then puts, for affected paths."""

    def broken_put_if_absent(self: ObjectStorage, path: str, data: bytes) -> bool:
        if not affected(path):
            return _real_objects_put_if_absent(self, path, data)
        if self.exists(path):
            return False
        _real_objects_put(self, path, data)
        return True

    return broken_put_if_absent


def write_unsynced(descriptor: int, data: bytes) -> None:
    """Write a new file without its fsync."""
    while data:
        data = data[posix.os.write(descriptor, data) :]


def _stage(target: str, data: bytes, synced: bool) -> str:
    folder = os.path.dirname(target)
    if synced:
        return new_files.write_temporary(folder, data, False)
    staged = f"{folder}/.{new_files.secrets.token_hex(16)}.tmp"
    _write(staged, data, os.O_CREAT | os.O_EXCL, synced=False)
    return staged


def _write(path: str, data: bytes, flags: int, synced: bool) -> None:
    descriptor = posix.os.open(path, os.O_WRONLY | flags)
    try:
        half = len(data) // 2
        for piece in (data[:half], data[half:]):
            while piece:
                piece = piece[posix.os.write(descriptor, piece) :]
        if synced:
            posix.os.fsync(descriptor)
    finally:
        posix.os.close(descriptor)
