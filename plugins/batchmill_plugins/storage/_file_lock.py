"""An advisory lock on a file, held by one process and, inside it, by one holder."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from batchmill_plugins.storage._posix import as_storage_error, is_private

# lockf belongs to the process: a second holder in it would get the lock too, and closing any descriptor of
# the file would drop it. So a path is opened by one holder at a time.
_held: set[str] = set()
_held_mutex = threading.Lock()


def lock_name(name: str) -> str:
    """Return the name of the hidden file that stands for the lock ``name``."""
    return f".{name}.batchmill-lock"


@contextmanager
def file_lock(path: str) -> Iterator[bool]:
    """Yield whether this holder has the lock; it is given back at the end, or when the process dies.

    Args:
        path: The lock file; created in an existing folder, and left there, because removing it would let two
            processes lock two files of the same name.

    Raises:
        StorageError: The file cannot be opened or locked.
    """
    with _held_mutex:
        taken = path in _held
        _held.add(path)
    if taken:
        yield False
        return
    try:
        # lockf rather than flock: a forked child of a killed holder would keep a flock.
        with as_storage_error("lock", path):
            mode = 0o600 if is_private(os.path.dirname(path)) else 0o666
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            with as_storage_error("lock", path):
                locked = _locked(descriptor)
            yield locked
        finally:
            os.close(descriptor)
    finally:
        with _held_mutex:
            _held.discard(path)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            return True  # a file system without locks: comfort is lost, safety is not
        raise
    return True
