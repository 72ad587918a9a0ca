"""Putting a damaged run right: set aside what is bad, then compute it again by resuming the run.

Records are never overwritten. A bad one is copied below ``damaged/`` and removed, which makes its chunk uncommitted,
and the run is resumed as after any crash. Nothing is removed that was not copied first.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from batchmill import api
from batchmill.contracts.storage import Storage
from batchmill.damage import Damage, find_bad_retries, find_damage, holds_run
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.retries import with_retries
from batchmill.engine.run_directory import LOCK, MANIFEST
from batchmill.engine.serialization import canonical_json
from batchmill.errors import (
    EXIT_COMPLETE,
    EXIT_ERROR_BUDGET,
    EXIT_PREEMPTED,
    AlreadyRunningError,
    ConfigError,
    RunNotFoundError,
    StorageError,
)
from batchmill.inspection import verify_run
from batchmill.plugin_manager import get_catalog

DAMAGED, REASONS = "damaged", "reasons.json"


@dataclass(frozen=True)
class RepairReport:
    """What a repair found and did.

    Attributes:
        path: The run's directory or URL.
        problems: What was wrong.
        folder: Where the bad files are now, relative to the run; None if none was moved.
        set_aside: Their paths before that, relative to the run.
        chunks: Chunks whose results were not whole and are computed again.
        complete: Whether the run is complete now.
        remaining: What is still wrong.
        advice: What is left to do; None if nothing is.
    """

    path: str
    problems: list[str]
    folder: str | None
    set_aside: list[str]
    chunks: list[int]
    complete: bool
    remaining: list[str]
    advice: str | None

    @property
    def exit_code(self) -> int:
        """0 if the run is right and nothing is left to do, 65 if something is wrong still, 75 if it has to go on."""
        if self.remaining:
            return EXIT_ERROR_BUDGET
        return EXIT_COMPLETE if self.advice is None else EXIT_PREEMPTED

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def repair_run(run: str, *, nproc: int | None = None, resume: bool = True) -> RepairReport:
    """Set aside what is bad in a run and compute it again. A run without faults is left as it is.

    Args:
        run: Its directory or URL.
        nproc: Workers on this machine for what is computed again; None keeps the number it was started with.
        resume: Whether to resume the run at once, which needs a run that was started from names.

    Raises:
        RunNotFoundError: There is no run.
        AlreadyRunningError: A launcher is working on it.
        BatchmillError: Something could not be checked, storage failed, or the resumed run did. What was set aside
            stays so; repairing once more goes on.
    """
    storage = open_storage(Assembler(get_catalog().registry), run)
    if not holds_run(storage):
        raise RunNotFoundError(f"There is no run at {storage.url}. 'batchmill ls' lists the runs.")
    with ExitStack() as stack:
        if not stack.enter_context(storage.lock(LOCK)):
            raise AlreadyRunningError(
                f"A launcher is working on run {storage.url}, and a repair needs the run for itself. Wait for it, or "
                f"stop it with SIGTERM, which loses nothing."
            )
        unread = find_bad_retries(storage)
        folder = set_aside(storage, unread) if unread.paths else None
        damage = find_damage(storage)
        folder = set_aside(storage, damage) if damage.paths else folder
    advice = _advice(storage.url, damage) or _retry_advice(storage.url, unread)
    if damage.unfinished and damage.from_names and resume:
        advice = _resume(storage.url, nproc) or _retry_advice(storage.url, unread)
    faults = [*unread.faults, *damage.faults]
    verified = verify_run(storage.url) if faults and damage.run_id is not None else None
    return RepairReport(
        path=storage.url,
        problems=[str(fault.error) for fault in faults],
        folder=folder,
        set_aside=[*unread.paths, *damage.paths],
        chunks=list(damage.chunks),
        complete=verified.complete if verified is not None else damage.complete,
        remaining=[] if verified is None else verified.problems,
        advice=advice,
    )


def set_aside(storage: Storage, damage: Damage) -> str:
    """Copy bad files below ``damaged/``, with the reasons, then remove them from where they were.

    Returns:
        The folder they are in now, relative to the run.

    Raises:
        StorageError: Storage failed, or a file was changed meanwhile, so that somebody works on the run.
    """
    folder = f"{DAMAGED}/{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    for path in damage.paths:
        _put(storage, f"{folder}/{path}", _get(storage, path))
    problems = [{"path": fault.path, "chunk": fault.chunk, "problem": str(fault.error)} for fault in damage.faults]
    _put(storage, f"{folder}/{REASONS}", canonical_json({"problems": problems, "set_aside": list(damage.paths)}))
    for path in damage.paths:
        # Storage without locks cannot tell that somebody works on the run; a file that changed does.
        if _get(storage, path) != _get(storage, f"{folder}/{path}"):
            raise StorageError(
                f"{storage.url}/{path} changed during the repair, so somebody works on the run. Stop it."
            )
        with_retries(partial(storage.delete, path))
    return folder


def _get(storage: Storage, path: str) -> bytes:
    return with_retries(partial(storage.get, path))


def _put(storage: Storage, path: str, data: bytes) -> None:
    with_retries(partial(storage.put, path, data))


def _resume(path: str, nproc: int | None) -> str | None:
    """Resume a run; return what is left to do, None if nothing is."""
    try:
        result = api.resume(path, nproc)
    except ConfigError as error:  # it needs the user's leave, or something that is not installed
        return str(error)
    return None if result.complete else f"The run was stopped ({result.stop_reason}). Go on: batchmill resume {path}"


def _advice(path: str, damage: Damage) -> str | None:
    if not damage.unfinished:
        return None
    if damage.run_id is None:
        return (
            f"Start the run again with the run_id, settings, data and number of workers that it was begun with: that "
            f"writes {MANIFEST} anew, and what is committed and fits is kept."
        )
    if damage.from_names:
        return f"Go on: batchmill resume {path}"
    return f"The run was started from Python objects: run the same script again, with run_id={damage.run_id!r}."


def _retry_advice(path: str, unread: Damage) -> str | None:
    return f"Try the samples that failed once more: batchmill retry-quarantined {path}" if unread.paths else None
