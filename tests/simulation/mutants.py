"""The rules of the commit protocol, each broken in turn. A simulator that misses one of these proves nothing.

A mutant replaces functions of the engine or of first-party storage while a schedule runs; no file is edited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import batchmill_plugins.storage._local as local
import batchmill_plugins.storage._new_files as new_files
import batchmill_plugins.storage._object_store as object_store
import batchmill_plugins.storage._posix as posix
from batchmill.engine import (
    claims,
    commit_log,
    committer,
    finish,
    recovery,
    reduction,
    run,
    run_directory,
    sideline,
    worker,
)
from batchmill.launch import chunk_board

from . import broken_commits as commits
from . import broken_endings as endings
from . import broken_folding as folding
from . import broken_storage as storage
from .mutant import Mutant, Replacement


def _local(method: str, value: Callable[..., Any]) -> Replacement:
    return (local.LocalStorage, method, value)


def _objects(method: str, value: Callable[..., Any]) -> Replacement:
    return (object_store.ObjectStorage, method, value)


def _log(method: str, value: Callable[..., Any]) -> Replacement:
    return (commit_log.CommitLog, method, value)


def _broken(name: str, rule: str, *replacements: Replacement, **more: Any) -> Mutant:
    return Mutant(name, rule, replacements, **more)


MUTANTS: tuple[Mutant, ...] = (
    # -- order and durability of what is stored
    _broken("record-first", "stage parts and files before the record names them", _log("commit", commits.record_first)),
    _broken(
        "shared-part",
        "a part has a name of its own and appears at once",
        _log("_stage", commits.stage_under_shared_name),
        _local("put", storage.put_in_place),
        renames=True,
    ),
    _broken("part-contents", "fsync a part's contents", _local("put", storage.put(storage.parts, contents=False))),
    _broken("part-name", "fsync a part's folder", _local("put", storage.put(storage.parts, name=False))),
    _broken(
        "record-contents",
        "fsync a record's contents",
        _local("put_if_absent", storage.put_if_absent(storage.records, contents=False)),
    ),
    _broken(
        "record-name",
        "fsync the folder of records before a record is announced",
        _local("put_if_absent", storage.put_if_absent(storage.records, name=False)),
    ),
    _broken(
        "record-in-place",
        "write a record whole before it has its name",
        _local("put_if_absent", storage.create_in_place),
    ),
    _broken(
        "shared-temporary",
        "each write has a temporary file of its own",
        (new_files, "write_temporary", storage.write_shared_temporary),
    ),
    _broken(
        "new-contents", "fsync what is written before it has its name", (new_files, "_write", storage.write_unsynced)
    ),
    _broken(
        "manifest-contents",
        "fsync the contents of run.json",
        _local("put_if_absent", storage.put_if_absent(storage.manifest, contents=False)),
    ),
    _broken(
        "result-contents",
        "fsync the contents of result.json",
        _local("put_if_absent", storage.put_if_absent(storage.ends, contents=False)),
    ),
    _broken(
        "result-name",
        "fsync the folder of result.json before exit code 0",
        _local("put_if_absent", storage.put_if_absent(storage.ends, name=False)),
    ),
    _broken("folder-names", "fsync the folders that hold new folders", (posix, "make_names_durable", storage.nothing)),
    _broken("path-names", "fsync the path above a run that others made", (posix, "make_path_durable", storage.nothing)),
    # -- one winner, and everyone knows who
    _broken(
        "overwriting-record",
        "create a record exclusively, by link or If-None-Match",
        _local("put_if_absent", storage.put_if_absent(storage.records, publish=storage.by_rename)),
        _objects("put_if_absent", storage.overwriting_objects(storage.records)),
    ),
    _broken(
        "check-then-write",
        "create a record in one step, not by looking first",
        _local("put_if_absent", storage.put_if_absent(storage.records, publish=storage.by_checked_rename)),
        _objects("put_if_absent", storage.checked_objects(storage.records)),
    ),
    _broken(
        "lock-instead",
        "never trust the lock: it may be held twice, or by a zombie",
        _local("put_if_absent", storage.locked_put_if_absent),
        _objects("put_if_absent", storage.overwriting_objects(storage.records)),
    ),
    _broken(
        "unclear-is-lost",
        "settle an unclear answer by reading back: it may be won",
        _log("commit", commits.unclear_is_lost),
    ),
    _broken(
        "unclear-is-won",
        "settle an unclear answer by reading back: it may be lost",
        _log("_create", commits.unclear_is_won),
    ),
    _broken(
        "unclear-anew",
        "retry an unclear answer with the same attempt",
        _log("commit", commits.unclear_anew),
    ),
    _broken("no-read-back", "'there already' may be one's own echo", _log("commit", commits.no_read_back)),
    _broken(
        "read-back-unsynced", "make a record found by reading back durable", _log("_create", commits.unsynced_read_back)
    ),
    _broken("same-attempt-id", "each attempt has an id of its own", (committer, "secrets", commits.same_attempt_ids)),
    _broken(
        "loser-deletes", "a loser deletes only what the winner does not name", _log("commit", commits.loser_deletes)
    ),
    _broken(
        "announced-early", "announce a chunk after its record", (committer.Committer, "_commit", commits.announce_first)
    ),
    _broken("wrong-range", "a record covers its chunk of the grid", _log("_record_bytes", commits.wrong_range)),
    # -- garbage
    _broken("garbage-at-start", "collect no garbage while workers live", (run, "_work", folding.garbage_at_start)),
    _broken(
        "garbage-before-result",
        "collect garbage after the result",
        (claims.Takeover, "look", folding.garbage_while_waiting),
    ),
    _broken(
        "sidecar-is-garbage",
        "a record's partials file is no garbage",
        (finish, "named_paths", folding.without_sidecar),
    ),
    # -- metrics
    _broken(
        "metrics-in-memory",
        "fold what the records hold",
        (reduction.ReducerSet, "take_partials", folding.remember_partials),
        (reduction.ReducerSet, "fold", folding.fold_from_memory),
    ),
    _broken("arrival-order", "fold in chunk order", (reduction.ReducerSet, "fold", folding.fold_as_they_came)),
    _broken(
        "leaking-partials",
        "reset reducers after each chunk",
        (reduction.ReducerSet, "take_partials", folding.leaking_partials),
    ),
    _broken(
        "report-early",
        "report metrics of a chunk after its commit",
        (sideline.Sideline, "report", folding.report_early),
    ),
    _broken(
        "reports-not-restored",
        "whoever folds makes good the reports of workers that died",
        (finish, "_fold", folding.fold_without_reports),
    ),
    # -- samples that fail
    _broken("silent-quarantine", "a record names the samples set aside", _log("_record_bytes", commits.without_bad)),
    _broken(
        "failed-calls-count",
        "what a call that failed has added to reducers is dropped",
        (recovery.ChunkRecovery, "_start_afresh", folding.start_with_leftovers),
    ),
    _broken(
        "trials-count",
        "trials that look for bad samples hand nothing over",
        (worker.Worker, "_open_chunk_anew", storage.nothing),
    ),
    _broken(
        "retry-shares-folder",
        "a retry of failed samples stages its parts in folders of its own",
        (run_directory, "staging_folder", lambda storage, chunk: f"{chunk:08d}"),
    ),
    # -- the end of a run
    _broken(
        "unsynced-finish",
        "fsync all records before the result",
        (run, "finish_run", endings.finish_run_otherwise(sync=False)),
        seen_at=160,
    ),
    _broken(
        "overwriting-result",
        "create the result exclusively",
        (run, "finish_run", endings.finish_run_otherwise(overwrite=True)),
    ),
    _broken(
        "success-first",
        "write _SUCCESS after the result",
        (run, "finish_run", endings.finish_run_otherwise(success_first=True)),
    ),
    _broken(
        "no-result",
        "end with code 0 after the result is stored",
        (run, "finish_run", endings.finish_run_otherwise(store=False)),
    ),
    _broken(
        "visible-result",
        "end with code 0 after the result is durable",
        (finish, "confirmed_result", endings.visible_result),
        (run, "confirmed_result", endings.visible_result),
    ),
    _broken("unsettled-resume", "a resume settles a result that has no _SUCCESS", (run, "settle_run", storage.nothing)),
    _broken(
        "stopped-is-complete",
        "a worker that was stopped does not say complete",
        (worker.Worker, "work", endings.stopped_is_complete),
        (finish, "read_records", endings.read_what_is_there),
    ),
    _broken(
        "own-chunks-only",
        "finish when all chunks are committed, not only one's own",
        (claims.Takeover, "look", endings.look_at_own_chunks),
        (finish, "read_records", endings.read_what_is_there),
    ),
    _broken(
        "manifest-overwritten",
        "run.json is frozen by whoever comes first",
        _local("put_if_absent", storage.put_if_absent(storage.manifest, publish=storage.by_rename)),
        _objects("put_if_absent", storage.overwriting_objects(storage.manifest)),
    ),
    # -- resume
    _broken(
        "counter-resume",
        "resume from the set of records, not from a counter per rank",
        (claims, "_still_missing", endings.after_counter),
        (claims.Takeover, "look", endings.look_at_barrier),
        (finish, "read_records", endings.read_what_is_there),
    ),
    _broken(
        "no-takeover",
        "take over the chunks of workers that have gone",
        (claims.Takeover, "_choose", endings.choose_nothing),
    ),
    _broken(
        "chunks-not-given-back",
        "the chunks of a worker that died go back to the queue",
        (chunk_board.ChunkBoard, "leave", endings.lose_chunks),
    ),
    _broken(
        "fingerprint-ignored",
        "refuse to resume with other settings",
        (run_directory, "check_fingerprint", storage.nothing),
    ),
    # -- what must not be caught
    _broken(
        "torn-garbage",
        "none: a torn part that no record names is garbage",
        _local("put", storage.put_after_torn_part),
        _objects("put", storage.put_objects_after_torn_part),
        harmless=True,
    ),
)


def find_mutant(name: str) -> Mutant:
    """Return the mutant of a name.

    Raises:
        KeyError: There is none.
    """
    return {mutant.name: mutant for mutant in MUTANTS}[name]
