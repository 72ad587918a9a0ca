"""What a component promises that keeps something of its own with every chunk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any


class Stateful(ABC):
    """A selected component (callback, tracker, writer, dataset, claims) with a state that survives crashes.

    What it has gathered in a chunk is stored in the chunk's commit record, together with the chunk's results: both or
    neither. A resumed worker is given everything that was committed before, whoever committed it. State belongs to
    chunks and not to workers, so that any number of workers may go on.
    """

    @abstractmethod
    def reset_state(self) -> None:
        """Forget what was gathered since the last chunk. Called on every rank, also when a chunk is dropped."""

    @abstractmethod
    def chunk_state(self) -> Any:
        """Return what was gathered in the chunk that ends. Called on every rank, after ``on_checkpoint_start``.

        Returns:
            Anything made of None, bool, int, float (not NaN), str, bytes, list, tuple, dict, torch tensors and numpy
            arrays; it is stored without pickle.
        """

    @abstractmethod
    def restore_states(self, states: Iterator[tuple[int, Any]]) -> None:
        """Take what is committed so far. Called once on every rank, before ``on_run_start``; with nothing in a new run.

        Args:
            states: Chunk number and what ``chunk_state`` returned for it, by ascending chunk; chunks that were
                committed without this component are left out.
        """
