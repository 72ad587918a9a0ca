"""Storage in the memory of one process."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from batchmill import ConfigError, ObjectInfo, ObjectNotFoundError, Storage
from batchmill_plugins.storage._paths import check_path, check_prefix

_SCHEME = "memory://"


class _Tree:
    """The objects and held locks of one name."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.objects: dict[str, bytes] = {}
        self.locks: set[str] = set()


# Process-wide, so that a run resumed in the same process finds what it committed before.
_trees: dict[str, _Tree] = {}
_trees_mutex = threading.Lock()


class MemoryStorage(Storage):
    """Named trees of objects that live as long as the process.

    Args:
        url: ``memory://NAME``, with further names behind it as folders: ``memory://NAME/a`` holds the objects
            that ``memory://NAME`` has under ``a/``.

    Raises:
        ConfigError: The URL has another form.
    """

    shared_between_processes = False

    def __init__(self, url: str) -> None:
        if not url.startswith(_SCHEME) or not url.removeprefix(_SCHEME).strip("/"):
            raise ConfigError(f"storage=memory needs an output of the form memory://NAME, but it is {url!r}.")
        name, _, folder = url.removeprefix(_SCHEME).strip("/").partition("/")
        self.url = url.rstrip("/")
        self._base = f"{check_prefix(folder)}/" if folder else ""
        with _trees_mutex:
            self._tree = _trees.setdefault(name, _Tree())

    def put(self, path: str, data: bytes) -> None:
        """See ``Storage.put``."""
        key, kept = self._key(path), bytes(data)
        with self._tree.mutex:
            self._tree.objects[key] = kept

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """See ``Storage.put_if_absent``."""
        key, kept = self._key(path), bytes(data)
        with self._tree.mutex:
            return self._tree.objects.setdefault(key, kept) is kept

    def get(self, path: str) -> bytes:
        """See ``Storage.get``."""
        key = self._key(path)
        with self._tree.mutex:
            if key in self._tree.objects:
                return self._tree.objects[key]
        raise ObjectNotFoundError(f"There is no object {path!r} in {self.url}.")

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ``Storage.list``."""
        for path, size in self._below(prefix):
            yield ObjectInfo(path, size)

    def list_folders(self, prefix: str = "") -> builtins.list[str]:
        """See ``Storage.list_folders``."""
        folder = check_prefix(prefix)
        start = len(folder) + 1 if folder else 0
        rest = (path[start:].partition("/") for path, _ in self._below(prefix))
        return sorted({name for name, slash, _ in rest if slash})

    def delete(self, path: str) -> None:
        """See ``Storage.delete``."""
        key = self._key(path)
        with self._tree.mutex:
            self._tree.objects.pop(key, None)

    def exists(self, path: str) -> bool:
        """See ``Storage.exists``."""
        key = self._key(path)
        with self._tree.mutex:
            return key in self._tree.objects

    @contextmanager
    def lock(self, path: str) -> Iterator[bool]:
        """See ``Storage.lock``; a second holder in this process gets False."""
        key = self._key(path)
        with self._tree.mutex:
            held = key not in self._tree.locks
            self._tree.locks.add(key)
        try:
            yield held
        finally:
            if held:
                with self._tree.mutex:
                    self._tree.locks.discard(key)

    def _key(self, path: str) -> str:
        return self._base + check_path(path)

    def _below(self, prefix: str) -> builtins.list[tuple[str, int]]:
        folder = check_prefix(prefix)
        start = self._base + (f"{folder}/" if folder else "")
        with self._tree.mutex:
            found = [(key, len(data)) for key, data in self._tree.objects.items() if key.startswith(start)]
        return sorted((key[len(self._base) :], size) for key, size in found)
