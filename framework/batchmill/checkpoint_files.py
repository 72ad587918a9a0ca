"""The digest of a checkpoint's files, and what changed in them since."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from batchmill.errors import ModelError

_LISTED_CHANGES = 10


@dataclass(frozen=True)
class FileDigest:
    """Size in bytes and SHA-256 (hex) of one file's contents."""

    bytes: int
    sha256: str


def read_files(location: Path) -> dict[str, FileDigest]:
    """Return size and digest of every file of a checkpoint.

    Args:
        location: A directory, read recursively, or one file. Links to files are followed, because
            download caches are made of them.

    Returns:
        Relative path (with ``/`` between names; the bare name for one file) to digest, sorted by path.

    Raises:
        ModelError: There is nothing, or something that is not a file or directory, or it cannot be read.
    """
    if location.is_file():
        return {location.name: _digest_file(location)}
    if not location.is_dir():
        raise ModelError(
            f"There is no checkpoint at {location}. Expected a directory or file on this machine that "
            f"holds the model's weights."
        )
    files: dict[str, FileDigest] = {}
    for folder, folders, names in os.walk(location, onerror=_raise_unreadable):
        for name in folders:
            if Path(folder, name).is_symlink():
                raise ModelError(
                    f"Checkpoint {location} holds a link to a directory, {Path(folder, name)}, whose "
                    f"files its digest would not cover. Put the files there instead."
                )
        for name in names:
            path = Path(folder, name)
            files[path.relative_to(location).as_posix()] = _digest_file(path)
    if not files:
        raise ModelError(f"Checkpoint {location} is an empty directory.")
    return dict(sorted(files.items()))


def digest_files(files: Mapping[str, FileDigest]) -> str:
    """Return the checkpoint's digest in hex: the SHA-256 of a JSON list of paths, sizes and file digests."""
    listed = [[path, files[path].bytes, files[path].sha256] for path in sorted(files)]
    return hashlib.sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()


def describe_changes(before: Mapping[str, FileDigest], now: Mapping[str, FileDigest]) -> str:
    """Return what differs, for people; empty if nothing does."""
    changes = []
    for path in sorted(before.keys() | now.keys()):
        if path not in now:
            changes.append(f"{path} is gone")
        elif path not in before:
            changes.append(f"{path} is new")
        elif before[path].bytes != now[path].bytes:
            changes.append(f"{path} has {now[path].bytes} bytes instead of {before[path].bytes}")
        elif before[path] != now[path]:
            changes.append(f"{path} has other contents")
    more = len(changes) - _LISTED_CHANGES
    return "; ".join(changes[:_LISTED_CHANGES]) + (f"; and {more} more" if more > 0 else "")


def _digest_file(path: Path) -> FileDigest:
    if not path.is_file():
        raise ModelError(f"{path} is neither a file nor a directory, or a link that leads nowhere.")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return FileDigest(file.tell(), digest.hexdigest())
    except OSError as error:
        raise _unreadable(error) from error


def _raise_unreadable(error: OSError) -> None:
    raise _unreadable(error) from error


def _unreadable(error: OSError) -> ModelError:
    return ModelError(f"Cannot read {error.filename}, which belongs to a checkpoint: {error.strerror}.")
