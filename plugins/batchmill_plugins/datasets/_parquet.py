"""The dataset of rows in Parquet files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.utils.data

from batchmill import DatasetError
from batchmill_plugins.datasets._files import FileDataset, choose_columns, find_files
from batchmill_plugins.datasets._parquet_columns import Sliceable, slice_rows, sliceable

# A batch may span two row groups; the next one then needs the second again.
_CACHED_ROW_GROUPS = 2

RowGroup = dict[str, Sliceable]


class ParquetDataset(FileDataset):
    """Samples are the rows of Parquet files, in the order of the files' names.

    Rows are found from the files' footers alone, and read by whole row groups, the last two of which stay in
    memory. Columns of bools, numbers and fixed-size lists of them become tensors; all others become lists.

    Args:
        path: A file, a folder or a glob pattern.
        columns: Names of the columns to read; empty for all.

    Raises:
        DatasetError: There are no such files or columns, a file is no Parquet, or the files' columns differ.
    """

    def __init__(self, path: str, columns: Sequence[str] = ()) -> None:
        super().__init__(find_files(path, [".parquet"]))
        self._groups: list[tuple[int, int]] = []  # number of the file, number of the row group in it
        rows: list[int] = []
        schema: pa.Schema | None = None
        for number, file in enumerate(self.files):
            footer = _read_footer(file)
            if schema is None:
                self._names = choose_columns(columns, footer.schema.to_arrow_schema().names, file)
            schema = _agreeing(schema, footer.schema.to_arrow_schema(), self._names, file, self.files[0])
            for group in range(footer.num_row_groups):
                self._groups.append((number, group))
                rows.append(footer.row_group(group).num_rows)
        self._starts = [0, *accumulate(rows)]
        self._opened: tuple[int, pq.ParquetFile] | None = None
        self._cache: dict[int, RowGroup] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def read_batch(self, start: int, stop: int) -> dict[str, Any]:
        """Return rows ``[start, stop)`` by column: tensors with memory of their own, or lists."""
        self.check_range(start, stop)
        pieces: dict[str, list[Any]] = {name: [] for name in self._names}
        for number, first, last in self._pieces(start, stop):
            group = self._row_group(number)
            for name, collected in pieces.items():
                collected.append(slice_rows(group[name], first, last))
        return {name: _joined(collected) for name, collected in pieces.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_cache": {}}

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield ``(row group, first row in it, row after the last)`` for every row group that the rows lie in."""
        number = bisect_right(self._starts, start) - 1
        while self._starts[number] < stop:
            base = self._starts[number]
            first, last = max(start, base) - base, min(stop, self._starts[number + 1]) - base
            if first < last:  # else the row group is empty
                yield number, first, last
            number += 1

    def _row_group(self, number: int) -> RowGroup:
        if number not in self._cache:
            read = self._read_row_group(number)
            while len(self._cache) >= _CACHED_ROW_GROUPS:
                del self._cache[next(iter(self._cache))]
            self._cache[number] = read
        return self._cache[number]

    def _read_row_group(self, number: int) -> RowGroup:
        file_number, group = self._groups[number]
        path = self.files[file_number]
        try:
            if self._opened is None or self._opened[0] != file_number:
                self._opened = (file_number, pq.ParquetFile(path, memory_map=True))
            # Loader processes share the machine's cores already.
            threads = torch.utils.data.get_worker_info() is None
            table = self._opened[1].read_row_group(group, columns=self._names, use_threads=threads)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"Row group {group} of {path} cannot be read: {error}") from error
        columns: RowGroup = {}
        for name in self._names:
            try:
                columns[name] = sliceable(table.column(name), table.schema.field(name))
            except ValueError as error:
                raise DatasetError(f"Column {name!r} of {path}, row group {group}, {error}.") from error
        return columns


def _read_footer(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} cannot be read as Parquet: {error}") from error


def _agreeing(known: pa.Schema | None, new: pa.Schema, names: list[str], file: Path, first: Path) -> pa.Schema:
    """Return the schema of all files so far; raise DatasetError if a file's columns have other types."""
    if known is None:
        return new
    for name in choose_columns(names, new.names, file):
        if new.field(name).type != known.field(name).type:
            raise DatasetError(
                f"Column {name!r} is {new.field(name).type} in {file}, but {known.field(name).type} in "
                f"{first}. All files must have the same types; choose the columns with dataset.columns."
            )
    return known


def _joined(pieces: list[Any]) -> torch.Tensor | list[Any]:
    if isinstance(pieces[0], np.ndarray):
        # Always a copy: Arrow's memory must not be written to.
        return torch.from_numpy(np.concatenate(pieces))
    return [value for piece in pieces for value in piece]
