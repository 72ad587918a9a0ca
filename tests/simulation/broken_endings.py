"""Ends and resumes of runs that break one rule each; used by mutants only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from batchmill.contracts.claims import ClaimScope
from batchmill.engine import claims, finish, worker
from batchmill.engine.reduction import ReducerSet
from batchmill.engine.retries import with_retries
from batchmill.engine.run_directory import RESULT, SUCCESS, RunDirectory
from batchmill.engine.serialization import canonical_json, seal, sha256_hex, unseal
from batchmill.launch.chunk_board import Answers, ChunkBoard

from .runtime import active

_read_records, _fold, _settle_run = finish.read_records, finish._fold, finish.settle_run
_worker_work = worker.Worker.work


def finish_run_otherwise(
    *, sync: bool = True, overwrite: bool = False, success_first: bool = False, store: bool = True
) -> Callable[..., dict[str, Any]]:
    """Return a ``finish_run`` that leaves a step out or does it in another way."""

    def broken_finish(run: RunDirectory, reducers: ReducerSet, restore: Any) -> dict[str, Any]:
        stored = None if overwrite else run.read_result()
        if stored is not None:
            _settle_run(run, stored, restore, collect=False)
            return stored
        if sync:
            with_retries(lambda: run.storage.sync("commits"))
        data = seal(_fold(run, reducers, restore))
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
        _settle_run(run, stored, restore, collect=True)
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


def stopped_is_complete(self: worker.Worker) -> bool:
    """Take a run for complete when its worker has been stopped."""
    return _worker_work(self) or self.stop.requested


def lose_chunks(self: ChunkBoard, rank: int) -> Answers:
    """Forget the chunks of a worker that has gone."""
    if rank in self._waiting:
        self._waiting.remove(rank)
    lost = self._held.pop(rank, [])
    self._handed_out = [chunk for chunk in self._handed_out if chunk not in lost]
    return self._serve()
