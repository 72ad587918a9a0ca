"""A model of a POSIX file system that keeps apart what is visible and what survives a power loss.

Writes, names and removals are visible at once to every process. They are durable only after the ``fsync`` that POSIX
asks for: of the file for its contents, of the folder for a name in it. At a power loss each change that was not made
durable is kept or lost as the seed decides, one by one, which is harsher than any real file system.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Protocol


class SystemCalls(Protocol):
    """What may interfere with a system call."""

    def enter(self, call: str, path: str) -> None:
        """Let others come first; raise ``OSError`` in place of the call."""

    def leave(self, call: str, path: str) -> None:
        """Raise ``OSError`` although the call was carried out."""

    def written(self, size: int) -> int:
        """Return how many of ``size`` bytes a write takes."""


class File:
    """A regular file: its visible contents, and those at the last ``fsync``."""

    __slots__ = ("data", "number", "synced")
    names: ClassVar[Mapping[str, Any]] = {}  # there is nothing below a file

    def __init__(self, number: int) -> None:
        self.number = number
        self.data = b""
        self.synced: bytes | None = None


class Folder:
    """A directory: its visible names, those at the last ``fsync``, and the changes between, in order."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.names: dict[str, File | Folder] = {}
        self.durable: dict[str, File | Folder] = {}
        self.pending: list[tuple[str, File | Folder | None]] = []

    def sync(self) -> None:
        self.durable = dict(self.names)
        self.pending.clear()


