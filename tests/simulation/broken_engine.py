"""Functions of the engine that break one rule of the protocol each; used by mutants only."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from batchmill.contracts.claims import ClaimScope
from batchmill.engine import claims, commit_log, committer, finish, reduction, run
from batchmill.engine.commit_log import ChunkDraft, CommitLog, record_path, with_retries
from batchmill.engine.run_directory import RESULT, SUCCESS, RunDirectory
from batchmill.engine.serialization import canonical_json, decode_value, encode_value, seal, sha256_hex, unseal
from batchmill.errors import ObjectNotFoundError, StorageError

from .runtime import active

Committed = tuple[dict[str, Any], bool]

_stage, _record_bytes, _commit = CommitLog._stage, CommitLog._record_bytes, CommitLog.commit
_take_partials, _fold = reduction.ReducerSet.take_partials, reduction.ReducerSet.fold
_look, _work, _read_records = claims.Takeover.look, run._work, finish.read_records
_committer_commit = committer.Committer._commit


# -- commits


def record_first(self: CommitLog, draft: ChunkDraft) -> Committed:
    """Create the record, and store what it names afterwards."""
    later: list[tuple[str, bytes]] = []

    def put(name: str, data: bytes, digest: str, **facts: int) -> dict[str, Any]:
        later.append((name, data))
        return {"name": name, **facts, "bytes": len(data), "sha256": digest}

    shadow = copy.copy(self)
    shadow._put = put  # type: ignore[method-assign]
    data = _record_bytes(self, draft, _stage(shadow, draft))
    won = self._create(record_path(draft.chunk), data, draft.attempt)
    for name, contents in later:
        with_retries(lambda name=name, contents=contents: self._storage.put(name, contents))  # type: ignore[misc]
    return (unseal(data, "record"), True) if won else (self.read(draft.chunk), False)


def stage_under_shared_name(self: CommitLog, draft: ChunkDraft) -> dict[str, list[dict[str, Any]]]:
    """Give the part of every attempt at a chunk one and the same name."""
    part, shared = draft.part, f"parts/{draft.chunk:08d}/part.json"
    staged = _stage(self, dataclasses.replace(draft, part=None))
    if part is not None:
        staged["parts"].append(self._put(shared, part, sha256_hex(part), rows=draft.rows))
    return staged


def unclear_is_lost(self: CommitLog, draft: ChunkDraft) -> Committed:
    """Take an error for a loss, and delete what was staged."""
    try:
        return _attempt(self, draft, lambda path, data: self._storage.put_if_absent(path, data), keep_winner=True)
    except StorageError:
        return _attempt(self, draft, lambda path, data: False, keep_winner=False)


def no_read_back(self: CommitLog, draft: ChunkDraft) -> Committed:
    """Take "there already" for a loss, and delete what was staged, without reading who won."""
    create: Callable[[str, bytes], bool] = lambda path, data: with_retries(  # noqa: E731
        lambda: self._storage.put_if_absent(path, data)
    )
    return _attempt(self, draft, create, keep_winner=False)


def loser_deletes(self: CommitLog, draft: ChunkDraft) -> Committed:
    """Delete what was staged after a loss, whether the winner names it or not."""
    return _attempt(self, draft, lambda path, data: self._create(path, data, draft.attempt), keep_winner=False)


def unclear_anew(self: CommitLog, draft: ChunkDraft) -> Committed:
    """After an error withdraw what was staged, and begin again as another attempt."""
    for again in range(6):
        staged = _stage(self, draft)
        data = _record_bytes(self, draft, staged)
        try:
            if self._storage.put_if_absent(record_path(draft.chunk), data):
                return unseal(data, "record"), True
            return self.read(draft.chunk), False
        except StorageError:
            _delete(self, staged, ())
            draft = dataclasses.replace(draft, attempt=f"{draft.attempt[:-1]}{again}")
    raise StorageError("storage kept failing")


def unclear_is_won(self: CommitLog, path: str, data: bytes, attempt: str) -> bool:
    """Take an error for a success."""
    try:
        return self._storage.put_if_absent(path, data) or bool(self.read(int(path[8:-5]))["attempt"] == attempt)
    except StorageError:
        return True


def unsynced_read_back(self: CommitLog, path: str, data: bytes, attempt: str) -> bool:
    """Settle an unclear answer by what is visible, durable or not."""

    def create_or_settle() -> bool:
        try:
            if self._storage.put_if_absent(path, data):
                return True
        except StorageError as error:
            try:
                return bool(unseal(self._storage.get(path), path)["attempt"] == attempt)
            except ObjectNotFoundError:
                raise error from None
        return bool(unseal(self._storage.get(path), path)["attempt"] == attempt)

    return with_retries(create_or_settle)


same_attempt_ids = SimpleNamespace(token_hex=lambda size: "0" * 2 * size)


def announce_first(self: committer.Committer, finished: committer.FinishedChunk) -> None:
    """Tell of the commit before it is done."""
    self._committed(finished.chunk, {"chunk": finished.chunk, "reports": finished.reports}, True)
    _committer_commit(self, finished)


def wrong_range(self: CommitLog, draft: ChunkDraft, staged: Mapping[str, list[dict[str, Any]]]) -> bytes:
    """Let the records of odd chunks cover one sample more than they hold, as on another grid."""
    return _record_bytes(self, dataclasses.replace(draft, stop=draft.stop + draft.chunk % 2), staged)


def _attempt(self: CommitLog, draft: ChunkDraft, create: Callable[[str, bytes], bool], keep_winner: bool) -> Committed:
    staged = _stage(self, draft)
    data = _record_bytes(self, draft, staged)
    if create(record_path(draft.chunk), data):
        return unseal(data, "record"), True
    winner = unseal(data, "record")
    try:
        winner = self.read(draft.chunk)
    except ObjectNotFoundError:
        pass
    _delete(self, staged, set(commit_log.named_paths(winner)) if keep_winner else ())
    return winner, False


def _delete(self: CommitLog, staged: Mapping[str, list[dict[str, Any]]], kept: Iterable[str]) -> None:
    for name in (named["name"] for group in staged.values() for named in group):
        if name not in kept:
            with_retries(lambda name=name: self._storage.delete(name))  # type: ignore[misc]


# -- garbage


def garbage_at_start(opened: Any, *arguments: Any) -> bool:
    """Delete what no record names whenever a worker begins."""
    _collect(opened.directory.storage, opened.directory.log)
    return _work(opened, *arguments)


def garbage_while_waiting(self: claims.Takeover) -> tuple[bool, int | None]:
    """Delete what no record names while waiting for others."""
    storage = active().make_storage()
    _collect(storage, CommitLog(storage, self._scope.chunks))
    return _look(self)


def without_sidecar(record: Mapping[str, Any]) -> Iterator[str]:
    """Forget that a record may name a file of partials."""
    for named in (*record["parts"], *record["files"]):
        yield named["name"]


def _collect(storage: Any, log: CommitLog) -> None:
    named = {path for chunk in sorted(log.committed()) for path in commit_log.named_paths(log.read(chunk))}
    for info in with_retries(lambda: [*storage.list("parts"), *storage.list("files")]):
        if info.path not in named:
            with_retries(lambda info=info: storage.delete(info.path))  # type: ignore[misc]


# -- metrics


def remember_partials(self: reduction.ReducerSet) -> dict[str, Any]:
    """Keep partials in the worker, too."""
    partials = _take_partials(self)
    vars(self).setdefault("remembered", []).append(partials)
    return partials


def fold_from_memory(self: reduction.ReducerSet, partials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fold what this worker remembers."""
    return _fold(self, vars(self).get("remembered", []))


