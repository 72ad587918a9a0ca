"""What shares chunks among workers. Claims are advice: a wrong one costs duplicate work, never duplicate output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class ChunkQueue(Protocol):
    """A queue of chunks that a launcher keeps for its workers."""

    def take(self, wait: bool) -> int | None:
        """Return a chunk for this worker, or None.

        Args:
            wait: Block while chunks are still being worked on elsewhere (one may come back); None then means
                that the run is finished. Without it, None means that nothing is free at this moment.
        """
        ...


@dataclass(frozen=True)
class ClaimScope:
    """What a claims component may know.

    Attributes:
        chunks: Number of chunks in the run; they are numbered 0..chunks-1.
        rank: This worker's rank.
        world_size: Number of workers.
        missing: Returns the chunks not yet committed, ascending, read afresh from the commit log.
        queue: The launcher's queue, where it keeps one.
        counter: Adds one to a counter shared by all workers of this launch and returns the old value, where the
            launcher's environment offers one.
        joined: Whether this launch works beside another one, which goes through the chunks in order; in any other order
            the two meet seldom.
    """

    chunks: int
    rank: int
    world_size: int
    missing: Callable[[], list[int]]
    queue: ChunkQueue | None = None
    counter: Callable[[], int] | None = None
    joined: bool = False


class Claims(ABC):
    """Hands this worker its chunks."""

    @abstractmethod
    def next_chunk(self, wait: bool) -> int | None:
        """Return the next chunk for this worker, or None if there is none for it at present.

        Args:
            wait: Whether the worker has nothing else to do. A source that cannot wait returns None at once; the
                engine then watches the commit log and takes over chunks whose worker has gone.
        """
