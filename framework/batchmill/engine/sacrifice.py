"""Rows that kill the process that handles them: tried in another process, which may die of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Protocol

from batchmill.engine.grid import Grid
from batchmill.engine.isolation import filled
from batchmill.engine.quarantine import SampleError, SampleFailure, find_bad_rows


class TrialProcess(Protocol):
    """A process with the run's dataset and a processor of its own, which nobody's results depend on."""

    def attempt(self, batch_idx: int, positions: Sequence[int]) -> SampleFailure | None:
        """Process rows of a batch there.

        Args:
            batch_idx: The batch.
            positions: Positions of the rows; as many as the batch has, so they may repeat.

        Returns:
            How the process died or hung; None if it lives, whether or not it raised an error.

        Raises:
            OutOfTime: The worker must leave.
        """

    def close(self) -> None:
        """End the process."""


def find_deadly_rows(
    grid: Grid,
    chunk: int,
    start_process: Callable[[], TrialProcess],
    spend: Callable[[int, SampleFailure], None],
) -> dict[int, dict[int, SampleFailure]]:
    """Find the rows of a chunk that kill or hang the process that handles them.

    Args:
        grid: The run's grid.
        chunk: The chunk.
        start_process: Starts a process to try in.
        spend: Told of each such sample, by index; may raise to give up.

    Returns:
        For each batch with such rows, what they do, by position.
    """
    deadly: dict[int, dict[int, SampleFailure]] = {}
    with closing(start_process()) as process:
        for batch_idx in range(*grid.chunk_batch_range(chunk)):
            start, stop = grid.batch_range(batch_idx)
            rows = stop - start
            bad: dict[int, SampleFailure] = {}

            def attempt(positions: Sequence[int], batch_idx: int = batch_idx, rows: int = rows) -> None:
                failure = process.attempt(batch_idx, filled(positions, rows))
                if failure is not None:
                    raise SampleError(failure)

            def found(
                position: int, failure: SampleFailure, start: int = start, bad: dict[int, SampleFailure] = bad
            ) -> None:
                bad[position] = failure
                spend(start + position, failure)

            try:
                attempt(range(rows))
            except SampleError:
                find_bad_rows(range(rows), attempt, found)
            if bad:
                deadly[batch_idx] = bad
    return deadly
