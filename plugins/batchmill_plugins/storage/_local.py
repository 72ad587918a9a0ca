"""Storage in a folder of a POSIX file system."""

from __future__ import annotations

import builtins
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from batchmill import ConfigError, ObjectInfo, Storage, StorageError
from batchmill_plugins.storage import _new_files, _posix
from batchmill_plugins.storage._file_lock import file_lock, lock_name
from batchmill_plugins.storage._open_folders import OpenFolders
from batchmill_plugins.storage._paths import check_path, check_prefix

_FOLDER_TRIES = 5
Result = TypeVar("Result")
_MODES = ("auto", "private", "umask")


class LocalStorage(Storage):
    """Files below a root folder. A write returns when file and folder entry survive a power loss.

    An object is written under a hidden temporary name in its own folder, fsynced, and then renamed or linked
    to its name, so that no reader ever sees a part of it. What a killed process left unfinished is hidden.

    Permissions follow the root folder: in one that only its owner may enter, files are the owner's alone; in any other
    the umask decides. So whoever opens a run later, by whatever way, writes as who began it.

    Args:
        url: A path or ``file://`` URL. A relative path is taken from the present working directory, once.
        mode: Who may enter a root folder that is made: "private", its owner; "umask", whom the umask lets; "auto", its
            owner, except in a folder that a group may write to.

    Raises:
        ConfigError: It is a URL of another scheme or host, or the mode is none of these.
    """

    def __init__(self, url: str, mode: str = "auto") -> None:
        if mode not in _MODES:
            raise ConfigError(f"storage.mode is {mode!r}; expected {', '.join(_MODES)}.")
        self._mode = mode
        self._private: bool | None = None
        self.url = os.path.abspath(_folder_of(url))
        self._root = os.path.realpath(self.url)
        self._nameless = True
        self._open_folders = OpenFolders()
        self._durable: set[str] = set()
        self._mutex = threading.Lock()

    def put(self, path: str, data: bytes) -> None:
        """See ``Storage.put``."""

        def replace(target: str, private: bool) -> None:
            staged = _new_files.write_temporary(os.path.dirname(target), data, private)
            with _posix.removed_on_error(staged):
                os.rename(staged, target)
            _posix.sync_folder(os.path.dirname(target))

        with _posix.as_storage_error("write", self._shown(path)):
            target = self._locate(path)
            _posix.refuse_special(target)
            self._write(target, replace, names_first=False)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """See ``Storage.put_if_absent``.

        Raises:
            StorageError: The file system has neither hard links nor exclusive rename, or the write failed.
        """
        with _posix.as_storage_error("create", self._shown(path)):
            created = self._create_in_open_folder(path, data)
            if created is None:
                # Who sees the object may rely on it at once, so the names on the way to it come first.
                target = self._locate(path)
                created = self._write(target, partial(self._create, data), names_first=True)
            if not created:
                _posix.refuse_special(self._locate(path))
            return created

    def get(self, path: str) -> bytes:
        """See ``Storage.get``."""
        with _posix.as_storage_error("read", self._shown(path)):
            return _posix.read_file(self._locate(path))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ``Storage.list``. Symbolic links are passed over."""
        folder = check_prefix(prefix)
        start = self._locate(folder) if folder else self._root
        yield from _walk(start, f"{folder}/" if folder else "")

    def list_folders(self, prefix: str = "") -> builtins.list[str]:
        """See ``Storage.list_folders``. A folder without any object is not one."""
        folder = check_prefix(prefix)
        start = self._locate(folder) if folder else self._root
        names = [name.rstrip("/") for name, size in _entries(start) if size is None]
        return [name for name in names if next(_walk(os.path.join(start, name), ""), None) is not None]

    def delete(self, path: str) -> None:
        """See ``Storage.delete``. Folders that become empty are removed with it, but not those right below the root."""
        with _posix.as_storage_error("delete", self._shown(path)):
            target = self._locate(path)
            try:
                os.unlink(target)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return
            folder = os.path.dirname(target)
            while self._root not in (folder, os.path.dirname(folder)) and _posix.removed_if_empty(folder):
                folder = os.path.dirname(folder)

    def sync(self, prefix: str) -> None:
        """See ``Storage.sync``."""
        folder = check_prefix(prefix)
        with _posix.as_storage_error("sync", self._shown(folder)):
            start = self._locate(folder) if folder else self._root
            if not os.path.isdir(start):
                return
            pending = [start]
            while pending:
                current = pending.pop()
                _posix.sync_folder(current)
                folders = [name for name, size in _entries(current) if size is None]
                pending += [os.path.join(current, name.rstrip("/")) for name in folders]

    def exists(self, path: str) -> bool:
        """See ``Storage.exists``."""
        with _posix.as_storage_error("look up", self._shown(path)):
            try:
                return stat.S_ISREG(os.lstat(self._locate(path)).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def lock(self, path: str) -> AbstractContextManager[bool]:
        """See ``Storage.lock``. The lock is a hidden file beside ``path``; it falls when its process dies."""
        with _posix.as_storage_error("lock", self._shown(path)):
            target = self._locate(path)
            self._prepare_folder(os.path.dirname(target))
            return file_lock(os.path.join(os.path.dirname(target), lock_name(os.path.basename(target))))

    def _shown(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url

    def _checked(self, path: str) -> str:
        checked = check_path(path)
        if any(_posix.is_hidden(name) for name in checked.split("/")):
            raise StorageError(f"Path {path!r} has a name that is reserved for unfinished writes and locks.")
        return checked

    def _locate(self, path: str) -> str:
        """Return the absolute path of an object, its folder free of symbolic links and inside the root."""
        folder, _, name = self._checked(path).rpartition("/")
        resolved = f"{self._root.rstrip('/')}/{folder}" if folder else self._root
        if not folder or not _posix.has_link(self._root, folder):
            return os.path.join(resolved, name)
        resolved = os.path.realpath(resolved)
        if os.path.commonpath([resolved, self._root]) != self._root:
            raise StorageError(f"Path {path!r} leads out of {self.url} through a symbolic link, to {resolved}.")
        return os.path.join(resolved, name)

    def _create_in_open_folder(self, path: str, data: bytes) -> bool | None:
        """Create an object in a folder that is kept open; return None if it is not, or is there no longer."""
        folder, _, name = self._checked(path).rpartition("/")
        directory = self._open_folders.get(folder)
        if directory is None:
            return None
        created = _new_files.create_nameless(directory, name, data, bool(self._private))
        if created is None:  # somebody removed the folder, and perhaps made another one
            self._open_folders.forget(folder)
        return created

    def _create(self, data: bytes, target: str, private: bool) -> bool:
        folder, name = os.path.split(target)
        if self._nameless:
            created, kept = None, False
            directory = _new_files.open_folder(folder)
            try:
                created = _new_files.create_nameless(directory, name, data, private)
                if created and os.path.dirname(folder) == self._root:
                    kept = self._open_folders.keep(os.path.basename(folder), directory)
            finally:
                if not kept:
                    os.close(directory)
            if created is not None:
                return created
            self._nameless = False
        staged = _new_files.write_temporary(folder, data, private)
        with _posix.removed_on_error(staged):
            created = _new_files.publish_exclusively(staged, target)
        _posix.sync_folder(folder)
        return created

    def _write(self, target: str, write: Callable[[str, bool], Result], names_first: bool) -> Result:
        """Call ``write(target, private)`` with the folder there, and make the folder's name durable before or after.

        After is cheaper: the file's own fsync has written the journal by then, with the new folder in it.
        """
        folder = os.path.dirname(target)
        for tries in range(_FOLDER_TRIES):
            private = self._prepare_folder(folder)
            try:
                if names_first:
                    self._make_names_durable(folder)
                result = write(target, private)
                if not names_first:
                    self._make_names_durable(folder)
            except FileNotFoundError:  # a delete elsewhere removed the empty folder between two steps
                with self._mutex:
                    self._durable.discard(folder)
                if tries == _FOLDER_TRIES - 1:
                    raise
            else:
                return result
        raise AssertionError("the last try returns or raises")

    def _prepare_folder(self, folder: str) -> bool:
        """Create ``folder`` where needed; return whether it is private."""
        with self._mutex:
            if self._private is not None and folder in self._durable:
                return self._private
            if os.path.isdir(self._root):
                self._private = _posix.is_private(self._root)
            else:
                self._private = self._mode == "private" or (self._mode == "auto" and not _posix.is_shared(self._root))
            _posix.make_folders(folder, self._root, self._private)
            return self._private

    def _make_names_durable(self, folder: str) -> None:
        if folder in self._durable:
            return
        if self._root not in self._durable:
            # Once is enough, but not only if the root is new: its creator may have died before its own fsync.
            _posix.make_path_durable(self._root)
        _posix.make_names_durable(folder, self._root, self._durable)
        # Only what nobody removes is remembered: a folder further down may go, and be made anew by someone who dies.
        names = folder.removeprefix(self._root).strip("/").split("/")
        with self._mutex:
            self._durable |= {self._root, os.path.join(self._root, names[0])}


def _folder_of(url: str) -> str:
    if not url:
        raise ConfigError("storage=local needs a folder as output, but it is empty.")
    scheme, separator, _ = url.partition("://")
    if not separator:
        return url
    parts = urlsplit(url)
    if scheme != "file":
        raise ConfigError(
            f"storage=local needs a path or a file:// URL as output, but it is {url!r}. "
            f"Choose the storage that serves {scheme}:// URLs."
        )
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise ConfigError(f"{url!r} names a file on another host; a local one is written file:///folder.")
    return unquote(parts.path)


def _walk(folder: str, prefix: str) -> Iterator[ObjectInfo]:
    for name, size in _entries(folder):
        if size is None:
            yield from _walk(os.path.join(folder, name.rstrip("/")), prefix + name)
        else:
            yield ObjectInfo(prefix + name, size)


def _entries(folder: str) -> list[tuple[str, int | None]]:
    """Return names and sizes of a folder's files, and the names of its folders (ending in ``/``) with None.

    The trailing slash makes the order that of whole paths: ``a-b`` stands before ``a/b``.
    """
    found: list[tuple[str, int | None]] = []
    with _posix.as_storage_error("list", folder):
        try:
            entries = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    found.append((f"{entry.name}/", None))
                elif entry.is_file(follow_symlinks=False) and not _posix.is_hidden(entry.name):
                    try:
                        found.append((entry.name, entry.stat(follow_symlinks=False).st_size))
                    except FileNotFoundError:  # deleted since the folder was read
                        continue
    return sorted(found)
