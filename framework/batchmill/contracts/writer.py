"""What a writer promises: one committed file per chunk, and its rows back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

INDEX_COLUMN = "_index"


@dataclass(frozen=True)
class ChunkOutput:
    """All rows that a chunk produced, column by column, in dataset order.

    Attributes:
        index: int64, shape ``(rows,)``: each row's sample index.
        columns: Column name to values: a C-contiguous numpy array of shape ``(rows, ...)`` for what the processor
            returned as tensors, arrays or numbers (bfloat16 arrives as float32), or a list of ``rows`` Python values.
    """

    index: npt.NDArray[np.int64]
    columns: Mapping[str, npt.NDArray[Any] | Sequence[Any]]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.index)


class Writer(ABC):
    """Encodes a chunk's rows into the bytes of one part file.

    ``encode`` runs in the commit thread, beside the processing of the next batches, and must be deterministic:
    equal rows give equal bytes, for parts are compared and named by their digest.
    """

    extension: str
    """File name ending of a part, without the dot; empty if the writer writes nothing."""

    @abstractmethod
    def encode(self, output: ChunkOutput) -> bytes:
        """Return the bytes of a part that carries every row with its ``_index``.

        Raises:
            OutputError: A column's values cannot be stored in this format; the message names the column.
        """

    @abstractmethod
    def decode(self, data: bytes) -> pa.Table:
        """Return the rows of a part as an Arrow table with the int64 column ``_index``."""
