"""Where the database of an output lies."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

FILE_NAME = "batchmill.sqlite"


def ledger_path(output: str, path: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the absolute path of the database file.

    SQLite needs a local file system, so an output on an object store has its database in the user's data
    folder, one per URL; the runs' own records hold every report too. An output in memory has one that is
    removed when the process ends, as the output is.

    Args:
        output: The directory or URL that holds runs.
        path: The setting ``path``; empty for the default.
        environ: The environment.
    """
    if path:
        return Path(path).expanduser().absolute()
    scheme, separator, _ = output.partition("://")
    if not separator:
        return Path(output).absolute() / FILE_NAME
    if scheme == "file":
        return Path(unquote(urlsplit(output).path)).absolute() / FILE_NAME
    url = output.rstrip("/")
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", url.partition("://")[2]).strip("-.")[:48]
    name = f"{scheme}-{readable}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    if scheme == "memory":
        return _process_folder(os.getpid()) / name / FILE_NAME
    return _data_home(environ) / "batchmill" / name / FILE_NAME


def _data_home(environ: Mapping[str, str]) -> Path:
    given = environ.get("XDG_DATA_HOME", "")
    # The XDG rules say to pass over a relative path.
    return Path(given) if os.path.isabs(given) else Path.home() / ".local" / "share"


@cache
def _process_folder(pid: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="batchmill-ledger-"))

    def remove() -> None:
        if os.getpid() == pid:  # not in a forked child
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
