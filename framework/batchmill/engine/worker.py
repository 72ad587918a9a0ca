"""The loop of one worker: claim, read, process, hand over; the hot path of the engine."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pluggy

from batchmill.contracts.claims import Claims
from batchmill.contracts.processor import TorchBatchProcessor
from batchmill.engine.claims import Takeover
from batchmill.engine.committer import Committer, FinishedChunk
from batchmill.engine.context import TorchBatchProcessorContext
from batchmill.engine.grid import Grid
from batchmill.engine.output_buffer import OutputBuffer
from batchmill.engine.reading import BatchSource
from batchmill.engine.reduction import ReducerSet
from batchmill.engine.sideline import Sideline
from batchmill.engine.stopping import StopFlag
from batchmill.errors import BatchmillError, ProcessorError

# Seconds between looks at the commit log while this worker waits for the others: at first, and at most.
_FIRST_LOOK, _SLOWEST_LOOK = 0.02, 1.0


class Progress:
    """Counts a worker's samples; read by other threads, written by the worker only."""

    def __init__(self) -> None:
        self.samples = 0


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
        yield first
        while not self.stop.requested and (chunk := self.claims.next_chunk(False)) is not None:
            yield chunk

    def _process_chunks(self, first: int) -> None:
        current, last_batch = -1, -1
        buffer = OutputBuffer(0, 0)
        process, progress, stop = self.processor.process_batch, self.progress, self.stop
        batch_size, samples = self.grid.batch_size, self.grid.samples
        listeners = self.hooks.hook.on_batch_end
        heard = bool(listeners.get_hookimpls())
        for chunk, batch_idx, batch in self.source.read(self._claimed(first)):
            if chunk != current:
                if stop.requested:
                    return  # read ahead but not begun: someone else's on resume
                current, last_batch = chunk, self.grid.chunk_batch_range(chunk)[1] - 1
                buffer = OutputBuffer(*self.grid.chunk_range(chunk))
                self.sideline.open_chunk()
            start = batch_idx * batch_size
            end = min(start + batch_size, samples)
            try:
                outputs = process(batch, batch_idx)
            except Exception as error:  # user code may raise anything; it is told with the batch
                self._drop_chunk()
                raise user_error(
                    f"process_batch failed on batch {batch_idx} (samples {start}..{end - 1})", error
                ) from error
            if heard:
                listeners(outputs=outputs, batch=batch, batch_idx=batch_idx)
            if outputs is not None:
                buffer.add(outputs, start, end)
            progress.samples += end - start
            if batch_idx == last_batch:
                self._finish_chunk(chunk, buffer)
            elif stop.requested and stop.overdue():
                self._drop_chunk()
                return

    def _finish_chunk(self, chunk: int, buffer: OutputBuffer) -> None:
        _as_user_code("on_checkpoint_start failed", self.processor.on_checkpoint_start)
        self.hooks.hook.on_checkpoint_start(chunk=chunk)
        files, reports = self.sideline.close_chunk()
        start, stop = self.grid.chunk_range(chunk)
        finished = FinishedChunk(chunk, start, stop, buffer.finish(), self.reducers.take_partials(), files, [*reports])
        self.committer.submit(finished)
        reason = self.hooks.hook.should_stop(context=self.context)
        if reason is not None:
            self.stop.request(str(reason))

    def _drop_chunk(self) -> None:
        self.sideline.drop_chunk()
        self.reducers.reset()


def user_error(what: str, error: Exception) -> BatchmillError:
    """Return an error that tells what user code raised, with its traceback; our own errors pass unchanged."""
    if isinstance(error, BatchmillError):
        return error
    trace = "".join(traceback.format_exception(type(error), error, _below_engine(error)))
    return ProcessorError(f"{what}: {type(error).__name__}: {error}\n\n{trace.rstrip()}")


def _as_user_code(what: str, function: Callable[[], Any]) -> None:
    try:
        function()
    except Exception as error:  # user code may raise anything
        raise user_error(what, error) from error


def _below_engine(error: BaseException) -> Any:
    """Return the traceback from the first frame that is not the engine's."""
    trace, ours = error.__traceback__, os.path.dirname(__file__) + os.sep
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename.startswith(ours):
        trace = trace.tb_next
    return trace
