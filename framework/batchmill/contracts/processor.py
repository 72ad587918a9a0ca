"""The user's part: what happens to each batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from batchmill.contracts.profiler import DISABLED_PROFILER, Profiler

if TYPE_CHECKING:
    from batchmill.engine.context import TorchBatchProcessorContext


class TorchBatchProcessor(ABC):
    """Processes batches on one worker. One instance lives on every rank, built after the run is opened.

    The engine calls, on each rank::

        processor = MyProcessor(context)
        for each chunk this rank claims:
            for each batch of the chunk:
                outputs = processor.process_batch(batch, batch_idx)
            processor.on_checkpoint_start()
            # the chunk's rows, files and partials are committed together
        processor.on_finish()          # after every chunk of every rank is committed
    """

    profiler: Profiler = DISABLED_PROFILER
    """``with self.profiler as p: ...; p.step()``: records only if the run asks for it (``profile=true``)."""

    @abstractmethod
    def __init__(self, context: TorchBatchProcessorContext) -> None:
        """Build the processor (load the model, wrap reducers)."""

    @abstractmethod
    def process_batch(self, batch: Any, batch_idx: int) -> Any:
        """Process one batch.

        Args:
            batch: What the dataset gives for samples ``[batch_idx * B, (batch_idx + 1) * B)``, collated; the last
                batch may be shorter. Tensors are on the CPU; see ``context.to_device``.
            batch_idx: The batch's number on the run's grid, the same for any number of workers.

        Returns:
            None to write nothing, or one value per sample: a mapping from column name to a tensor of shape
            ``(rows, ...)``, an array or a sequence of ``rows`` values; or a bare tensor or sequence, which becomes
            the column ``output`` (a sequence of mappings becomes one column per key).
        """

    def on_checkpoint_start(self) -> None:  # noqa: B027 - optional by the seed's contract
        """Run before each of this rank's chunks is committed.

        Files given to ``context.upload_path()`` here, or during the chunk, are committed with it.
        """

    def on_finish(self) -> None:  # noqa: B027 - optional by the seed's contract
        """Run once on every rank after all data is committed; not when the run is preempted."""
