"""Sharing chunks among workers: static shares, dynamic queues, and taking over from workers that have gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from batchmill.contracts.claims import Claims, ClaimScope

# One shared-counter step claims this share of a worker's fair part, so that few steps are needed and the tail is even.
_BLOCKS_PER_WORKER = 32


class StaticClaims(Claims):
    """Chunk c belongs to rank ``c mod world_size``, as the seed shards batches."""

    def __init__(self, scope: ClaimScope) -> None:
        self._chunks = iter([c for c in scope.missing() if c % scope.world_size == scope.rank])

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
            if scope.world_size == 1:
                self._chunks = iter(scope.missing())
            elif scope.counter is not None:
                self._chunks = _counted(scope, scope.counter)
            else:
                self._chunks = iter([c for c in scope.missing() if c % scope.world_size == scope.rank])

    def next_chunk(self, wait: bool) -> int | None:
        """Return the next chunk for this worker, or None."""
        if self._queue is not None:
            return self._queue.take(wait)
        return next(self._chunks, None)


def _counted(scope: ClaimScope, counter: Callable[[], int]) -> Iterator[int]:
    missing = set(scope.missing())
    block = max(1, scope.chunks // (scope.world_size * _BLOCKS_PER_WORKER))
    while (first := counter() * block) < scope.chunks:
        for chunk in range(first, min(first + block, scope.chunks)):
            if chunk in missing:
                yield chunk


class Takeover:
    """Decides when a worker without work of its own takes over a chunk that seems abandoned.

    It watches the commit log: as long as it grows, others are alive. After ``patience`` seconds without any new
    record the worker takes one missing chunk, a different one on each rank. That costs duplicate work if the
    owner was only slow, and never duplicate output.

    Args:
        scope: What this worker may know.
        patience: Seconds without progress before a chunk is taken over.
        clock: Monotonic seconds.
    """

    def __init__(self, scope: ClaimScope, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._scope, self._patience, self._clock = scope, patience, clock
        self._missing: list[int] | None = None
        self._since = clock()

    def look(self) -> tuple[bool, int | None]:
        """Return whether every chunk is committed, and the chunk to take over now, if any."""
        missing = self._scope.missing()
        if not missing:
            return True, None
        if missing != self._missing:
            self._missing, self._since = missing, self._clock()
        if self._clock() - self._since < self._patience:
            return False, None
        self._since = self._clock()
        return False, missing[self._scope.rank % len(missing)]
