"""Sharing chunks among workers: static shares, dynamic queues, and taking over from workers that have gone."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from batchmill.contracts.claims import Claims, ClaimScope

# One shared-counter step claims this share of a worker's fair part, so that few steps are needed and the tail is even.
_BLOCKS_PER_WORKER = 32
# Seconds between looks at the commit log while a worker goes through its own chunks, and how many times longer than a
# look itself that must be: a listing of many records, or a slow one, may not cost the worker its time.
_LOOK_INTERVAL, _LOOK_SHARE = 5.0, 100


class StaticClaims(Claims):
    """Chunk c belongs to rank ``c mod world_size``, as the seed shards batches."""

    def __init__(self, scope: ClaimScope) -> None:
        self._chunks = _still_missing(scope, _share(scope))

    def next_chunk(self, wait: bool) -> int | None:
        """Return the next chunk of this rank's share, or None after the last."""
        return next(self._chunks, None)


class DynamicClaims(Claims):
    """Each worker takes the next free chunk when it has time, so that a slow one holds nobody up.

    Uses the launcher's queue, else a counter shared by the launch, else falls back to static shares; a single
    worker just goes through what is missing.
    """

    def __init__(self, scope: ClaimScope) -> None:
        self._queue = scope.queue
        self._chunks: Iterator[int] = iter(())
        if scope.queue is None:
            chunks: Iterable[int] = _share(scope)
            if scope.counter is not None and scope.world_size > 1:
                chunks = _counted(scope, scope.counter)
            self._chunks = _still_missing(scope, chunks)

    def next_chunk(self, wait: bool) -> int | None:
        """Return the next chunk for this worker, or None."""
        if self._queue is not None:
            return self._queue.take(wait)
        return next(self._chunks, None)


class UncommittedClaims(Claims):
    """Passes over chunks that others have committed: another launch on the same run, or one that took them over.

    Args:
        claims: Where chunks come from.
        is_committed: Asks the commit log about one chunk.
        passed_over: Told of each chunk that was committed already.
    """

    def __init__(self, claims: Claims, is_committed: Callable[[int], bool], passed_over: Callable[[int], None]) -> None:
        self._claims, self._is_committed, self._passed_over = claims, is_committed, passed_over

    def next_chunk(self, wait: bool) -> int | None:
        """Return the next chunk that nobody has committed, or None."""
        while (chunk := self._claims.next_chunk(wait)) is not None and self._is_committed(chunk):
            self._passed_over(chunk)
        return chunk


def _counted(scope: ClaimScope, counter: Callable[[], int]) -> Iterator[int]:
    block = max(1, scope.chunks // (scope.world_size * _BLOCKS_PER_WORKER))
    last = scope.chunks - 1
    while (first := counter() * block) < scope.chunks:
        for chunk in range(first, min(first + block, scope.chunks)):
            yield last - chunk if scope.joined else chunk  # the workers of one launch must agree on the order


def _share(scope: ClaimScope) -> Sequence[int]:
    share = range(scope.rank, scope.chunks, scope.world_size)
    return scattered(share) if scope.joined else share


def scattered(chunks: Iterable[int]) -> list[int]:
    """Return the chunks in random order; torch's, numpy's and Python's seeded generators are left alone."""
    shuffled = list(chunks)
    random.SystemRandom().shuffle(shuffled)
    return shuffled


def _still_missing(
    scope: ClaimScope, chunks: Iterable[int], clock: Callable[[], float] = time.monotonic
) -> Iterator[int]:
    """Yield those of ``chunks`` that nobody has committed, looking afresh now and then.

    So a worker that was stopped for long, or whose chunks others took over, does not repeat what is done.
    """
    next_look, missing = -math.inf, set[int]()
    for chunk in chunks:
        began = clock()
        if began >= next_look:
            missing = set(scope.missing())
            next_look = clock() + max(_LOOK_INTERVAL, _LOOK_SHARE * (clock() - began))
        if chunk in missing:
            yield chunk


class Takeover:
    """Decides when a worker without work of its own takes over chunks that seem abandoned.

    Owners go through their chunks in order, so the first missing chunk stays the same only while its owner works on
    it, or has gone. After ``patience`` seconds of that, this worker takes over the other missing chunks one after
    another, without waiting again: its own share of them first, and from the end, where their owner would come last.
    The first missing chunk itself comes last of all; once it is committed, its owner is alive, and waiting begins
    anew. A wrong guess costs duplicate work, never duplicate output.

    Args:
        scope: What this worker may know.
        patience: Seconds without progress before chunks are taken over.
        clock: Monotonic seconds.
    """

    def __init__(self, scope: ClaimScope, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._scope, self._patience, self._clock = scope, patience, clock
        self._first: int | None = None
        self._since = clock()

    def look(self) -> tuple[bool, int | None]:
        """Return whether every chunk is committed, and the chunk to take over now, if any."""
        missing = self._scope.missing()
        if not missing:
            return True, None
        if missing[0] != self._first:
            self._first, self._since = missing[0], self._clock()
        if self._clock() - self._since < self._patience:
            return False, None
        return False, self._choose(missing)

    def _choose(self, missing: list[int]) -> int:
        rank, size = self._scope.rank, self._scope.world_size
        others = missing[1:]
        # Every worker that takes over has a share of its own in any rank's chunks.
        ours = [chunk for chunk in others if chunk // size % size == rank]
        if ours:
            return ours[-1]
        return others[rank % len(others)] if others else missing[0]
