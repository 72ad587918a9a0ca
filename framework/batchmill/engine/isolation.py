"""Finding the bad rows of one batch, by trials that all have the batch's own shape.

Rows that are not tried are replaced by rows that are, each row staying in its place. So the good rows' results keep
their bits, and models of a fixed shape can be tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from batchmill.engine.grid import Grid
from batchmill.engine.micro_batching import MicroBatches, RowOutOfMemory, is_out_of_memory
from batchmill.engine.output_buffer import nonfinite_rows
from batchmill.engine.output_rows import select_outputs
from batchmill.engine.quarantine import SampleError, SampleFailure, find_bad_rows
from batchmill.engine.ranges import ReadFailure
from batchmill.engine.reading import BatchSource
from batchmill.engine.user_code import drop_frames
from batchmill.errors import BatchmillError, OutputError, ReducerError


class NonFinite(Exception):
    """Some rows' results are not finite.

    Attributes:
        failures: Failures by position in the batch.
    """

    def __init__(self, failures: dict[int, SampleFailure]) -> None:
        super().__init__(f"{len(failures)} rows are not finite")
        self.failures = failures


class OutOfMemory(Exception):
    """A batch, or a piece of it, did not fit into memory."""


class OutOfTime(Exception):
    """The worker must leave; the chunk is someone else's."""


@dataclass(frozen=True)
class Isolated:
    """A batch whose bad rows are known.

    Attributes:
        good: Positions of the good rows, ascending.
        outputs: The good rows' outputs.
        pieces: Samples in the pieces in which they were processed; None: in the batch's own shape.
    """

    good: list[int]
    outputs: Any
    pieces: int | None


@dataclass(frozen=True)
class Trials:
    """Tries rows of batches.

    Attributes:
        grid: The run's grid.
        source: Reads single samples.
        run: Calls ``process_batch``, in pieces where memory is short.
        on_nonfinite: What NaN and infinity in results mean.
        forget: Called before each trial, to forget the reports and files that the last one handed over.
        overdue: Asks before each trial whether the worker must leave.
    """

    grid: Grid
    source: BatchSource
    run: MicroBatches
    on_nonfinite: str
    forget: Callable[[], None]
    overdue: Callable[[], bool]

    def isolate(
        self, batch_idx: int, bad: dict[int, SampleFailure], spend: Callable[[int, SampleFailure], None]
    ) -> Isolated | None:
        """Find a batch's bad rows, and the outputs of the others.

        Args:
            batch_idx: The batch.
            bad: Failures known already, by position; those that are found are added.
            spend: Told of each failure that is found, by the sample's index; may raise to give up.

        Returns:
            None if no row is bad after all.

        Raises:
            OutOfMemory: A trial did not fit into memory.
            RowOutOfMemory: A single row does not, at its position in the batch.
            OutOfTime: The worker must leave.
        """
        start, stop = self.grid.batch_range(batch_idx)
        outputs, pieces = None, None

        def found(position: int, failure: SampleFailure) -> None:
            bad[position] = failure
            spend(start + position, failure)

        while good := [position for position in range(stop - start) if position not in bad]:
            problem: Exception
            try:
                outputs = self._attempt(batch_idx, good)
                pieces = self.run.latest
                break
            except RowOutOfMemory as finding:
                raise RowOutOfMemory(filled(good, stop - start)[finding.position]) from finding.__cause__
            except (NonFinite, SampleError) as finding:
                problem = finding
            # Out of the handler, so that what user code raises now is not told as a consequence of that.
            if isinstance(problem, NonFinite):
                for position, failure in problem.failures.items():
                    found(position, failure)
            else:
                before = len(bad)
                find_bad_rows(good, lambda some: self._try(batch_idx, some), found)
                if len(bad) == before:
                    return None  # it passes in parts and fails as a whole
        return Isolated(good, outputs, pieces) if bad else None

    def read(self, start: int, positions: Sequence[int]) -> Any:
        """Return rows of the batch that begins at sample ``start``.

        Raises:
            SampleError: They cannot be read together.
            OutputError: The dataset's batches cannot be taken apart.
        """
        batch = self.source.pick([start + position for position in positions])
        if isinstance(batch, ReadFailure):
            if batch.of_rows:
                first = start + positions[0]
                raise OutputError(
                    f"A sample near {first} failed and cannot be told from its neighbours: {batch.message}"
                ) from batch.cause
            raise SampleError(SampleFailure.told("load", batch.error, batch.message, batch.trace)) from batch.cause
        return batch

    def call(self, batch: Any, batch_idx: int, rows: int) -> Any:
        """Return the outputs of a batch.

        Raises:
            SampleError: ``process_batch`` failed.
            OutOfMemory: It did not fit into memory.
            RowOutOfMemory: A single row does not.
        """
        try:
            return self.run(batch, batch_idx, rows)
        except RowOutOfMemory:
            raise
        except Exception as error:  # user code may raise anything
            if is_out_of_memory(error):
                raise OutOfMemory(str(error)) from error
            if not may_be_a_samples(error):
                raise
            raise SampleError(SampleFailure.of("process", error)) from error

    def checked(self, outputs: Any, rows: int, start: int, positions: Sequence[int]) -> Any:
        """Return the outputs.

        Raises:
            NonFinite: Some of them are not finite, and such samples are to be set aside.
        """
        failures = check_finite(outputs, rows, [start + p for p in positions], self.on_nonfinite)
        if failures:
            raise NonFinite({positions[row]: failure for row, failure in failures.items()})
        return outputs

    def _try(self, batch_idx: int, positions: Sequence[int]) -> None:
        try:
            self._attempt(batch_idx, positions)
        except NonFinite:
            pass  # looked at once the rows that raise are out of the way
        except RowOutOfMemory as finding:
            raise SampleError(failure_of(finding)) from None

    def _attempt(self, batch_idx: int, positions: Sequence[int]) -> Any:
        """Process the rows at some positions in the batch's own shape; return their outputs."""
        start, stop = self.grid.batch_range(batch_idx)
        rows = stop - start
        if self.overdue():
            raise OutOfTime
        self.forget()
        outputs = self.call(self.read(start, filled(positions, rows)), batch_idx, rows)
        chosen = None if outputs is None else select_outputs(outputs, rows, positions)
        return self.checked(chosen, len(positions), start, positions)


