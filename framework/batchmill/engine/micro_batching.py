"""Batches that do not fit into memory: processed in pieces, which grow again when there is room."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from batchmill.engine.output_rows import join_outputs
from batchmill.engine.rows import select_rows
from batchmill.errors import ModelError, OutputError, ProcessorError

# Batches after which a larger piece is tried; twice as many after each time that it did not fit.
_TRY_AGAIN_AFTER = 50
_LONGEST_WAIT = 3200

_OOM_TEXTS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of the device or the host, has run out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OOM_TEXTS)


class RowOutOfMemory(Exception):
    """A single row does not fit; its error is the ``__cause__``.

    Attributes:
        position: The row's position in the batch.
    """

    def __init__(self, position: int) -> None:
        super().__init__(f"row {position} alone does not fit into memory")
        self.position = position


class MicroBatches:
    """Calls ``process_batch`` on whole batches while they fit, else on pieces.

    Pieces are not the batch's own shape, so their results may differ in the last bits: a chunk that was processed in
    pieces is marked in its record.

    Attributes:
        size: Samples in a piece; None: batches are whole.
        smallest: Samples in the smallest piece of this chunk; None: all its batches were whole.
        latest: Samples in the pieces of the latest batch; None: it was whole.
        may_grow: Whether larger pieces are tried now and then.

    Args:
        process: ``process_batch``.
        columns: Whether batches come from PyTorch's default collate, see ``select_rows``.
    """

    def __init__(self, process: Callable[[Any, int], Any], columns: bool = True) -> None:
        self._process, self._columns = process, columns
        self.size: int | None = None
        self.smallest: int | None = None
        self.latest: int | None = None
        self.may_grow = True
        self._whole = 0
        self._batches_left, self._wait, self._grew = 0, _TRY_AGAIN_AFTER, False

    def begin_chunk(self) -> None:
        """Forget the smallest piece of the chunk before."""
        self.smallest = None

    def __call__(self, batch: Any, batch_idx: int, rows: int) -> Any:
        """Process one batch and return its outputs.

        Raises:
            RowOutOfMemory: A single row does not fit.
        """
        size = self.size
        self.latest = None
        if size is None or size >= rows:
            return self._process(batch, batch_idx)
        if self.may_grow:
            self._grow_if_due()
        outputs, counts = [], []
        for start in range(0, rows, size):
            stop = min(start + size, rows)
            try:
                piece = select_rows(batch, rows, range(start, stop), self._columns)
            except OutputError as error:
                raise ProcessorError(
                    f"Batch {batch_idx} does not fit into memory and cannot be cut into pieces: {error} "
                    f"Choose a smaller batch_size."
                ) from error
            try:
                outputs.append(self._process(piece, batch_idx))
            except Exception as error:  # user code: any error, of which only one kind is ours
                if size == 1 and is_out_of_memory(error):
                    raise RowOutOfMemory(start) from error
                if isinstance(error, (ModelError, OutputError)):
                    raise ProcessorError(
                        f"Batch {batch_idx} does not fit into memory, and process_batch cannot be called on pieces of "
                        f"it, here of {size} samples: {error} Choose a smaller batch_size, or make names in reports "
                        f"and files differ from piece to piece."
                    ) from error
                raise
            counts.append(stop - start)
        self.latest = size
        self.note(size)
        return join_outputs(outputs, counts)

    def note(self, size: int | None) -> None:
        """Remember that results of this chunk come from pieces of a size."""
        if size is not None:
            self.smallest = size if self.smallest is None else min(self.smallest, size)

    def shrink(self, rows: int) -> None:
        """Halve the pieces after a batch of ``rows`` did not fit, and free what can be freed."""
        if self._grew:
            self._wait, self._grew = min(2 * self._wait, _LONGEST_WAIT), False
        self._whole = max(self._whole, rows)
        before = min(rows, self.size or rows)
        self.size = max(1, -(-before // 2))
        self._batches_left = self._wait
        free_memory()

    def restore(self, size: int | None) -> None:
        """Return to pieces of an earlier size, after what did not fit has been set aside."""
        self.size, self._batches_left = size, self._wait

    def _grow_if_due(self) -> None:
        self._batches_left -= 1
        if self._batches_left > 0 or self.size is None:
            return
        self._batches_left, self._grew = self._wait, True
        self.size = 2 * self.size if 2 * self.size < self._whole else None


def free_memory() -> None:
    """Return cached device memory to the device."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
