"""Writing behind: encodes and commits finished chunks in a thread, while the next ones are processed."""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchmill.contracts.writer import ChunkOutput, Writer
from batchmill.engine.commit_log import ChunkDraft, CommitLog

# Chunks that may wait for the commit thread; more would only hold memory.
_QUEUED_CHUNKS = 2

Committed = Callable[[int, Mapping[str, Any], bool], None]


@dataclass
class FinishedChunk:
    """A processed chunk, taken from the worker at the chunk's end."""

    chunk: int
    start: int
    stop: int
    output: ChunkOutput | None
    partials: Mapping[str, Any]
    files: Mapping[str, bytes]
    reports: list[Mapping[str, Any]]
    quarantined: list[Mapping[str, Any]] = field(default_factory=list)
    states: Mapping[str, Any] = field(default_factory=dict)
    micro_batch: int | None = None


class Committer:
    """Commits chunks in the order in which they were finished.

    Args:
        log: The run's commit log.
        writer: Encodes rows.
        committed: Called in the commit thread with the chunk, the record that won and whether it is ours.
    """

    def __init__(self, log: CommitLog, writer: Writer, committed: Committed) -> None:
        self._log, self._writer, self._committed = log, writer, committed
        self._queue: queue.Queue[FinishedChunk | None] = queue.Queue(maxsize=_QUEUED_CHUNKS)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="batchmill-commit", daemon=True)
        self._thread.start()

    def submit(self, finished: FinishedChunk) -> None:
        """Hand over a chunk; waits while too many are queued.

        Raises:
            BatchmillError: An earlier chunk could not be committed.
        """
        self.check()
        self._queue.put(finished)

    def check(self) -> None:
        """Raise the error of the commit thread, if it has failed."""
        if self._error is not None:
            raise self._error

    def drain(self) -> None:
        """Wait until everything handed over is committed.

        Raises:
            BatchmillError: A chunk could not be committed.
        """
        self._queue.join()
        self.check()

    def close(self) -> None:
        """Commit what is queued and end the thread; an error is kept for ``check``."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            finished = self._queue.get()
            try:
                if finished is None:
                    return
                if self._error is None:
                    self._commit(finished)
            except BaseException as error:
                self._error = error  # raised in the worker's thread by check()
            finally:
                self._queue.task_done()

    def _commit(self, finished: FinishedChunk) -> None:
        output = finished.output if self._writer.extension else None
        draft = ChunkDraft(
            chunk=finished.chunk,
            start=finished.start,
            stop=finished.stop,
            attempt=secrets.token_hex(16),
            part=self._writer.encode(output) if output is not None else None,
            extension=self._writer.extension,
            rows=output.rows if output is not None else 0,
            partials=finished.partials,
            files=finished.files,
            reports=finished.reports,
            quarantined=finished.quarantined,
            states=finished.states,
            micro_batch=finished.micro_batch,
        )
        record, ours = self._log.commit(draft)
        self._committed(finished.chunk, record, ours)
