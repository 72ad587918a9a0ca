"""Columns of a chunk, checked, and turned into Arrow arrays or plain Python values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchmill import INDEX_COLUMN, ChunkOutput, OutputError

_NUMBER_KINDS = "biuf"


def checked_columns(output: ChunkOutput) -> dict[str, npt.NDArray[Any] | list[Any]]:
    """Return a chunk's columns in order: numbers as C-contiguous native arrays, the rest as lists.

    Raises:
        OutputError: A column is named ``_index``, has another number of rows than the chunk, or holds complex
            numbers or floats beyond 64 bits.
    """
    columns: dict[str, npt.NDArray[Any] | list[Any]] = {}
    for name, values in output.columns.items():
        if name == INDEX_COLUMN:
            raise OutputError(
                f"An output column is named {name!r}, which is reserved for the sample's index; rename it."
            )
        if len(values) != output.rows:
            raise OutputError(f"Column {name!r} has {len(values)} values; expected {output.rows}, one per row.")
        if not isinstance(values, np.ndarray):
            columns[name] = list(values)
        elif values.dtype.kind in _NUMBER_KINDS and values.dtype.itemsize <= 8:
            columns[name] = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
        elif values.dtype.kind in "fc":
            raise OutputError(
                f"Column {name!r} holds {values.dtype}, which no output format stores; expected bools, "
                f"integers or floats of up to 64 bits. Return complex numbers as two columns."
            )
        else:
            columns[name] = values.tolist()
    return columns


def index_array(output: ChunkOutput) -> pa.Array:
    """Return the chunk's ``_index`` column, int64."""
    return pa.array(np.ascontiguousarray(output.index, dtype=np.int64))


def nested_array(values: npt.NDArray[Any]) -> pa.Array:
    """Return numbers of shape ``(rows, ...)`` as Arrow: primitive, or nested lists over one flat buffer.

    Arrow has no fixed-size lists of length 0; samples without elements become lists of variable size.
    """
    if 0 in values.shape[1:]:
        empty = pa.from_numpy_dtype(values.dtype)
        for _ in values.shape[1:]:
            empty = pa.list_(empty)
        return pa.array(values.tolist(), type=empty)
    array = pa.array(values.reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def inferred_array(name: str, values: Sequence[Any]) -> pa.Array:
    """Return Python values as an Arrow array whose type Arrow infers.

    Args:
        name: Name of the column, for messages.
        values: One value per row: None, bool, int, float, str, bytes, dates, lists, dicts with string keys,
            arrays.

    Raises:
        OutputError: The values have no common Arrow type.
    """
    try:
        # Arrow takes one-dimensional arrays with their dtype, so they need not become Python numbers.
        array = pa.array([v if _is_vector(v) else plain(v) for v in (_detached(value) for value in values)])
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise OutputError(
            f"Column {name!r} cannot be stored as an Arrow column: {error}. Every row must hold the same "
            f"type (None aside): numbers, strings, lists of one type, or dicts with string keys."
        ) from error
    if _has_empty_struct(array.type):
        raise OutputError(
            f"Column {name!r} holds dicts without any key, which have no Arrow type. Leave the column out, "
            f"or give None instead."
        )
    return array


def plain(value: Any) -> Any:
    """Return a value in plain Python: arrays, tensors and tuples become lists, numpy's scalars Python's.

    Raises:
        TypeError: There is a set in it, whose order is not defined, or a dict with a key that is no string.
    """
    value = _detached(value)
    if value is None or (isinstance(value, (str, bool, int, float)) and not isinstance(value, np.generic)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"a dict has the key {key!r} of type {type(key).__name__}; expected strings")
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        raise TypeError("a set has no order of its own; give a sorted list")
    return value


def not_finite(value: Any) -> float | None:
    """Return the first NaN or infinity in a plain value, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for found in map(not_finite, inner) if found is not None), None)


def _detached(value: Any) -> Any:
    if not hasattr(value, "detach"):  # only tensors have it
        return value
    tensor = value.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _is_vector(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in _NUMBER_KINDS


def _has_empty_struct(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind) and kind.num_fields == 0:
        return True
    return any(_has_empty_struct(kind.field(i).type) for i in range(kind.num_fields))
