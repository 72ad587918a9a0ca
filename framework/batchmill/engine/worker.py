"""The loop of one worker: claim, read, process, hand over; the hot path of the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import pluggy

from batchmill.contracts.claims import Claims
from batchmill.contracts.processor import TorchBatchProcessor
from batchmill.engine.claims import Takeover
from batchmill.engine.committer import Committer, FinishedChunk
from batchmill.engine.context import TorchBatchProcessorContext
from batchmill.engine.grid import Grid
from batchmill.engine.isolation import Trials, check_finite
from batchmill.engine.micro_batching import MicroBatches
from batchmill.engine.output_buffer import OutputBuffer
from batchmill.engine.policy import FailurePolicy
from batchmill.engine.quarantine import ErrorBudget
from batchmill.engine.ranges import ReadFailure
from batchmill.engine.reading import BatchSource
from batchmill.engine.recovery import ChunkRecovery
from batchmill.engine.reduction import ReducerSet
from batchmill.engine.sacrifice import TrialProcess
from batchmill.engine.sideline import Sideline
from batchmill.engine.states import ComponentStates
from batchmill.engine.stopping import StopFlag
from batchmill.engine.user_code import user_error

# Seconds between looks at the commit log while this worker waits for the others: at first, and at most.
_FIRST_LOOK, _SLOWEST_LOOK = 0.02, 1.0


class Progress:
    """How far a worker is; read by other threads, written by the worker only.

    Attributes:
        samples: Samples done.
        steps: Grows with every batch and every trial; stands still only in a batch.
        slowest: Seconds that the slowest batch took, from one batch's end to the next; the first one does not count.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.steps = 0
        self.slowest = 0.0