def fold_as_they_came(self: reduction.ReducerSet, partials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Fold in the order of the commits."""
    arrivals = active().arrivals
    return _fold(self, [partials[chunk] for chunk in sorted(range(len(partials)), key=arrivals.index)])


def leaking_partials(self: reduction.ReducerSet) -> dict[str, Any]:
    """Forget to reset reducers."""
    return {name: encode_value(decode_value(reducer.per_slot_reduce())) for name, reducer in self._reducers.items()}


# -- the end of a run


def finish(
    *, sync: bool = True, overwrite: bool = False, success_first: bool = False, store: bool = True
) -> Callable[..., dict[str, Any]]:
    """Return a ``finish_run`` that leaves a step out or does it in another way."""

    def broken_finish(run: RunDirectory, reducers: reduction.ReducerSet, restore: Any) -> dict[str, Any]:
        from batchmill.engine import finish as real

        stored = None if overwrite else run.read_result()
        if stored is not None:
            real.settle_run(run, stored, restore, collect=False)
            return stored
        if sync:
            with_retries(lambda: run.storage.sync("commits"))
        data = seal(real._fold(run, reducers, restore))
        stored = unseal(data, RESULT)
        if not store:
            return stored
        if success_first:
            digest = sha256_hex(canonical_json(stored))
            with_retries(lambda: run.storage.put_if_absent(SUCCESS, f"{digest}\n".encode()))
        if overwrite:
            with_retries(lambda: run.storage.put(RESULT, data))
        else:
            with_retries(lambda: run.storage.put_if_absent(RESULT, data))
        real.settle_run(run, stored, restore, collect=True)
        return stored

    return broken_finish


def visible_result(run: RunDirectory) -> dict[str, Any] | None:
    """Take a result that is there for one that is durable."""
    return run.read_result() if run.storage.exists(SUCCESS) else None


def look_at_own_chunks(self: claims.Takeover) -> tuple[bool, int | None]:
    """Take the run for complete when one's own share is."""
    rank, size = self._scope.rank, self._scope.world_size
    own = [chunk for chunk in self._scope.missing() if chunk % size == rank]
    return not own, own[0] if own else None


def read_what_is_there(run: RunDirectory, chunks: list[int]) -> Iterator[dict[str, Any]]:
    """Fold the records that there are."""
    committed = run.log.committed()
    return _read_records(run, [chunk for chunk in chunks if chunk in committed])


# -- resume


def after_counter(scope: ClaimScope, chunks: Iterable[int], clock: Any = None) -> Iterator[int]:
    """Skip as many chunks of the share as each rank has done, if all went forward evenly: a counter, not a set."""
    share = list(chunks)
    done = (scope.chunks - len(scope.missing())) // scope.world_size
    return iter(share[done:])


def look_at_barrier(self: claims.Takeover) -> tuple[bool, int | None]:
    """Take the run for complete when every rank of the launch has come to the end of its share."""
    simulation = active()
    arrived = vars(simulation).setdefault("barriers", {}).setdefault(simulation.current_process().group, set())
    arrived.add(self._scope.rank)
    return len(arrived) == self._scope.world_size, None


def choose_nothing(self: claims.Takeover, missing: list[int]) -> None:
    """Take over nothing, ever."""