def check_finite(outputs: Any, rows: int, indices: Sequence[int], policy: str) -> dict[int, SampleFailure]:
    """Look for NaN and infinity in a batch's outputs.

    Args:
        outputs: What ``process_batch`` returned.
        rows: Rows in it.
        indices: The samples' indices.
        policy: "keep" looks at nothing; "quarantine" returns what is found; "fail" raises.

    Returns:
        Failures by row.

    Raises:
        OutputError: A value is not finite and the policy is "fail".
    """
    if policy == "keep" or outputs is None:
        return {}
    found = {
        row: SampleFailure("output", "NonFinite", f"column {column!r} holds NaN or infinity", "")
        for row, column in nonfinite_rows(outputs, rows).items()
    }
    if found and policy == "fail":
        row, failure = min(found.items())
        raise OutputError(
            f"The result of sample {indices[row]} is not finite: {failure.message} (on_nonfinite=fail). "
            f"on_nonfinite=quarantine sets such samples aside, on_nonfinite=keep writes them."
        )
    return found


def may_be_a_samples(error: Exception) -> bool:
    """Return whether a sample can be the reason of an error; of the framework's own, only a reducer's (a NaN)."""
    return not isinstance(error, BatchmillError) or isinstance(error, ReducerError)


def failure_of(problem: BaseException) -> SampleFailure:
    """Describe the row that does not fit into memory, and let go of what its error holds."""
    failure = SampleFailure.of("process", problem.__cause__ or problem)
    drop_frames(problem)
    return failure


def filled(positions: Sequence[int], rows: int) -> list[int]:
    """Return ``rows`` positions: each of the given ones in its own place, others of them in the places left."""
    chosen, places, last = set(positions), [], positions[0]
    for place in range(rows):
        last = place if place in chosen else last
        places.append(last)
    return places
