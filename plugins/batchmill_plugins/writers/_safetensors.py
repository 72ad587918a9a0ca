"""The safetensors writer: one tensor per column."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors.numpy

from batchmill import INDEX_COLUMN, ChunkOutput, OutputError, Writer
from batchmill_plugins.writers._columns import checked_columns, nested_array

# The format orders tensors by the size of their elements, so the columns' order is kept beside them. One
# entry only: several would come in no fixed order, and equal rows must give equal bytes.
_ORDER_KEY = "batchmill.columns"
_METADATA = "__metadata__"
_HEADER_LENGTH_BYTES = 8


class SafetensorsWriter(Writer):
    """Writes each column as one tensor of shape ``(rows, ...)``, and ``_index`` as an int64 tensor."""

    extension = "safetensors"

    def encode(self, output: ChunkOutput) -> bytes:
        """Return the chunk as a safetensors file.

        Raises:
            OutputError: A column holds no numbers, or has the one name that the format keeps for itself.
        """
        tensors: dict[str, npt.NDArray[np.generic]] = {INDEX_COLUMN: np.ascontiguousarray(output.index, dtype=np.int64)}
        for name, values in checked_columns(output).items():
            if name == _METADATA:
                raise OutputError(f"Column {name!r} has the name of the format's own metadata; rename it.")
            if isinstance(values, list):
                kinds = ", ".join(sorted({type(value).__name__ for value in values})) or "nothing"
                raise OutputError(
                    f"Column {name!r} holds Python values ({kinds}), which safetensors cannot store; it "
                    f"takes tensors and arrays of numbers. Use writer=parquet or jsonl, or drop the column."
                )
            tensors[name] = values
        data: bytes = safetensors.numpy.save(tensors, metadata={_ORDER_KEY: json.dumps(list(tensors))})
        return data

    def decode(self, data: bytes) -> pa.Table:
        """Return the rows; samples with dimensions as nested fixed-size lists."""
        start = _HEADER_LENGTH_BYTES
        header = json.loads(data[start : start + int.from_bytes(data[:start], "little")])
        names = json.loads(header[_METADATA][_ORDER_KEY])
        tensors = safetensors.numpy.load(data)
        return pa.Table.from_arrays([nested_array(tensors[name]) for name in names], names=names)
