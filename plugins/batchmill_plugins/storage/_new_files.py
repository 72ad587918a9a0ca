"""New files: written whole, made durable, and given their name in one step; each with the order of calls it needs."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets

from batchmill import StorageError
from batchmill_plugins.storage._posix import flush, removed_on_error

_OPEN_FILE, _PRIVATE_FILE = 0o666, 0o600
# What file systems without hard links answer to link(2), and those without exclusive rename to renameat2(2).
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_EXCLUSIVE_RENAME = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# Where Linux shows open files, so that they can be linked.
_DESCRIPTORS = "/proc/self/fd"
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


def write_temporary(folder: str, data: bytes, private: bool) -> str:
    """Write ``data`` to a new hidden file in ``folder`` and fsync it.

    Args:
        folder: Where to.
        data: What.
        private: Whether only the owner may read it; else the umask decides.

    Returns:
        The file's path. Its name is not durable yet.
    """
    path = os.path.join(folder, f".{secrets.token_hex(16)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, _PRIVATE_FILE if private else _OPEN_FILE)
    with removed_on_error(path):
        try:
            _write(descriptor, data)
        finally:
            os.close(descriptor)
    return path


def _write(descriptor: int, data: bytes) -> None:
    """Write all of ``data`` to a new file and fsync it."""
    rest = memoryview(data)
    while len(rest):
        rest = rest[os.write(descriptor, rest) :]
    flush(descriptor)


def open_folder(folder: str) -> int:
    """Return a descriptor of a folder that is no symbolic link, for ``create_nameless``."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def create_nameless(directory: int, name: str, data: bytes, private: bool) -> bool | None:
    """Write ``data`` to a file without a name, fsync it, give it its name unless that is taken, and fsync the folder.

    Against a temporary name this takes half of the system calls. That matters less for the calls than for threads
    that compute meanwhile: each call gives up Python's lock and takes it back, which stops them for a moment. And
    what a killed process leaves has no name and is gone.

    Args:
        directory: Descriptor of the folder.
        name: The name in that folder.
        data: What to write.
        private: Whether only the owner may read it; else the umask decides.

    Returns:
        Whether the name was free; None if nothing was done, because there are no files without names here, no way
        to name them, or the folder was removed.
    """
    nameless = getattr(os, "O_TMPFILE", None)
    if nameless is None:
        return None
    try:
        mode = _PRIVATE_FILE if private else _OPEN_FILE
        descriptor = os.open(".", os.O_WRONLY | nameless | os.O_CLOEXEC, mode, dir_fd=directory)
    except OSError:  # there are many answers for "not here"; and any true error meets a named file, too
        return None
    try:
        _write(descriptor, data)
        created = _give_name(descriptor, directory, name)
    finally:
        os.close(descriptor)
    if created is not None:
        flush(directory)
    return created


def _give_name(descriptor: int, directory: int, name: str) -> bool | None:
    """Name an open file that has no name; return whether the name was free, None if files cannot be named here."""
    try:
        os.link(f"{_DESCRIPTORS}/{descriptor}", name, dst_dir_fd=directory, follow_symlinks=True)
    except FileExistsError:
        # As in publish_exclusively: a repeated request may have found the name taken by itself.
        return os.path.samestat(os.fstat(descriptor), os.lstat(name, dir_fd=directory))
    except OSError as error:
        if error.errno in _NO_LINKS or error.errno == errno.ENOENT:  # without /proc, or the folder was removed
            return None
        raise
    return True


def publish_exclusively(staged: str, target: str) -> bool:
    """Give the file ``staged`` the name ``target`` unless that is taken; ``staged`` is gone afterwards.

    Returns:
        Whether the name was free.

    Raises:
        OSError: The file system failed.
        StorageError: The file system offers no exclusive creation.
    """
    try:
        os.link(staged, target)
        created = True
    except FileExistsError:
        # Over NFS the answer to a link that succeeded can get lost; the repeated request then finds it taken.
        created = _same_file(staged, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if _rename_exclusively(staged, target):
            return True
        created = False
    os.unlink(staged)
    return created


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except FileNotFoundError:
        return False


def _rename_exclusively(source: str, target: str) -> bool:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = errno.ENOSYS
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
            return True
        code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code in _NO_EXCLUSIVE_RENAME:
        raise StorageError(
            f"The file system of {os.path.dirname(target)} has neither hard links nor exclusive rename, so "
            f"results could not be committed exactly once there. Choose an output on another file system; "
            f"for a mounted bucket use its URL (s3://, gs://, az://) instead."
        )
    raise OSError(code, os.strerror(code), target)