@dataclass
class Worker:
    """One worker's part of a run."""

    grid: Grid
    source: BatchSource
    processor: TorchBatchProcessor
    context: TorchBatchProcessorContext
    reducers: ReducerSet
    sideline: Sideline
    hooks: pluggy.PluginManager
    claims: Claims
    takeover: Takeover
    committer: Committer
    stop: StopFlag
    progress: Progress
    budget: ErrorBudget
    policy: FailurePolicy = field(default_factory=FailurePolicy)
    own_reducers: bool = True
    states: ComponentStates = field(default_factory=ComponentStates)
    processing: Callable[[int | None], object] = lambda chunk: None
    suspects: Collection[int] = ()
    start_trials: Callable[[], TrialProcess] | None = None

    def __post_init__(self) -> None:
        self._listeners = self.hooks.hook.on_batch_end
        self._heard = bool(self._listeners.get_hookimpls())
        self._run_batch = MicroBatches(self.processor.process_batch, self.source.columns)
        self._recovery = ChunkRecovery(
            grid=self.grid,
            trials=Trials(
                grid=self.grid,
                source=self.source,
                run=self._run_batch,
                on_nonfinite=self.policy.on_nonfinite,
                forget=self._open_chunk_anew,
                overdue=self._overdue,
            ),
            run=self._run_batch,
            reset=self._reset,
            own_reducers=self.own_reducers,
            sideline=self.sideline,
            listen=self._listen,
            budget=self.budget,
            policy=self.policy,
            overdue=self._overdue,
        )

    def work(self) -> bool:
        """Process chunks until every chunk of the run is committed, by whomever, or a stop is asked for.

        Returns:
            Whether the run is complete.

        Raises:
            BatchmillError: User code, data or storage failed. Chunks finished before are committed all the same.
        """
        try:
            while (first := self._next_or_wait()) is not None:
                self._process_chunks(first)
            self.committer.drain()
        finally:
            self.committer.close()
            self.source.close()
        return not self.stop.requested

    def _next_or_wait(self) -> int | None:
        """Return a chunk to go on with; None when the run is complete or should stop."""
        pause = _FIRST_LOOK
        while not self.stop.requested:
            chunk = self.claims.next_chunk(False)
            if chunk is None:
                self.committer.drain()  # before waiting: others may be waiting for what is queued here
                chunk = self.claims.next_chunk(True)
            if chunk is not None:
                return chunk
            complete, abandoned = self.takeover.look()
            if complete or abandoned is not None:
                return abandoned
            time.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST_LOOK)
        return None

    def _claimed(self, first: int) -> Iterator[int]:
        chunk: int | None = first
        while chunk is not None:
            if not self.source.reads_ahead:
                self.processing(chunk)  # before its first sample is read, which may kill as well
            yield chunk
            chunk = None if self.stop.requested else self.claims.next_chunk(False)

    def _overdue(self) -> bool:
        self.progress.steps += 1
        return self.stop.requested and self.stop.overdue()

    def _process_chunks(self, first: int) -> None:
        current, last_batch, recovered = -1, -1, -1
        buffer = OutputBuffer(0, 0)
        process, run_batch, progress, stop = self.processor.process_batch, self._run_batch, self.progress, self.stop
        batch_size, samples = self.grid.batch_size, self.grid.samples
        on_nonfinite = self.policy.on_nonfinite
        clock = time.monotonic
        ended = clock()
        avoid = self.suspects if self.start_trials is not None else ()
        for chunk, batch_idx, batch in self.source.read(self._claimed(first), avoid):
            if chunk == recovered:
                continue  # read ahead before the chunk was processed anew
            if chunk != current:
                if stop.requested:
                    return  # read ahead but not begun: someone else's on resume
                current, last_batch = chunk, self.grid.chunk_batch_range(chunk)[1] - 1
                buffer = OutputBuffer(*self.grid.chunk_range(chunk))
                self.sideline.open_chunk()
                run_batch.begin_chunk()
                if self.source.reads_ahead:
                    self.processing(chunk)
                if chunk in avoid:
                    if not self._recover(chunk, batch_idx, None, batch_idx * batch_size):
                        return
                    recovered, ended = chunk, clock()
                    continue
            start = batch_idx * batch_size
            end = min(start + batch_size, samples)
            failure: Exception | ReadFailure | None = None
            outputs = None
            if type(batch) is ReadFailure:
                failure = batch
            else:
                try:
                    whole = run_batch.size is None
                    outputs = process(batch, batch_idx) if whole else run_batch(batch, batch_idx, end - start)
                except Exception as error:  # user code may raise anything
                    failure = error
            if failure is not None or (
                on_nonfinite != "keep" and check_finite(outputs, end - start, range(start, end), on_nonfinite)
            ):
                if not self._recover(chunk, batch_idx, failure, start):
                    return
                recovered, ended = chunk, clock()
                continue
            if self._heard:
                self._listeners(outputs=outputs, batch=batch, batch_idx=batch_idx)
            if outputs is not None:
                buffer.add(outputs, start, end)
            progress.samples += end - start
            began, ended = ended, clock()
            if progress.steps and ended - began > progress.slowest:
                progress.slowest = ended - began
            progress.steps += 1
            if batch_idx == last_batch:
                self._finish_chunk(chunk, buffer, [])
            elif stop.requested and stop.overdue():
                self._drop_chunk()
                return

    def _recover(self, chunk: int, batch_idx: int, failure: Exception | ReadFailure | None, start: int) -> bool:
        """Process a chunk anew, without what fails in it; return False if there is no time left."""
        try:
            if self.start_trials is not None and chunk in self.suspects:
                buffer = self._recovery.process_suspect(chunk, self.start_trials)
            else:
                buffer = self._recovery.process(chunk, batch_idx, failure)
        except Exception:
            self._drop_chunk()
            raise
        if buffer is None:
            self._drop_chunk()
            return False
        self.progress.samples += self.grid.chunk_range(chunk)[1] - start
        self._finish_chunk(chunk, buffer, self._recovery.quarantined())
        return True

    def _listen(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._heard:
            self._listeners(outputs=outputs, batch=batch, batch_idx=batch_idx)

    def _finish_chunk(self, chunk: int, buffer: OutputBuffer, quarantined: list[dict[str, Any]]) -> None:
        _as_user_code("on_checkpoint_start failed", self.processor.on_checkpoint_start)
        self.hooks.hook.on_checkpoint_start(chunk=chunk)
        files, reports = self.sideline.close_chunk()
        start, stop = self.grid.chunk_range(chunk)
        finished = FinishedChunk(
            chunk=chunk,
            start=start,
            stop=stop,
            output=buffer.finish(),
            partials=self.reducers.take_partials(),
            files=files,
            reports=[*reports],
            quarantined=[*quarantined],
            states=self.states.take(),
            micro_batch=self._run_batch.smallest,
        )
        self.committer.submit(finished)
        self.processing(None)
        reason = self.hooks.hook.should_stop(context=self.context)
        if reason is not None:
            self.stop.request(str(reason))

    def _open_chunk_anew(self) -> None:
        self.sideline.drop_chunk()
        self.sideline.open_chunk()

    def _drop_chunk(self) -> None:
        self.sideline.drop_chunk()
        self._reset()

    def _reset(self) -> None:
        self.reducers.reset()
        self.states.reset()


def _as_user_code(what: str, function: Callable[[], Any]) -> None:
    try:
        function()
    except Exception as error:  # user code may raise anything
        raise user_error(what, error) from error
