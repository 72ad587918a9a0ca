"""The JSON-lines writer: one object per sample."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchmill import INDEX_COLUMN, ChunkOutput, OutputError, Writer
from batchmill_plugins.writers._columns import checked_columns, inferred_array, not_finite, plain

_JSON_LEAVES = (str, bool, int, float)


class JsonlWriter(Writer):
    """Writes each row as one JSON object with ``_index`` first, UTF-8, tensors as (nested) lists.

    JSON knows neither NaN nor infinity, so both are refused rather than turned into null or into text that
    other readers reject.
    """

    extension = "jsonl"

    def encode(self, output: ChunkOutput) -> bytes:
        """Return the chunk's rows as lines.

        Raises:
            OutputError: A value has no JSON form; the message names the column and the sample's index.
        """
        columns = {name: _json_values(name, v, output) for name, v in checked_columns(output).items()}
        names = [INDEX_COLUMN, *columns]
        dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
        rows = zip(output.index.tolist(), *columns.values(), strict=True)
        return "".join(dump(dict(zip(names, row, strict=True))) + "\n" for row in rows).encode()

    def decode(self, data: bytes) -> pa.Table:
        """Return the rows; Arrow infers the columns' types from the values.

        Raises:
            OutputError: A column's values have no common Arrow type, though each is good JSON.
        """
        rows = [json.loads(line) for line in data.split(b"\n") if line]
        names = [name for name in rows[0] if name != INDEX_COLUMN] if rows else []
        arrays = [inferred_array(name, [row[name] for row in rows]) for name in names]
        index = pa.array([row[INDEX_COLUMN] for row in rows], type=pa.int64())
        return pa.Table.from_arrays([index, *arrays], names=[INDEX_COLUMN, *names])


def _json_values(name: str, values: npt.NDArray[Any] | list[Any], output: ChunkOutput) -> list[Any]:
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "f" and values.size:
            finite = np.isfinite(values.reshape(output.rows, -1)).all(axis=1)
            if not finite.all():
                row = int(np.argmin(finite))
                _refuse(name, output.index[row], f"{not_finite(values[row].tolist())}, which JSON does not know")
        listed: list[Any] = values.tolist()
        return listed
    result = []
    for index, value in zip(output.index, values, strict=True):
        try:
            result.append(plain(value))
        except TypeError as error:
            _refuse(name, index, f"a value that JSON cannot hold: {error}")
        number = not_finite(result[-1])
        if number is not None:
            _refuse(name, index, f"{number}, which JSON does not know")
        foreign = _foreign_type(result[-1])
        if foreign:
            _refuse(name, index, f"a value of type {foreign}, which JSON does not know")
    return result


def _refuse(name: str, index: np.int64, problem: str) -> None:
    raise OutputError(
        f"Column {name!r} holds {problem}, for sample {index}. Return another value (None becomes null), or "
        f"use another writer, such as parquet."
    )


def _foreign_type(value: Any) -> str | None:
    if isinstance(value, str):
        return "str with a lone surrogate" if any("\ud800" <= c <= "\udfff" for c in value) else None
    if value is None or isinstance(value, _JSON_LEAVES):
        return None
    if isinstance(value, dict):
        inner = [*value, *value.values()]
    elif isinstance(value, list):
        inner = value
    else:
        return type(value).__name__
    return next((found for found in map(_foreign_type, inner) if found), None)
