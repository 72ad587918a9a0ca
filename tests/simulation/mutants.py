"""The rules of the commit protocol, each broken in turn. A simulator that misses one of these proves nothing.

A mutant replaces functions of the engine or of first-party storage while a schedule runs; no file is edited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import batchmill_plugins.storage._local as local
import batchmill_plugins.storage._object_store as object_store
import batchmill_plugins.storage._posix as posix
from batchmill.engine import claims, commit_log, committer, finish, reduction, run

from . import broken_engine as engine
from . import broken_storage as storage

Replacement = tuple[Any, str, Any]


@dataclass(frozen=True)
class Mutant:
    """One broken rule.

    Attributes:
        name: Short name for the command line.
        rule: The rule that it breaks, in words.
        replacements: Owner, attribute and what stands in its place.
        harmless: Whether it breaks no rule, and must not be caught.
        renames: Whether files have other names by it, so that results may differ from the reference in names.
        seen_at: A seed from which on few schedules are needed to expose it; found by trial.
    """

    name: str
    rule: str
    replacements: tuple[Replacement, ...]
    harmless: bool = False
    renames: bool = False
    seen_at: int = 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Break the rule inside the block."""
        with ExitStack() as stack:
            for owner, name, value in self.replacements:
                stack.enter_context(patch.object(owner, name, value))
            yield


def _parts(path: str) -> bool:
    return path.startswith("parts/")


def _records(path: str) -> bool:
    return path.startswith("commits/")


def _ends(path: str) -> bool:
    return path in ("result.json", "_SUCCESS")


def _local(method: str, value: Callable[..., Any]) -> Replacement:
    return (local.LocalStorage, method, value)


def _objects(method: str, value: Callable[..., Any]) -> Replacement:
    return (object_store.ObjectStorage, method, value)


def _log(method: str, value: Callable[..., Any]) -> Replacement:
    return (commit_log.CommitLog, method, value)


