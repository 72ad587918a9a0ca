"""Parquet columns as arrays that can be sliced: numbers as numpy, everything else as Arrow."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# Batchmill's Parquet writer stores samples of two or more dimensions flat and notes their shape here.
_SHAPE_KEY = b"batchmill.shape"

Sliceable: TypeAlias = npt.NDArray[Any] | pa.ChunkedArray


def sliceable(column: pa.ChunkedArray, field: pa.Field) -> Sliceable:
    """Return a column as a numpy array of shape ``(rows, ...)`` if its type says that all values are numbers.

    Args:
        column: One column of a row group.
        field: Its field in the file's schema.

    Returns:
        An array over Arrow's own memory for bools, numbers, and (nested) fixed-size lists of them; the column
        as it is for other types.

    Raises:
        ValueError: A column of numbers has a null, for which a tensor has no place.
    """
    shape = _number_shape(field.type)
    if shape is None:
        return column
    array = column.combine_chunks()
    while True:
        if array.null_count:
            first = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
            row = first * len(column) // len(array)
            raise ValueError(
                f"holds {array.null_count} nulls (the first at row {row} of the row group), but {field.type} "
                f"becomes a tensor, which has no place for them; fill them in, or leave the column out"
            )
        if not pa.types.is_fixed_size_list(array.type):
            break
        array = array.flatten()
    stored = (field.metadata or {}).get(_SHAPE_KEY)
    if stored and len(shape) == 1:
        shape = json.loads(stored)
    numbers: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False).reshape(len(column), *shape)
    return numbers


def slice_rows(values: Sliceable, start: int, stop: int) -> npt.NDArray[Any] | list[Any]:
    """Return rows ``[start, stop)``: a view of an array, or a list of Python values."""
    if isinstance(values, np.ndarray):
        return values[start:stop]
    listed: list[Any] = values.slice(start, stop - start).to_pylist()
    return listed


def _number_shape(kind: pa.DataType) -> list[int] | None:
    shape = []
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return shape if is_number else None
