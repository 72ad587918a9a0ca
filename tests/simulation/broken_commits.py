"""Commits that break one rule of the protocol each; used by mutants only."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

from batchmill.engine import commit_log, committer
from batchmill.engine.commit_log import ChunkDraft, CommitLog, record_path
from batchmill.engine.retries import with_retries
from batchmill.engine.serialization import sha256_hex, unseal
from batchmill.errors import ObjectNotFoundError, StorageError

Committed = tuple[dict[str, Any], bool]

_stage, _record_bytes = CommitLog._stage, CommitLog._record_bytes
_committer_commit = committer.Committer._commit


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
    told = {"chunk": finished.chunk, "reports": finished.reports, "quarantined": finished.quarantined}
    self._committed(finished.chunk, told, True)
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


def without_bad(self: CommitLog, draft: ChunkDraft, staged: Mapping[str, list[dict[str, Any]]]) -> bytes:
    """Say nothing of samples that were set aside."""
    return _record_bytes(self, dataclasses.replace(draft, quarantined=[]), staged)
