"""The dataset of rows in JSON-lines files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from batchmill import ConfigError, DatasetError
from batchmill_plugins.datasets._files import FileDataset, choose_columns, find_files
from batchmill_plugins.datasets._line_index import LineIndex

# What a number in the first row tells of its column: the types that may follow, and the tensor's dtype.
_SCALARS: dict[type, tuple[frozenset[type], torch.dtype]] = {
    bool: (frozenset({bool}), torch.bool),
    int: (frozenset({int}), torch.int64),
    float: (frozenset({float, int}), torch.float64),
}


class JsonlDataset(FileDataset):
    """Samples are the lines of JSON-lines files, each an object, in the order of the files' names.

    A column becomes a tensor if the first row of all holds a number there (bool, int64 or float64) or if
    ``dtypes`` names it; else it becomes a list. The choice never depends on the batch. Blank lines do not count.

    Args:
        path: A file, a folder or a glob pattern.
        columns: Keys to read; empty for those of the first row, and then other keys are an error.
        dtypes: Column to torch dtype.

    Raises:
        DatasetError: There are no such files or columns, or the first row is no JSON object.
        ConfigError: There is no such dtype, or no such column to give one.
    """

    def __init__(self, path: str, columns: Sequence[str] = (), dtypes: Mapping[str, str] | None = None) -> None:
        super().__init__(find_files(path, [".jsonl"]))
        self._lines = LineIndex(self.files)
        self._names: list[str] = list(columns)
        self._all_keys = not columns
        first: dict[str, Any] = {}
        if len(self._lines):
            first = self._parse(self._lines.read(0, 1)[0], 0)
            self._names = choose_columns(columns, first, self.files[0])
        declared = {name: _dtype(name, text, self._names) for name, text in (dtypes or {}).items()}
        self._declared = declared
        self._scalars = {
            name: type(first[name])
            for name in self._names
            if name not in declared and type(first.get(name)) in _SCALARS
        }

    def __len__(self) -> int:
        return len(self._lines)

    def read_batch(self, start: int, stop: int) -> dict[str, Any]:
        """Return rows ``[start, stop)`` by column.

        Raises:
            DatasetError: A line is no JSON object, lacks a column, or holds a value of another type; the
                message names the file and the line.
        """
        self.check_range(start, stop)
        rows = [self._row(line, start + i) for i, line in enumerate(self._lines.read(start, stop))]
        return {name: self._column(name, [row[name] for row in rows], start) for name in self._names}

    def _column(self, name: str, values: list[Any], start: int) -> torch.Tensor | list[Any]:
        if name in self._declared:
            return self._declared_column(name, values, start)
        if name not in self._scalars:
            return values
        allowed, dtype = _SCALARS[self._scalars[name]]
        if not set(map(type, values)) <= allowed:
            place = next(i for i, value in enumerate(values) if type(value) not in allowed)
            raise self._refusal(
                start + place,
                f"column {name!r} holds {_shortened(values[place])}, but the first row holds a "
                f"{self._scalars[name].__name__}, so it is a tensor of {str(dtype).removeprefix('torch.')}. "
                f"Set dataset.dtypes.{name} to a wider dtype, or choose other dataset.columns",
            )
        try:
            return torch.tensor(values, dtype=dtype)
        except (ValueError, OverflowError, RuntimeError):
            place = next(i for i, value in enumerate(values) if not _in_range(value, dtype))
            raise self._refusal(
                start + place,
                f"column {name!r} holds {_shortened(values[place])}, beyond {str(dtype).removeprefix('torch.')}",
            ) from None

    def _declared_column(self, name: str, values: list[Any], start: int) -> torch.Tensor:
        dtype = self._declared[name]
        try:
            return _to_tensor(values, dtype)
        except ValueError as error:
            place, problem = _first_misfit(values, dtype) or (0, f"its shape: {error}")
            raise self._refusal(
                start + place,
                f"column {name!r} holds {_shortened(values[place])}, which does not fit dataset.dtypes.{name}="
                f"{str(dtype).removeprefix('torch.')}, {problem}",
            ) from None

    def _row(self, line: bytes, number: int) -> dict[str, Any]:
        row = self._parse(line, number)
        for name in self._names:
            if name not in row:
                keys = ", ".join(map(repr, row)) or "no keys"
                raise self._refusal(number, f"there is no {name!r}. It has {keys}")
        if self._all_keys and len(row) > len(self._names):
            extra = ", ".join(repr(key) for key in row if key not in self._names)
            raise self._refusal(
                number, f"there is {extra}, which the first row has not. Choose the keys with dataset.columns"
            )
        return row

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._refusal(number, f"this is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise self._refusal(number, f"expected a JSON object, but this is {_shortened(row)}")
        return row

    def _refusal(self, number: int, problem: str) -> DatasetError:
        path, line = self._lines.locate(number)
        return DatasetError(f"{path}, line {line} (sample {number}): {problem}.")


def _to_tensor(values: list[Any], dtype: torch.dtype) -> torch.Tensor:
    """Return numbers, or equally long (nested) lists of them, as a tensor; ValueError if a value would change."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError("expected numbers")
    if not dtype.is_floating_point:
        if array.dtype.kind == "f":
            raise ValueError("which holds no fractions")
        converted = torch.from_numpy(array).to(dtype)
        if not np.array_equal(converted.numpy(), array):
            raise ValueError("whose range it leaves")
        return converted
    return torch.from_numpy(array.astype(np.float64)).to(dtype)


def _in_range(value: float, dtype: torch.dtype) -> bool:
    try:
        torch.tensor(value, dtype=dtype)
    except (ValueError, OverflowError, RuntimeError):
        return False
    return True


def _first_misfit(values: list[Any], dtype: torch.dtype) -> tuple[int, str] | None:
    shape: tuple[int, ...] | None = None
    for place, value in enumerate(values):
        try:
            found = tuple(_to_tensor([value], dtype).shape[1:])
        except ValueError as error:
            return place, str(error)
        if shape is not None and found != shape:
            return place, f"with shape {list(shape)} as in the rows before"
        shape = found
    return None


def _dtype(name: str, text: str, columns: list[str]) -> torch.dtype:
    if name not in columns:
        raise ConfigError(
            f"dataset.dtypes names column {name!r}, which is not read. Read: {', '.join(map(repr, columns))}."
        )
    dtype = getattr(torch, str(text), None)
    if not isinstance(dtype, torch.dtype) or dtype.is_complex:
        raise ConfigError(f"dataset.dtypes.{name} is {text!r}; expected a torch dtype, such as float32, int64 or bool.")
    return dtype


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
