"""Whether the leave to import code that a run was begun with still holds for who resumes it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from urllib.parse import unquote, urlsplit

from batchmill.contracts.run import RunRequest
from batchmill.engine.run_directory import MANIFEST
from batchmill.errors import ConfigError


def check_leave_to_import(request: RunRequest, path: str) -> None:
    """Refuse to import what a stored request names if somebody else could have written it.

    Whoever began the run gave the leave on a command line; ``run.json`` keeps it. In a folder that only this user can
    write to it is this user's own word. Anywhere else it may be anybody's.

    Args:
        request: The request in ``run.json``.
        path: The run's directory or URL.

    Raises:
        ConfigError: It imports code, and others could have written it.
    """
    if not request.allow_import:
        return
    doubt = _doubt(path)
    if doubt:
        raise ConfigError(
            f"Run {request.run_id} was begun with allow_import=true, so resuming it runs whatever code its {MANIFEST} "
            f"names, and {doubt}. If you trust it, say so: batchmill resume {path} --allow-import, or "
            f"batchmill.resume(run, allow_import=True)."
        )


def _doubt(path: str) -> str:
    """Return why a run's manifest may be somebody else's, or an empty string."""
    scheme = path.partition("://")[0] if "://" in path else ""
    if scheme == "memory":
        return ""
    if scheme not in ("", "file"):
        return f"it lies in an object store ({scheme}://), where Batchmill cannot tell who wrote it"
    folder = unquote(urlsplit(path).path) if scheme else path
    for each in (folder, os.path.join(folder, MANIFEST)):
        found = os.stat(each)
        if found.st_uid not in (os.geteuid(), 0):
            return f"{each} belongs to another user (uid {found.st_uid})"
        if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid)):
            return f"others than its owner may write to {each} (mode {stat.S_IMODE(found.st_mode):04o})"
    return ""


def _is_own_group(gid: int) -> bool:
    """Return whether a group has this user alone, as many systems make one for each."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
