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
)


def _kernel() -> Kernel:
    return active().world  # type: ignore[return-value]  # local storage is used in worlds with a kernel only


class _Entry:
    """What ``os.scandir`` yields."""

    def __init__(self, name: str, path: str, node: File | Folder) -> None:
        self.name, self._path, self._node = name, path, node

    def is_dir(self, follow_symlinks: bool = True) -> bool:
        return isinstance(self._node, Folder)

    def is_file(self, follow_symlinks: bool = True) -> bool:
        return isinstance(self._node, File)

    def stat(self, follow_symlinks: bool = True) -> Any:
        return _lstat(self._path)


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


def _status(node: File | Folder) -> Any:
    mode, size = (stat.S_IFREG, len(node.data)) if isinstance(node, File) else (stat.S_IFDIR, 0)
    device = 0 if node is _kernel().root else 1  # what lies below the root is a mounted file system
    return SimpleNamespace(st_mode=mode | 0o644, st_size=size, st_ino=node.number, st_dev=device)


def _lstat(path: str) -> Any:
    node = _kernel().find(path)
    if node is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return _status(node)


def _scandir(path: str) -> _Scan:
    return _Scan([_Entry(name, f"{path}/{name}", node) for name, node in _kernel().entries(path)])


def make_os() -> SimpleNamespace:
    """Return the stand-in for ``os``."""
    path = SimpleNamespace(
        join=posixpath.join,
        dirname=posixpath.dirname,
        basename=posixpath.basename,
        commonpath=posixpath.commonpath,
        abspath=posixpath.normpath,
        realpath=posixpath.normpath,  # there are no symbolic links, and no relative paths
        isdir=lambda path: isinstance(_kernel().find(path), Folder),
        samestat=lambda one, other: one.st_ino == other.st_ino,
    )
    return SimpleNamespace(
        path=path,
        open=lambda path, flags, mode=0o777: _kernel().open(path, flags, mode),
        close=lambda descriptor: _kernel().close(descriptor),
        write=lambda descriptor, data: _kernel().write(descriptor, data),
        fsync=lambda descriptor: _kernel().fsync(descriptor),
        link=lambda source, target: _kernel().link(source, target),
        rename=lambda source, target: _kernel().rename(source, target),
        unlink=lambda path: _kernel().unlink(path),
        mkdir=lambda path: _kernel().mkdir(path),
        rmdir=lambda path: _kernel().rmdir(path),
        scandir=_scandir,
        lstat=_lstat,
        fstat=lambda descriptor: _status(_kernel().node_of(descriptor)),
        strerror=os.strerror,
        **{name: getattr(os, name) for name in _CONSTANTS},
    )


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
