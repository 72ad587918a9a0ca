"""Who works on which chunk: the supervisor's bookkeeping, pure and without processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from batchmill.engine.claims import scattered

Answers = dict[int, int | None]


class ChunkBoard:
    """Hands out chunks in order, takes back those of workers that left, and says when all are committed.

    Every method returns the answers that are now due: rank to chunk, or to None (nothing for you now; to a waiting
    worker: the run is finished).

    Args:
        chunks: Chunks in the run.
        committed: Chunks that are committed already.
        joined: Whether another launcher hands out the same chunks, in order; in random order the two meet seldom.
    """

    def __init__(self, chunks: int, committed: Iterable[int], joined: bool = False) -> None:
        self._committed = set(committed)
        self._chunks = chunks
        free = [chunk for chunk in range(chunks) if chunk not in self._committed]
        self._free = deque(scattered(free) if joined else free)
        self._held: dict[int, list[int]] = {}
        self._handed_out: list[int] = []
        self._waiting: deque[int] = deque()

    @property
    def complete(self) -> bool:
        """Whether every chunk is committed."""
        return len(self._committed) == self._chunks

    def ask(self, rank: int, wait: bool) -> Answers:
        """A worker asks for a chunk; one that waits is answered when there is one, or when all are committed."""
        if wait:
            self._waiting.append(rank)
            return self._serve()
        return {rank: self._hand_out(rank)}

    def commit(self, chunk: int) -> Answers:
        """A chunk is committed."""
        self._committed.add(chunk)
        for held in self._held.values():
            if chunk in held:
                held.remove(chunk)
        if chunk in self._handed_out:
            self._handed_out.remove(chunk)
        return self._serve()

    def lend(self) -> Answers | None:
        """Give a waiting worker a copy of the chunk that others have had for longest; None if nobody waits for one."""
        held = [(chunk, rank) for rank, chunks in self._held.items() for chunk in chunks]
        for borrower in self._waiting:
            chunks = [chunk for chunk, rank in held if rank != borrower and chunk not in self._held.get(borrower, [])]
            if chunks:
                chunk = min(chunks, key=self._handed_out.index)
                self._waiting.remove(borrower)
                self._held.setdefault(borrower, []).append(chunk)
                self._handed_out.remove(chunk)
                self._handed_out.append(chunk)
                return {borrower: chunk}
        return None

    def leave(self, rank: int) -> Answers:
        """A worker is gone; its uncommitted chunks are free again, first in line."""
        if rank in self._waiting:
            self._waiting.remove(rank)
        given_up = self._held.pop(rank, [])
        elsewhere = {chunk for held in self._held.values() for chunk in held}
        back = [chunk for chunk in sorted(given_up, reverse=True) if chunk not in elsewhere]
        self._handed_out = [chunk for chunk in self._handed_out if chunk not in back]
        self._free.extendleft(back)
        return self._serve()

    def _serve(self) -> Answers:
        answers: Answers = {}
        while self._waiting and (self.complete or self._free):
            rank = self._waiting.popleft()
            chunk = self._hand_out(rank)
            if chunk is None and not self.complete:
                self._waiting.appendleft(rank)
                break
            answers[rank] = chunk
        return answers

    def _hand_out(self, rank: int) -> int | None:
        while self._free:
            chunk = self._free.popleft()
            if chunk not in self._committed:
                self._held.setdefault(rank, []).append(chunk)
                self._handed_out.append(chunk)
                return chunk
        return None
