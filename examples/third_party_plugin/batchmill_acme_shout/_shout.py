"""The processor itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchmill import ConfigError, TorchBatchProcessor, TorchBatchProcessorContext


class ShoutProcessor(TorchBatchProcessor):
    """Returns each text in capitals.

    Args:
        context: The worker's context.
        column: Batch column with the texts.
        marks: Exclamation marks to add.

    Raises:
        ConfigError: ``marks`` is negative.
    """

    def __init__(self, context: TorchBatchProcessorContext, column: str, marks: int) -> None:
        if marks < 0:
            raise ConfigError(f"processor.marks is {marks}; expected 0 or more.")
        self._column, self._ending = column, "!" * marks

    def process_batch(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, list[str]]:
        """Return one column, ``shout``, with one text per sample."""
        return {"shout": [text.upper() + self._ending for text in batch[self._column]]}
