"""Putting a damaged run right: set aside what is bad, then compute it again by resuming the run.

Records are never overwritten. A bad one is copied below ``damaged/`` and removed, which makes its chunk uncommitted,
and the run is resumed as after any crash. Nothing is removed that was not copied first.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from batchmill import api
from batchmill.contracts.storage import Storage
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.commit_log import COMMITS, FILES, PARTS, record_path
from batchmill.engine.retries import with_retries
from batchmill.engine.retry_view import staging_folder
from batchmill.engine.run_directory import FORMAT, LINKS, LOCK, MANIFEST, REPORTS, RESULT, SUCCESS, open_existing
from batchmill.engine.serialization import canonical_json, unseal
from batchmill.errors import (
    EXIT_COMPLETE,
    EXIT_ERROR_BUDGET,
    EXIT_PREEMPTED,
    AlreadyRunningError,
    CorruptRunError,
    ObjectNotFoundError,
    RunNotFoundError,
    StorageError,
)
from batchmill.inspection import verify_run
from batchmill.plugin_manager import get_catalog
from batchmill.verification import Examination, Fault, examine

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


@dataclass(frozen=True)
class Damage:
    """What is wrong with a run, and what follows from that.

    Attributes:
        faults: What is wrong.
        paths: Files that have to leave, in the order in which they may: no crash in between makes a run look whole
            that is not.
        chunks: Chunks that have to be computed again.
        unfinished: Whether the run has to be resumed, if only to write its result anew.
        run_id: The run's id; None if ``run.json`` cannot be relied on.
        from_names: Whether the run can be rebuilt from ``run.json``.
        complete: Whether the run has a result.
    """

    faults: Sequence[Fault]
    paths: Sequence[str]
    chunks: Sequence[int] = ()
    unfinished: bool = False
    run_id: str | None = None
    from_names: bool = False
    complete: bool = False


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
    if not _holds_run(storage):
        raise RunNotFoundError(f"There is no run at {storage.url}. 'batchmill ls' lists the runs.")
    with ExitStack() as stack:
        if not stack.enter_context(storage.lock(LOCK)):
            raise AlreadyRunningError(
                f"A launcher is working on run {storage.url}, and a repair needs the run for itself. Wait for it, or "
                f"stop it with SIGTERM, which loses nothing."
            )
        damage = find_damage(storage)
        folder = set_aside(storage, damage) if damage.paths else None
    resumed = damage.unfinished and resume and damage.from_names
    stopped = api.resume(storage.url, nproc).stop_reason if resumed else None
    verified = verify_run(storage.url) if damage.faults and damage.run_id is not None else None
    return RepairReport(
        path=storage.url,
        problems=[str(fault.error) for fault in damage.faults],
        folder=folder,
        set_aside=list(damage.paths),
        chunks=list(damage.chunks),
        complete=verified.complete if verified is not None else damage.complete,
        remaining=[] if verified is None else verified.problems,
        advice=_advice(storage.url, damage, resumed, stopped),
    )


def find_damage(storage: Storage) -> Damage:
    """Examine a run and tell what has to be set aside. Nothing is written.

    Raises:
        BatchmillError: Something could not be checked, so nothing is known of it; or the run is of another format.
    """
    try:
        run = open_existing(storage)
    except (RunNotFoundError, CorruptRunError) as error:
        if _is_of_another_format(storage):
            raise
        return _without_manifest(storage, [Fault(MANIFEST, error)])
    found = examine(run)
    for fault in found.faults:
        if not fault.damage:
            raise fault.error
    if any(fault.path == MANIFEST for fault in found.faults):
        return _without_manifest(storage, found.faults)
    chunks = sorted({fault.chunk for fault in found.faults if fault.chunk is not None})
    return Damage(
        faults=found.faults,
        paths=_bad_files(storage, found, chunks),
        chunks=[chunk for chunk in chunks if chunk < run.grid.chunks],
        unfinished=any(not _stands_alone(fault.path) for fault in found.faults),
        run_id=run.run_id,
        from_names="request" in run.manifest["config"],
        complete=found.complete,
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


def _without_manifest(storage: Storage, faults: Sequence[Fault]) -> Damage:
    """Return what follows if ``run.json`` is bad: nothing else can be judged, and whoever starts the run anew does."""
    return Damage(faults, [path for path in (SUCCESS, RESULT, MANIFEST) if _exists(storage, path)], unfinished=True)


def _is_of_another_format(storage: Storage) -> bool:
    try:
        return bool(unseal(_get(storage, MANIFEST), MANIFEST).get("format", FORMAT) != FORMAT)
    except (CorruptRunError, ObjectNotFoundError):
        return False


def _bad_files(storage: Storage, found: Examination, chunks: Sequence[int]) -> list[str]:
    """Return the files that have to leave: of a bad chunk all, for a damaged record cannot tell which are its own."""
    damaged = [fault.path for fault in found.faults]
    results = [] if all(path == SUCCESS or _stands_alone(path) for path in damaged) else [SUCCESS, RESULT]
    if SUCCESS in damaged and not found.complete:
        results = [SUCCESS]
    records = [path for path in damaged if path.startswith(f"{COMMITS}/")] + [record_path(chunk) for chunk in chunks]
    folders = [f"{folder}/{staging_folder(storage, chunk)}" for chunk in chunks for folder in (PARTS, FILES)]
    named = [path for folder in folders for path in _listed(storage, folder)]
    alone = [path for path in damaged if _stands_alone(path)]
    return [path for path in dict.fromkeys([*results, *records, *named, *alone]) if _exists(storage, path)]


def _stands_alone(path: str) -> bool:
    """Return whether a file is no part of the result: a report from outside of chunks, or a link."""
    return path.startswith((f"{REPORTS}/", f"{LINKS}/"))


def _holds_run(storage: Storage) -> bool:
    return _exists(storage, MANIFEST) or bool(_listed(storage, COMMITS))


def _exists(storage: Storage, path: str) -> bool:
    return with_retries(partial(storage.exists, path))


def _listed(storage: Storage, folder: str) -> list[str]:
    return with_retries(lambda: [info.path for info in storage.list(folder)])


def _get(storage: Storage, path: str) -> bytes:
    return with_retries(partial(storage.get, path))


def _put(storage: Storage, path: str, data: bytes) -> None:
    with_retries(partial(storage.put, path, data))


def _advice(path: str, damage: Damage, resumed: bool, stopped: str | None) -> str | None:
    if not damage.unfinished:
        return None
    if resumed:
        return None if stopped is None else f"The run was stopped ({stopped}). Go on: batchmill resume {path}"
    if damage.run_id is None:
        return (
            f"Start the run again with the run_id, settings, data and number of workers that it was begun with: that "
            f"writes {MANIFEST} anew, and what is committed and fits is kept."
        )
    if damage.from_names:
        return f"Go on: batchmill resume {path}"
    return f"The run was started from Python objects: run the same script again, with run_id={damage.run_id!r}."
