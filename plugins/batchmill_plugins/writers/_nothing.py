"""The writer for runs of which only the metrics matter."""

from __future__ import annotations

import pyarrow as pa

from batchmill import INDEX_COLUMN, ChunkOutput, Writer


class NothingWriter(Writer):
    """Keeps no outputs."""

    extension = ""

    def encode(self, output: ChunkOutput) -> bytes:
        """Return no bytes, whatever the processor returned."""
        return b""

    def decode(self, data: bytes) -> pa.Table:
        """Return a table without rows."""
        return pa.table({INDEX_COLUMN: pa.array([], type=pa.int64())})
