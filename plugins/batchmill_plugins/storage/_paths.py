"""The form of object paths, equal for every storage, so that what works locally works on an object store."""

from __future__ import annotations

from batchmill import StorageError


def check_path(path: str) -> str:
    """Return ``path`` if it names an object below the root.

    Args:
        path: Names joined by ``/``.

    Raises:
        StorageError: It is empty or absolute, has an empty, ``.`` or ``..`` name, or a character that no
            store can keep.
    """
    reason = _fault(path)
    if reason:
        raise StorageError(
            f"Path {path!r} {reason}. A path is relative to the storage's root: names joined by '/', "
            f"none of them empty, '.' or '..'."
        )
    return path


def check_prefix(prefix: str) -> str:
    """Return the folder ``prefix`` without a trailing ``/``; the empty string is the root.

    Raises:
        StorageError: It has not the form of a path.
    """
    return check_path(prefix.removesuffix("/")) if prefix else ""


def _fault(path: str) -> str:
    if not path:
        return "is empty"
    if path.startswith("/"):
        return "is absolute"
    if "\0" in path:
        return "has a NUL character"
    for name in path.split("/"):
        if not name:
            return "has an empty name"
        if name in (".", ".."):
            return f"has the name {name!r}"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return ""