class Kernel:
    """The file system of one machine, and the calls that ``batchmill_plugins.storage`` makes.

    Args:
        calls: Interferes with calls.
        changed: Told of each name given to or taken from a node: path, old node, new node.
        hard_links: Whether the file system has them.
        nameless: Whether it has files without names (O_TMPFILE).
    """

    def __init__(
        self,
        calls: SystemCalls,
        changed: Callable[[str, object, object], None],
        hard_links: bool = True,
        nameless: bool = True,
    ) -> None:
        self._calls, self._changed, self._hard_links, self._nameless = calls, changed, hard_links, nameless
        self._numbers = 1
        self.root = Folder(0)
        self._open: dict[int, tuple[File | Folder, str]] = {}

    def open(self, path: str, flags: int, mode: int = 0o777, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            return self._open_nameless(path, dir_fd)
        if flags & os.O_CREAT:
            self._calls.enter("create", path)
        elif not flags & os.O_DIRECTORY:  # of a folder, opening it and what follows are one step
            self._calls.enter("read", path)
        node = self.find(path)
        if node is None:
            if not flags & os.O_CREAT:
                raise _error(errno.ENOENT, path)
            node = File(self._number())
            self._bind(path, node)
        elif flags & os.O_EXCL:
            raise _error(errno.EEXIST, path)
        elif flags & os.O_TRUNC and isinstance(node, File):
            node.data = b""
        descriptor = 1000 + self._number()
        self._open[descriptor] = (node, path)
        return descriptor

    def _open_nameless(self, path: str, dir_fd: int | None) -> int:
        assert path == "." and dir_fd is not None, "storage opens them in a folder that it has open"
        folder = self._open[dir_fd][1]
        self._calls.enter("create", f"{folder}/.nameless.tmp")
        if not self._nameless:
            raise _error(errno.EOPNOTSUPP, folder)
        if self.find(folder) is not self.node_of(dir_fd):
            raise _error(errno.EPERM, folder)  # as Linux answers in a folder that was removed
        number = self._number()
        self._open[1000 + number] = (File(number), f"{folder}/.{number}.tmp")
        return 1000 + number

    def _folder_path(self, descriptor: int) -> str:
        """Return the path of an open folder that is still there."""
        node, path = self._open[descriptor]
        if self.find(path) is not node:
            raise _error(errno.ENOENT, path)
        return path

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)

    def write(self, descriptor: int, data: bytes) -> int:
        node, path = self._open[descriptor]
        self._calls.enter("write", path)
        assert isinstance(node, File)
        taken = bytes(data)[: self._calls.written(len(data))]
        node.data += taken
        return len(taken)

    def read(self, descriptor: int) -> bytes:
        node, _ = self._open[descriptor]
        assert isinstance(node, File)
        return node.data

    def fsync(self, descriptor: int) -> None:
        node, path = self._open[descriptor]
        self._calls.enter("fsync", path)
        if isinstance(node, File):
            node.synced = node.data
        else:
            node.sync()
        self._calls.leave("fsync", path)

    def link(self, source: str, target: str, *, dst_dir_fd: int | None = None, follow_symlinks: bool = True) -> None:
        if dst_dir_fd is not None:
            target = self.path_in(dst_dir_fd, target)
        self._calls.enter("link", target)
        if not self._hard_links:
            raise _error(errno.EPERM, target)
        if dst_dir_fd is not None:
            assert follow_symlinks and source.startswith("/proc/self/fd/"), "only nameless files are linked like that"
            self._folder_path(dst_dir_fd)
            node = self.node_of(int(source.rpartition("/")[2]))
        else:
            node = self._existing(source)
        if self.find(target) is not None:
            raise _error(errno.EEXIST, target)
        self._bind(target, node)
        self._calls.leave("link", target)

    def rename(self, source: str, target: str, exclusive: bool = False) -> None:
        self._calls.enter("rename", target)
        node = self._existing(source)
        if exclusive and self.find(target) is not None:
            raise _error(errno.EEXIST, target)
        self._bind(target, node)
        self._bind(source, None)
        self._calls.leave("rename", target)

    def unlink(self, path: str) -> None:
        self._calls.enter("unlink", path)
        if isinstance(self._existing(path), Folder):
            raise _error(errno.EISDIR, path)
        self._bind(path, None)
        self._calls.leave("unlink", path)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self._calls.enter("mkdir", path)
        if self.find(path) is not None:
            raise _error(errno.EEXIST, path)
        self._bind(path, Folder(self._number()))

    def rmdir(self, path: str) -> None:
        self._calls.enter("rmdir", path)
        node = self._existing(path)
        if not isinstance(node, Folder):
            raise _error(errno.ENOTDIR, path)
        if node.names:
            raise _error(errno.ENOTEMPTY, path)
        self._bind(path, None)

    def entries(self, path: str) -> list[tuple[str, File | Folder]]:
        self._calls.enter("list", path)
        node = self._existing(path)
        if not isinstance(node, Folder):
            raise _error(errno.ENOTDIR, path)
        return list(node.names.items())

    def path_in(self, descriptor: int, name: str) -> str:
        """Return the path of a name in an open folder."""
        return f"{self._open[descriptor][1]}/{name}"

    def node_of(self, descriptor: int) -> File | Folder:
        return self._open[descriptor][0]

    def find(self, path: str) -> File | Folder | None:
        """Return what is visible under an absolute path."""
        node: File | Folder | None = self.root
        for name in _names(path):
            node = node.names.get(name)
            if node is None:
                return None
        return node

    def lose_power(self, rng: random.Random) -> None:
        """Forget what was not durable, as far as ``rng`` wants."""
        self._open.clear()
        keep = rng.choice((0.0, 0.5, 1.0, rng.random()))
        _lose(self.root, rng, keep)

    def contents(self, path: str, durable: bool) -> bytes | None:
        """Return the contents of a file as processes see them, or as they are sure to survive a power loss."""
        node: File | Folder | None = self.root
        for name in _names(path):
            names = (node.durable if durable else node.names) if isinstance(node, Folder) else {}
            node = names.get(name)
        if not isinstance(node, File):
            return None
        return node.synced if durable else node.data

    def visible(self, path: str) -> dict[str, bytes]:
        """Return all files below a folder as processes see them, by relative path."""
        return _files(self.find(path), lambda folder: folder.names, lambda file: file.data)

    def durable(self, path: str) -> dict[str, bytes]:
        """Return all files below a folder of which nothing can be lost any more, by relative path."""
        node: File | Folder | None = self.root
        for name in _names(path):
            node = node.durable.get(name) if isinstance(node, Folder) else None
        return _files(node, lambda folder: folder.durable, lambda file: b"" if file.synced is None else file.synced)

    def _bind(self, path: str, node: File | Folder | None) -> None:
        parent, _, name = path.rpartition("/")
        folder = self.find(parent)
        if folder is None:
            raise _error(errno.ENOENT, path)
        if not isinstance(folder, Folder):
            raise _error(errno.ENOTDIR, path)
        self._changed(path, folder.names.get(name), node)
        folder.pending.append((name, node))
        if node is None:
            folder.names.pop(name, None)
        else:
            folder.names[name] = node

    def _existing(self, path: str) -> File | Folder:
        node = self.find(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        return node

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers


@lru_cache(maxsize=1024)
def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def _lose(folder: Folder, rng: random.Random, keep: float) -> None:
    names = dict(folder.durable)
    for name, node in folder.pending:
        if rng.random() < keep:
            if node is None:
                names.pop(name, None)
            else:
                names[name] = node
    folder.names = names
    folder.sync()
    for node in names.values():
        if isinstance(node, Folder):
            _lose(node, rng, keep)
        elif node.synced != node.data:
            node.data = _torn(node, rng)
            node.synced = node.data


def _torn(file: File, rng: random.Random) -> bytes:
    """Return contents of a file that was never wholly flushed."""
    cut = int(rng.random() * (len(file.data) + 1))
    return rng.choice((file.synced or b"", file.data[:cut], file.data[:cut] + bytes(len(file.data) - cut), b""))


def _files(
    node: File | Folder | None,
    names: Callable[[Folder], dict[str, File | Folder]],
    contents: Callable[[File], bytes],
    prefix: str = "",
) -> dict[str, bytes]:
    if not isinstance(node, Folder):
        return {}
    found: dict[str, bytes] = {}
    for name, child in names(node).items():
        if isinstance(child, File):
            found[prefix + name] = contents(child)
        else:
            found.update(_files(child, names, contents, f"{prefix}{name}/"))
    return found


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
