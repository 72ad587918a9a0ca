"""The Parquet writer, tuned for tensors of floats."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchmill import INDEX_COLUMN, ChunkOutput, ConfigError, OutputError, Writer
from batchmill_plugins.writers._columns import checked_columns, index_array, inferred_array, nested_array

_COMPRESSIONS = ("none", "snappy", "zstd", "lz4", "gzip", "brotli")
# Where samples have two or more dimensions, the file holds one flat list per sample (half the time of nested
# lists to write, a third to read), and the sample's shape stands here in the field's metadata, as JSON.
SHAPE_KEY = b"batchmill.shape"


class ParquetWriter(Writer):
    """Writes each chunk as one Parquet file of one row group.

    Args:
        compression: One of none, snappy, zstd, lz4, gzip, brotli.

    Raises:
        ConfigError: There is no such compression, or this build of pyarrow lacks it.
    """

    extension = "parquet"

    def __init__(self, compression: str = "none") -> None:
        available = [name for name in _COMPRESSIONS if name == "none" or pa.Codec.is_available(name)]
        if compression not in available:
            raise ConfigError(f"writer.compression is {compression!r}; expected one of {', '.join(available)}.")
        self.compression = compression

    def encode(self, output: ChunkOutput) -> bytes:
        """Return the chunk as a Parquet file: ``_index`` first, then the columns in their order.

        Raises:
            OutputError: A column's values have no common type, or one that Parquet cannot hold.
        """
        fields, arrays = [pa.field(INDEX_COLUMN, pa.int64(), nullable=False)], [index_array(output)]
        for name, values in checked_columns(output).items():
            array, metadata = _to_arrow(name, values)
            fields.append(pa.field(name, array.type, metadata=metadata))
            arrays.append(array)
        return self._write(pa.Table.from_arrays(arrays, schema=pa.schema(fields)))

    def decode(self, data: bytes) -> pa.Table:
        """Return the rows; samples of two or more dimensions as nested fixed-size lists."""
        table = pq.ParquetFile(pa.BufferReader(data)).read()
        for place, field in enumerate(table.schema):
            shape = json.loads((field.metadata or {}).get(SHAPE_KEY, b"[]"))
            if shape:
                chunks = [_reshaped(chunk, shape) for chunk in table.column(place).chunks]
                kind = _nested_type(field.type.value_type, shape)
                table = table.set_column(place, pa.field(field.name, kind), pa.chunked_array(chunks, kind))
        return table

    def _write(self, table: pa.Table) -> bytes:
        repeating = [field.name for field in table.schema if _may_repeat(field)]
        sink = pa.BufferOutputStream()
        try:
            pq.write_table(
                table,
                sink,
                row_group_size=max(1, table.num_rows),
                compression=self.compression,
                # Both cost as much as writing the floats themselves and are of no use for them.
                use_dictionary=repeating,
                write_statistics=[INDEX_COLUMN, *repeating],
            )
        except pa.ArrowException as error:
            kinds = ", ".join(f"{field.name!r} ({field.type})" for field in table.schema)
            raise OutputError(
                f"Parquet cannot store a chunk with columns {kinds}: {error}. Return other types, or use "
                f"another writer."
            ) from error
        data: bytes = sink.getvalue().to_pybytes()
        return data


def _to_arrow(name: str, values: npt.NDArray[Any] | list[Any]) -> tuple[pa.Array, dict[bytes, bytes] | None]:
    if isinstance(values, list):
        return inferred_array(name, values), None
    if values.ndim <= 2 or 0 in values.shape[1:]:
        return nested_array(values), None
    shape = values.shape[1:]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), math.prod(shape))
    return flat, {SHAPE_KEY: json.dumps(shape).encode()}


def _reshaped(flat: pa.Array, shape: list[int]) -> pa.Array:
    array = flat.flatten()
    for size in reversed(shape):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _nested_type(kind: pa.DataType, shape: list[int]) -> pa.DataType:
    for size in reversed(shape):
        kind = pa.list_(kind, size)
    return kind


def _may_repeat(field: pa.Field) -> bool:
    once = (pa.types.is_floating, pa.types.is_boolean, pa.types.is_null, pa.types.is_nested)
    return field.name != INDEX_COLUMN and not any(check(field.type) for check in once)
