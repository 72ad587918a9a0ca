"""Folders and files as they are: errors in words, permissions, links, and names that survive a power loss."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import re
import resource
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from batchmill import ObjectNotFoundError, StorageError, StorageFullError

_HIDDEN = re.compile(r"\.[0-9a-f]{32}\.tmp|\..+\.batchmill-lock")
_OPEN_FOLDER, _PRIVATE_FOLDER = 0o777, 0o700
_FULL = {errno.ENOSPC, errno.EDQUOT}
_KEPT = "nothing that was committed is lost, and a resume goes on."


def is_hidden(name: str) -> bool:
    """Return whether a file name is that of an unfinished write or a lock."""
    return _HIDDEN.fullmatch(name) is not None


@contextmanager
def as_storage_error(action: str, path: str) -> Iterator[None]:
    """Turn an ``OSError`` inside into a ``StorageError`` that names the action, the path and the cause.

    Raises:
        StorageFullError: There is no space left on the file system, or in the quota.
        StorageError: Anything else went wrong.
    """
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown error")
        told = f"Could not {action} {path}: {error.strerror or error} ({code})."
        if error.errno in _FULL:
            raise StorageFullError(f"{told} {_free_space(path)} Free some space or raise the quota; {_KEPT}") from error
        if error.errno == errno.EFBIG:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            most = "its file system takes" if limit == resource.RLIM_INFINITY else f"the {limit:,} bytes allowed"
            advice = "Raise the limit (ulimit -f), or choose smaller chunks"
            raise StorageError(f"{told} The file is larger than {most}. {advice}; {_KEPT}") from error
        raise StorageError(told) from error


def _free_space(path: str) -> str:
    folder = path
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    try:
        found = os.statvfs(folder)
    except OSError:  # the first error is the one to tell
        return "How much space is free there is not known."
    return f"{found.f_bavail * found.f_frsize:,} bytes and {found.f_favail:,} files are free there."


@contextmanager
def removed_on_error(path: str) -> Iterator[None]:
    """Remove the file ``path`` if the block fails, as far as that is possible."""
    try:
        yield
    except BaseException:
        try:
            os.unlink(path)
        except OSError:  # the first error is the one to tell; the file is hidden in any case
            pass
        raise


def is_private(folder: str) -> bool:
    """Return whether a folder lets nobody in but its owner."""
    return not stat.S_IMODE(os.lstat(folder).st_mode) & 0o077


def is_shared(folder: str) -> bool:
    """Return whether the nearest folder there is, on the way up, is one that a group works in together."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    found = os.lstat(folder)
    if not found.st_mode & stat.S_IWGRP or found.st_mode & stat.S_IWOTH:
        return False
    return bool(found.st_mode & stat.S_ISGID) or not _is_own_group(found.st_gid)


def _is_own_group(gid: int) -> bool:
    """Return whether a group has this user alone, as many systems make one for each."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def read_file(path: str) -> bytes:
    """Return the contents of a regular file.

    Raises:
        ObjectNotFoundError: There is none.
        StorageError: There is something that is not a regular file.
    """
    try:
        # O_NONBLOCK: a pipe put there must not stop the run.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ObjectNotFoundError(f"There is no object {path}.") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _special(path) from error
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise ObjectNotFoundError(f"There is no object {path}; it is a folder.")
        if not stat.S_ISREG(mode):
            raise _special(path)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def has_link(root: str, folder: str) -> bool:
    """Return whether a folder on the way from ``root`` down to ``folder`` is a symbolic link."""
    current = root
    for name in folder.split("/"):
        current = f"{current}/{name}"
        try:
            if stat.S_ISLNK(os.lstat(current).st_mode):
                return True
        except (FileNotFoundError, NotADirectoryError):
            return False  # nothing is there, so neither is a link further down
    return False


def refuse_special(path: str) -> None:
    """Raise ``StorageError`` if ``path`` exists and is not a regular file."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        raise _special(path)


def _special(path: str) -> StorageError:
    return StorageError(f"{path} is not a regular file (but a folder, link, pipe or device), so it is left alone.")


def make_folders(folder: str, root: str, private: bool) -> None:
    """Create ``folder`` and its parents where they are missing; no name of theirs is durable yet.

    Args:
        folder: ``root``, or a folder below it.
        root: The storage's root.
        private: Whether only the owner may enter ``root`` and what is below, if they are new.
    """
    missing = []
    current = folder
    while not os.path.isdir(current):
        missing.append(current)
        current = os.path.dirname(current)
    for each in reversed(missing):
        try:
            os.mkdir(each, _PRIVATE_FOLDER if private and len(each) >= len(root) else _OPEN_FOLDER)
        except FileExistsError:  # another process was faster; mkdir of the next name tells if it is no folder
            continue


def make_names_durable(folder: str, root: str, durable: Collection[str]) -> None:
    """Make the names of the folders from ``root`` down to ``folder`` durable, whoever made them.

    Another process may have created them a moment ago without having come to its fsync yet.

    Args:
        folder: ``root``, or a folder below it.
        root: The storage's root; its own name is another matter.
        durable: Folders whose names are known to be durable, and those of the folders above.
    """
    while folder != root and folder not in durable:
        folder = os.path.dirname(folder)
        sync_folder(folder)


def make_path_durable(folder: str) -> None:
    """Make the name of an existing folder durable, and those of the folders above it, whoever created them.

    Names up to the mount point are meant: where a file system is mounted is not for its users to make durable.
    """
    device = os.lstat(folder).st_dev
    while (holder := os.path.dirname(folder)) != folder and os.lstat(holder).st_dev == device:
        try:
            sync_folder(holder)
        except PermissionError:  # a folder that we may not read is an old one of somebody else's
            pass
        folder = holder


def removed_if_empty(folder: str) -> bool:
    """Remove ``folder`` if it is empty; return whether it was."""
    try:
        os.rmdir(folder)
    except OSError:  # not empty, in use or already gone: all the same to the caller
        return False
    return True


def sync_folder(folder: str) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)


def flush(descriptor: int) -> None:
    """Make the contents of an open file, or the names in an open folder, durable."""
    # On macOS fsync leaves data in the drive's cache; F_FULLFSYNC does not, but not every file system has it.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
    os.fsync(descriptor)
