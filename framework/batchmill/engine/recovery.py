"""A chunk in which something failed: find the bad samples, then process the chunk again without them.

The whole chunk starts afresh once its bad samples are known, because nobody can say how much a failing call had added
to a reducer. Rows keep their bits (see ``isolation.py``). What ``process_batch`` hands over besides rows (values for
reducers, files, reports) cannot be taken apart by row; for those it is called once more, on the good rows alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchmill.engine.grid import Grid
from batchmill.engine.isolation import (
    Isolated,
    NonFinite,
    OutOfMemory,
    OutOfTime,
    Trials,
    failure_of,
    may_be_a_samples,
)
from batchmill.engine.micro_batching import MicroBatches, RowOutOfMemory, is_out_of_memory
from batchmill.engine.output_buffer import OutputBuffer
from batchmill.engine.policy import FailurePolicy
from batchmill.engine.quarantine import ErrorBudget, SampleError, SampleFailure
from batchmill.engine.ranges import ReadFailure
from batchmill.engine.sacrifice import TrialProcess, find_deadly_rows
from batchmill.engine.sideline import Sideline
from batchmill.engine.user_code import drop_frames, user_error
from batchmill.errors import DatasetError, ProcessorError

_log = logging.getLogger("batchmill")

# Fresh starts of one chunk from which nothing was learned, after which its failures are the program's.
_VAIN_STARTS = 3


@dataclass
class ChunkRecovery:
    """Processes chunks in which something failed.

    Attributes:
        grid: The run's grid.
        trials: Reads and processes rows of batches.
        run: Calls ``process_batch``, in pieces where memory is short.
        reset: Lets reducers and stateful components forget the chunk.
        own_reducers: Whether ``process_batch`` feeds reducers by itself.
        sideline: Takes files and reports.
        listen: Told of each processed batch (outputs, batch, batch_idx).
        budget: Counts failing samples.
        policy: What to do about them.
        overdue: Asks whether the chunk should be dropped, because the worker must leave.
    """

    grid: Grid
    trials: Trials
    run: MicroBatches
    reset: Callable[[], None]
    own_reducers: bool
    sideline: Sideline
    listen: Callable[[Any, Any, int], None]
    budget: ErrorBudget
    policy: FailurePolicy
    overdue: Callable[[], bool]
    _isolated: dict[int, Isolated] = field(default_factory=dict)
    _bad: dict[int, dict[int, SampleFailure]] = field(default_factory=dict)
    _size: int | None = None

    def process(self, chunk: int, batch_idx: int, error: Exception | ReadFailure | None) -> OutputBuffer | None:
        """Process a chunk from its start, after one of its batches failed.

        Args:
            chunk: The chunk.
            batch_idx: The batch that failed.
            error: How; None if it passed, but its results are not finite.

        Returns:
            The chunk's rows, without those of bad samples; None if there is no time left.

        Raises:
            BatchmillError: The failure is not a sample's, or too many samples have failed.
        """
        self._begin(chunk)
        if isinstance(error, Exception) and is_out_of_memory(error):
            self._make_room(batch_idx, error)
        elif error is not None:
            self._give_up_if_asked(batch_idx, error)
            _log.warning("batch %d failed (%s); looking for the samples that do", batch_idx, _short(error))
        return self._until_clean_or_late(chunk, error)

    def process_suspect(self, chunk: int, start_process: Callable[[], TrialProcess]) -> OutputBuffer | None:
        """Process a chunk that has killed workers, without the rows that kill.

        Args:
            chunk: The chunk.
            start_process: Starts a process in which rows are tried first.

        Returns:
            The chunk's rows, without those of bad samples; None if there is no time left.

        Raises:
            BatchmillError: Too many samples have failed, or nothing can be tried.
        """
        _log.warning("chunk %d has killed workers; trying its samples in a process of their own", chunk)
        self._begin(chunk)
        try:
            self._bad = find_deadly_rows(
                self.grid, chunk, start_process, lambda index, failure: self.budget.spend(chunk, index, failure)
            )
        except OutOfTime:
            return None
        return self._until_clean_or_late(chunk, None)

    def _begin(self, chunk: int) -> None:
        self._isolated, self._bad, self._size = {}, {}, self.run.size
        self.budget.begin(chunk)

    def _until_clean_or_late(self, chunk: int, error: Exception | ReadFailure | None) -> OutputBuffer | None:
        self.run.may_grow = False  # a chunk that starts afresh whenever larger pieces do not fit might never end
        try:
            return self._until_clean(chunk, error)
        except OutOfTime:
            return None
        finally:
            self.run.may_grow = True

    def quarantined(self) -> list[dict[str, Any]]:
        """Return the bad samples of the chunk that was processed last, as its commit record keeps them."""
        return [
            failure.to_record(self.grid.batch_range(batch_idx)[0] + position)
            for batch_idx, failures in sorted(self._bad.items())
            for position, failure in sorted(failures.items())
        ]

    def _until_clean(self, chunk: int, error: Exception | ReadFailure | None) -> OutputBuffer:
        vain = 0
        while vain < _VAIN_STARTS:
            known = self._knowledge()
            buffer = self._start_afresh(chunk)
            clean = True
            for batch in range(*self.grid.chunk_batch_range(chunk)):
                if self.overdue():
                    raise OutOfTime
                clean = self._process_batch(chunk, batch, buffer) and clean
            if clean:
                return buffer
            vain = vain + 1 if self._knowledge() == known else 0
        raise ProcessorError(
            f"Chunk {chunk} failed {vain} times, though each of its batches passes when its samples are tried again. "
            f"The first failure: {_short(error)}."
        )

    def _knowledge(self) -> tuple[int, int, int | None]:
        """Return what grows, or changes, with each fresh start from which something was learned."""
        return sum(map(len, self._bad.values())), len(self._isolated), self.run.size

    def _start_afresh(self, chunk: int) -> OutputBuffer:
        self.sideline.drop_chunk()
        self.reset()
        self.sideline.open_chunk()
        self.run.begin_chunk()
        return OutputBuffer(*self.grid.chunk_range(chunk))

    def _give_up_if_asked(self, batch_idx: int, error: Exception | ReadFailure) -> None:
        start, stop = self.grid.batch_range(batch_idx)
        if isinstance(error, ReadFailure):
            if self.policy.on_error == "fail":
                raise DatasetError(
                    f"Reading samples {start}..{stop - 1} (batch {batch_idx}) failed: {error.error}: {error.message}"
                ) from error.cause
        elif self.policy.on_error == "fail" or not may_be_a_samples(error):
            what = f"process_batch failed on batch {batch_idx} (samples {start}..{stop - 1})"
            raise user_error(what, error) from error

    def _process_batch(self, chunk: int, batch_idx: int, buffer: OutputBuffer) -> bool:
        """Process one batch; return False, with something learned, if the chunk must start afresh."""
        start, stop = self.grid.batch_range(batch_idx)
        isolated = self._isolated.get(batch_idx)
        positions: Sequence[int] = range(stop - start) if isolated is None else isolated.good
        if not positions:
            return True
        if isolated is None and self._bad.get(batch_idx):
            self._isolate(chunk, batch_idx)  # memory ran short when that was tried before
            return False
        try:
            batch = self.trials.read(start, positions)
            if isolated is None:
                outputs = self.trials.call(batch, batch_idx, stop - start)
                outputs = self.trials.checked(outputs, stop - start, start, positions)
            else:
                outputs = isolated.outputs
                self.run.note(isolated.pieces)
                self._repeat_side_effects(batch, batch_idx, isolated)
        except (NonFinite, OutOfMemory, RowOutOfMemory, SampleError) as found:
            problem = found
        else:
            self.listen(outputs, batch, batch_idx)
            if outputs is not None:
                index = None if isolated is None else [start + position for position in positions]
                buffer.add(outputs, start, stop, index)
            return True
        self._learn(chunk, batch_idx, problem, positions)
        return False

    def _repeat_side_effects(self, batch: Any, batch_idx: int, isolated: Isolated) -> None:
        if isolated.outputs is not None and not self.own_reducers and not self.sideline.used:
            return
        rows = len(isolated.good)
        try:
            self.trials.call(batch, batch_idx, rows)
        except SampleError as error:
            failure = error.failure
            raise ProcessorError(
                f"process_batch failed on the {rows} good samples of batch {batch_idx} alone: {failure.error}: "
                f"{failure.message}\n\n{failure.traceback}\nIt feeds reducers, files or reports, from which bad "
                f"samples can only be left out by calling it on a smaller batch. Let it take batches of any size, or "
                f"use on_error=fail."
            ) from error

    def _learn(self, chunk: int, batch_idx: int, problem: Exception, positions: Sequence[int]) -> None:
        """Find out which rows of a batch are bad, or of which size its pieces must be."""
        if isinstance(problem, OutOfMemory):
            self._make_room(batch_idx, problem)
        elif isinstance(problem, RowOutOfMemory):
            self._set_row_aside(chunk, batch_idx, positions[problem.position], problem)
        else:
            if isinstance(problem, NonFinite):
                self._set_aside(chunk, batch_idx, problem.failures)
            elif isinstance(problem, SampleError):
                self._give_up_on_samples_if_asked(batch_idx, problem.failure)
            self._isolate(chunk, batch_idx)

    def _isolate(self, chunk: int, batch_idx: int) -> None:
        bad = self._bad.setdefault(batch_idx, {})
        try:
            isolated = self.trials.isolate(
                batch_idx, bad, lambda index, failure: self.budget.spend(chunk, index, failure)
            )
        except OutOfMemory as problem:
            self._make_room(batch_idx, problem)
        except RowOutOfMemory as problem:
            self._set_row_aside(chunk, batch_idx, problem.position, problem)
        else:
            if isolated is not None:
                self._isolated[batch_idx] = isolated

    def _set_row_aside(self, chunk: int, batch_idx: int, position: int, problem: RowOutOfMemory) -> None:
        """Set a row aside that does not fit into memory, because of which the others were cut into pieces."""
        failure = failure_of(problem)
        self._give_up_on_samples_if_asked(batch_idx, failure)
        self._set_aside(chunk, batch_idx, {position: failure})
        self._isolated.pop(batch_idx, None)
        self.run.restore(self._size)
        # What was found in pieces since then is found again, now that whole batches may fit.
        self._isolated = {number: found for number, found in self._isolated.items() if found.pieces == self._size}

    def _set_aside(self, chunk: int, batch_idx: int, failures: Mapping[int, SampleFailure]) -> None:
        start = self.grid.batch_range(batch_idx)[0]
        for position, failure in failures.items():
            self._bad.setdefault(batch_idx, {})[position] = failure
            self.budget.spend(chunk, start + position, failure)

    def _give_up_on_samples_if_asked(self, batch_idx: int, failure: SampleFailure) -> None:
        if self.policy.on_error == "fail":
            start, stop = self.grid.batch_range(batch_idx)
            raise (DatasetError if failure.stage == "load" else ProcessorError)(
                f"Batch {batch_idx} (samples {start}..{stop - 1}) failed at stage {failure.stage}: "
                f"{failure.error}: {failure.message}\n\n{failure.traceback.rstrip()}"
            )

    def _make_room(self, batch_idx: int, error: BaseException) -> None:
        start, stop = self.grid.batch_range(batch_idx)
        drop_frames(error)
        self.run.shrink(stop - start)
        _log.warning("batch %d does not fit into memory; going on with pieces of %d samples", batch_idx, self.run.size)


def _short(error: Exception | ReadFailure | None) -> str:
    if error is None:
        return "a result was not finite"
    if isinstance(error, ReadFailure):
        return f"{error.error}: {error.message}"
    return f"{type(error).__name__}: {error}"
