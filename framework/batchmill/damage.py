"""What follows from the faults of a run: which files have to leave, and what has to be computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from batchmill.contracts.storage import Storage
from batchmill.engine.commit_log import COMMITS, FILES, PARTS
from batchmill.engine.retries import with_retries
from batchmill.engine.retry_view import RETRIES, read_retries, stored_path
from batchmill.engine.run_directory import (
    FORMAT,
    LINKS,
    MANIFEST,
    REPORTS,
    RESULT,
    SUCCESS,
    RunDirectory,
    open_existing,
)
from batchmill.engine.serialization import unseal
from batchmill.errors import CorruptRunError, ObjectNotFoundError, RunNotFoundError
from batchmill.verification import Fault, examine


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


def find_damage(storage: Storage) -> Damage:
    """Examine a run and tell what has to be set aside. Nothing is written.

    Args:
        storage: The run's storage.

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
    ours = [fault for fault in found.faults if not fault.replaced]
    return Damage(
        faults=found.faults,
        paths=[path for path in dict.fromkeys(_bad_files(run, storage, found.faults)) if _exists(storage, path)],
        chunks=sorted({fault.chunk for fault in ours if fault.chunk is not None and fault.chunk < run.grid.chunks}),
        unfinished=any(not _stands_alone(fault) for fault in ours),
        run_id=run.run_id,
        from_names="request" in run.manifest["config"],
        complete=found.complete,
    )


def find_bad_retries(storage: Storage) -> Damage:
    """Tell which retries have no readable list of their chunks; they and those after them have to be begun anew.

    Args:
        storage: The run's storage.
    """
    lists = [path for path in _listed(storage, RETRIES) if path.endswith("/retry.json")]
    for number, path in enumerate(lists):
        try:
            read_list = unseal(with_retries(partial(storage.get, path)), f"{storage.url}/{path}")
            if "chunks" not in read_list:
                raise CorruptRunError(f"{storage.url}/{path} is damaged: it is another document.")
        except CorruptRunError as error:
            folders = [each.rpartition("/")[0] for each in lists[number:]]
            leaving = [f"{folder}/{name}" for folder in folders for name in (SUCCESS, RESULT, "retry.json")]
            return Damage([Fault(path, error)], [each for each in leaving if _exists(storage, each)])
    return Damage([], [])


def holds_run(storage: Storage) -> bool:
    """Return whether there is a run, or what is left of one."""
    return _exists(storage, MANIFEST) or bool(_listed(storage, COMMITS))


def _without_manifest(storage: Storage, faults: Sequence[Fault]) -> Damage:
    """Return what follows if ``run.json`` is bad: nothing else can be judged, and whoever starts the run anew does."""
    leaving = [*_all_results(storage), MANIFEST]
    return Damage(faults, [path for path in leaving if _exists(storage, path)], unfinished=True)


def _is_of_another_format(storage: Storage) -> bool:
    try:
        return bool(unseal(with_retries(partial(storage.get, MANIFEST)), MANIFEST).get("format", FORMAT) != FORMAT)
    except (CorruptRunError, ObjectNotFoundError):
        return False


def _bad_files(run: RunDirectory, storage: Storage, faults: Sequence[Fault]) -> list[str]:
    """Return the files that have to leave: of a bad chunk all, for a damaged record cannot tell which are its own."""
    results: list[str] = []
    records: list[str] = []
    alone: list[str] = []
    success = stored_path(run.storage, SUCCESS)
    for fault in faults:
        if _stands_alone(fault):
            alone.append(fault.path)
            continue
        if fault.replaced:  # a retry has other results in its place, and nothing that came later rests on it
            results += _results_beside(fault.record or fault.path)
        elif fault.path == success:
            results.append(success)
        else:
            results += _all_results(storage)
        if fault.record is None:
            records.append(fault.path)
        else:  # its record first: without it nothing says that the rest is there
            records.append(fault.record)
            records += [path for kind in (PARTS, FILES) for path in _listed(storage, f"{kind}/{fault.staging}")]
    return [*results, *records, *alone]


def _stands_alone(fault: Fault) -> bool:
    """Return whether a file is no part of the result: a report from outside of chunks, or a link."""
    return fault.path.startswith((f"{REPORTS}/", f"{LINKS}/"))


def _all_results(storage: Storage) -> list[str]:
    """Return the paths of a run's results: of the latest retry first, as a result may rest on those before."""
    folders = [f"{retry.folder}/" for retry in reversed(read_retries(storage))]
    return [f"{folder}{name}" for folder in [*folders, ""] for name in (SUCCESS, RESULT)]


def _results_beside(path: str) -> list[str]:
    """Return the paths of the results that a record or result of the run, or of a retry, belongs to."""
    folder = "/".join([*path.split("/")[:2], ""]) if path.startswith(f"{RETRIES}/") else ""
    return [f"{folder}{name}" for name in (SUCCESS, RESULT)]


def _exists(storage: Storage, path: str) -> bool:
    return with_retries(partial(storage.exists, path))


def _listed(storage: Storage, folder: str) -> list[str]:
    return with_retries(lambda: [info.path for info in storage.list(folder)])