MUTANTS: tuple[Mutant, ...] = (
    # -- order and durability of what is stored
    Mutant(
        "record-first", "stage parts and files before the record names them", (_log("commit", engine.record_first),)
    ),
    Mutant(
        "shared-part",
        "a part has a name of its own and appears at once",
        (_log("_stage", engine.stage_under_shared_name), _local("put", storage.put_in_place)),
        renames=True,
    ),
    Mutant("part-contents", "fsync a part's contents", (_local("put", storage.put(_parts, contents=False)),)),
    Mutant("part-name", "fsync a part's folder", (_local("put", storage.put(_parts, name=False)),)),
    Mutant(
        "record-contents",
        "fsync a record's contents",
        (_local("put_if_absent", storage.put_if_absent(_records, contents=False)),),
    ),
    Mutant(
        "record-name",
        "fsync the folder of records before a record is announced",
        (_local("put_if_absent", storage.put_if_absent(_records, name=False)),),
    ),
    Mutant(
        "result-name",
        "fsync the folder of result.json before exit code 0",
        (_local("put_if_absent", storage.put_if_absent(_ends, name=False)),),
    ),
    Mutant(
        "folder-names",
        "fsync the folders that hold new folders",
        ((posix, "make_folder_durable", storage.make_folder),),
    ),
    Mutant(
        "path-names", "fsync the path above a run that others made", ((posix, "make_path_durable", storage.nothing),)
    ),
    # -- one winner, and everyone knows who
    Mutant(
        "overwriting-record",
        "create a record exclusively, by link or If-None-Match",
        (
            _local("put_if_absent", storage.put_if_absent(_records, publish=storage.by_rename)),
            _objects("put_if_absent", storage.overwriting_objects(_records)),
        ),
    ),
    Mutant(
        "check-then-write",
        "create a record in one step, not by looking first",
        (
            _local("put_if_absent", storage.put_if_absent(_records, publish=storage.by_checked_rename)),
            _objects("put_if_absent", storage.checked_objects(_records)),
        ),
    ),
    Mutant(
        "lock-instead",
        "never trust the lock: it may be held twice, or by a zombie",
        (
            _local("put_if_absent", storage.locked_put_if_absent),
            _objects("put_if_absent", storage.overwriting_objects(_records)),
        ),
    ),
    Mutant(
        "unclear-is-lost",
        "settle an unclear answer by reading back: it may be won",
        (_log("commit", engine.unclear_is_lost),),
    ),
    Mutant(
        "unclear-is-won",
        "settle an unclear answer by reading back: it may be lost",
        (_log("_create", engine.unclear_is_won),),
    ),
    Mutant("unclear-anew", "retry an unclear answer with the same attempt", (_log("commit", engine.unclear_anew),)),
    Mutant("no-read-back", "'there already' may be one's own echo", (_log("commit", engine.no_read_back),)),
    Mutant(
        "read-back-unsynced",
        "make a record found by reading back durable",
        (_log("_create", engine.unsynced_read_back),),
    ),
    Mutant("same-attempt-id", "each attempt has an id of its own", ((committer, "secrets", engine.same_attempt_ids),)),
    Mutant(
        "loser-deletes", "a loser deletes only what the winner does not name", (_log("commit", engine.loser_deletes),)
    ),
    Mutant(
        "announced-early",
        "announce a chunk after its record",
        ((committer.Committer, "_commit", engine.announce_first),),
    ),
    Mutant("wrong-range", "a record covers its chunk of the grid", (_log("_record_bytes", engine.wrong_range),)),
    # -- garbage
    Mutant("garbage-at-start", "collect no garbage while workers live", ((run, "_work", engine.garbage_at_start),)),
    Mutant(
        "garbage-before-result",
        "collect garbage after the result",
        ((claims.Takeover, "look", engine.garbage_while_waiting),),
    ),
    Mutant(
        "sidecar-is-garbage",
        "a record's partials file is no garbage",
        ((finish, "named_paths", engine.without_sidecar),),
    ),
    # -- metrics
    Mutant(
        "metrics-in-memory",
        "fold what the records hold",
        (
            (reduction.ReducerSet, "take_partials", engine.remember_partials),
            (reduction.ReducerSet, "fold", engine.fold_from_memory),
        ),
    ),
    Mutant("arrival-order", "fold in chunk order", ((reduction.ReducerSet, "fold", engine.fold_as_they_came),)),
    Mutant(
        "leaking-partials",
        "reset reducers after each chunk",
        ((reduction.ReducerSet, "take_partials", engine.leaking_partials),),
    ),
    # -- the end of a run
    Mutant("unsynced-finish", "fsync all records before the result", ((run, "finish_run", engine.finish(sync=False)),)),
    Mutant(
        "overwriting-result", "create the result exclusively", ((run, "finish_run", engine.finish(overwrite=True)),)
    ),
    Mutant(
        "success-first", "write _SUCCESS after the result", ((run, "finish_run", engine.finish(success_first=True)),)
    ),
    Mutant(
        "no-result", "end with code 0 after the result is stored", ((run, "finish_run", engine.finish(store=False)),)
    ),
    Mutant(
        "visible-result",
        "end with code 0 after the result is durable",
        ((finish, "confirmed_result", engine.visible_result), (run, "confirmed_result", engine.visible_result)),
    ),
    Mutant(
        "own-chunks-only",
        "finish when all chunks are committed, not only one's own",
        ((claims.Takeover, "look", engine.look_at_own_chunks), (finish, "read_records", engine.read_what_is_there)),
    ),
    Mutant(
        "manifest-overwritten",
        "run.json is frozen by whoever comes first",
        (
            _local("put_if_absent", storage.put_if_absent(lambda path: path == "run.json", publish=storage.by_rename)),
            _objects("put_if_absent", storage.overwriting_objects(lambda path: path == "run.json")),
        ),
    ),
    # -- resume
    Mutant(
        "counter-resume",
        "resume from the set of records, not from a counter per rank",
        (
            (claims, "_still_missing", engine.after_counter),
            (claims.Takeover, "look", engine.look_at_barrier),
            (finish, "read_records", engine.read_what_is_there),
        ),
    ),
    Mutant(
        "no-takeover",
        "take over the chunks of workers that have gone",
        ((claims.Takeover, "_choose", engine.choose_nothing),),
    ),
    # -- what must not be caught
    Mutant(
        "torn-garbage",
        "none: a torn part that no record names is garbage",
        (_local("put", storage.put_after_torn_part), _objects("put", storage.put_objects_after_torn_part)),
        harmless=True,
    ),
)


def find_mutant(name: str) -> Mutant:
    """Return the mutant of a name.

    Raises:
        KeyError: There is none.
    """
    return {mutant.name: mutant for mutant in MUTANTS}[name]
