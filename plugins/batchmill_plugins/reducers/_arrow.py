"""Reading a committed column of numbers from an Arrow table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from batchmill_plugins.reducers._columns import BadColumnError, FlatColumn


def read_arrow(column: pa.ChunkedArray) -> FlatColumn:
    """Return a column of bools, integers or floats, or of (nested) lists of them.

    Args:
        column: One value, or list of values, for each row.

    Raises:
        BadColumnError: A value is missing or not a number.
    """
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    rows = len(array)
    bounds = np.arange(rows + 1)  # row r's elements are array[bounds[r]:bounds[r + 1]]
    while True:
        if array.null_count:
            missing = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
            raise BadColumnError(
                "holds None; expected numbers", int(np.searchsorted(bounds[1:], missing, side="right"))
            )
        if pa.types.is_fixed_size_list(array.type):
            bounds = bounds * array.type.list_size
        elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            offsets = array.offsets.to_numpy()
            bounds = (offsets - offsets[0])[bounds].astype(np.int64)
        else:
            break
        array = array.flatten()
    if pa.types.is_null(array.type):  # no list has an element, so a format without types cannot tell of what
        array = array.cast(pa.float64())
    if not _is_number(array.type):
        raise BadColumnError(f"holds {array.type}; expected numbers")
    return FlatColumn(array.to_numpy(zero_copy_only=False), (rows, -1), bounds[1:])


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))
