"""Stand-ins for the modules through which first-party storage reaches the outside: ``os`` and ``obstore``.

Only what storage uses is there. A new use of the real modules fails loudly instead of passing the simulation by.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from obstore.exceptions import AlreadyExistsError

from .kernel import File, Folder, Kernel
from .object_server import ObjectServer
from .runtime import active

_CONSTANTS = (
    "O_RDONLY",
    "O_WRONLY",
    "O_CREAT",
    "O_EXCL",
    "O_TRUNC",
    "O_NOFOLLOW",
    "O_CLOEXEC",
    "O_DIRECTORY",
    "O_NONBLOCK",
    "O_TMPFILE",
)


class _Status:
    """What ``os.lstat`` returns."""

    __slots__ = ("st_dev", "st_ino", "st_mode", "st_size")

    def __init__(self, node: File | Folder, is_root: bool) -> None:
        self.st_ino, self.st_dev = node.number, 0 if is_root else 1  # below the root is a mounted file system
        if isinstance(node, File):
            self.st_mode, self.st_size = stat.S_IFREG | 0o644, len(node.data)
        else:
            self.st_mode, self.st_size = stat.S_IFDIR | 0o755, 0


class _Entry:
    """What ``os.scandir`` yields."""

    def __init__(self, name: str, path: str, node: File | Folder, kernel: Kernel) -> None:
        self.name, self._path, self._node, self._kernel = name, path, node, kernel

    def is_dir(self, follow_symlinks: bool = True) -> bool:
        return isinstance(self._node, Folder)

    def is_file(self, follow_symlinks: bool = True) -> bool:
        return isinstance(self._node, File)

    def stat(self, follow_symlinks: bool = True) -> _Status:
        return _lstat(self._kernel, self._path)


class _Scan:
    """What ``os.scandir`` returns."""

    def __init__(self, entries: list[_Entry]) -> None:
        self._entries = entries

    def __enter__(self) -> _Scan:
        return self

    def __iter__(self) -> Iterator[_Entry]:
        return iter(self._entries)

    def __exit__(self, *error: object) -> None:
        return None


def _lstat(kernel: Kernel, path: str) -> _Status:
    node = kernel.find(path)
    if node is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return _Status(node, node is kernel.root)


# These work on texts alone, and are called with few different ones.
_PATH = SimpleNamespace(
    join=lru_cache(posixpath.join),
    dirname=lru_cache(posixpath.dirname),
    basename=lru_cache(posixpath.basename),
    commonpath=lambda paths: _commonpath(*paths),
    abspath=lru_cache(posixpath.normpath),
    realpath=lru_cache(posixpath.normpath),  # there are no symbolic links, and no relative paths
    samestat=lambda one, other: one.st_ino == other.st_ino,
    split=lru_cache(posixpath.split),
)
# The stand-in for ``os``; the calls are those of the kernel that was mounted last.
_NOTHING_FREE = SimpleNamespace(f_bavail=0, f_frsize=4096, f_favail=0)
OS = SimpleNamespace(
    path=_PATH,
    strerror=os.strerror,
    statvfs=lambda path: _NOTHING_FREE,
    **{name: getattr(os, name) for name in _CONSTANTS},
)


@lru_cache(maxsize=4096)
def _commonpath(*paths: str) -> str:
    return posixpath.commonpath(paths)


def mount(kernel: Kernel) -> None:
    """Let ``OS`` be the door to this kernel."""
    _PATH.isdir = lambda path: isinstance(kernel.find(path), Folder)
    for call in ("open", "close", "write", "fsync", "link", "rename", "unlink", "mkdir", "rmdir"):
        setattr(OS, call, getattr(kernel, call))

    def scandir(path: str) -> _Scan:
        return _Scan([_Entry(name, f"{path}/{name}", node, kernel) for name, node in kernel.entries(path)])

    OS.scandir = scandir
    OS.lstat = lambda path, dir_fd=None: _lstat(kernel, path if dir_fd is None else kernel.path_in(dir_fd, path))
    OS.fstat = lambda descriptor: _Status(kernel.node_of(descriptor), False)


def _kernel() -> Kernel:
    kernel = active().world
    assert isinstance(kernel, Kernel), "local storage is used in worlds with a kernel only"
    return kernel


def open_descriptor(descriptor: int, mode: str, closefd: bool) -> io.BytesIO:
    """Stand in for ``open`` of a descriptor, for reading."""
    assert mode == "rb" and not closefd
    return io.BytesIO(_kernel().read(descriptor))


def rename_exclusively(source: str, target: str) -> bool:
    """Stand in for ``renameat2`` with RENAME_NOREPLACE, on file systems without hard links."""
    try:
        _kernel().rename(source, target, exclusive=True)
    except FileExistsError:
        return False
    return True


@contextmanager
def file_lock(path: str) -> Iterator[bool]:
    """Stand in for the advisory lock: held by one live process, gone with it."""
    simulation = active()
    holder = simulation.locks.get(path)
    if holder is not None and holder.alive and not simulation.locks_broken:
        yield False
        return
    process = simulation.current_process()
    simulation.locks[path] = process
    try:
        yield True
    finally:
        if simulation.locks.get(path) is process:
            del simulation.locks[path]


def make_obstore() -> SimpleNamespace:
    """Return the stand-in for ``obstore``; the store it is given is an ``ObjectServer``."""

    def put(store: ObjectServer, path: str, data: bytes, mode: str = "overwrite", use_multipart: bool = False) -> None:
        if not store.put(path, bytes(data), exclusive=mode == "create"):
            raise AlreadyExistsError(f"412 Precondition Failed: {path}")

    def get(store: ObjectServer, path: str) -> Any:
        data = store.get(path)
        return SimpleNamespace(bytes=lambda: SimpleNamespace(to_bytes=lambda: data))

    def list_pages(store: ObjectServer, prefix: str | None, chunk_size: int) -> list[list[dict[str, Any]]]:
        return [[{"path": path, "size": size} for path, size in store.list(f"{prefix}/" if prefix else "")]]

    return SimpleNamespace(
        put=put,
        get=get,
        list=list_pages,
        head=lambda store, path: store.head(path),
        delete=lambda store, path: store.delete(path),
    )
