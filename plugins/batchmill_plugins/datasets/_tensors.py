"""The dataset of named tensors in one file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from batchmill import DatasetError
from batchmill_plugins.datasets._arrays import SUFFIXES, Column, open_columns
from batchmill_plugins.datasets._files import FileDataset, choose_columns, find_files


class TensorsDataset(FileDataset):
    """Samples are the rows of the tensors in a .safetensors, .npz or .npy file.

    The file is mapped into memory, so opening costs nothing and only what is read takes memory. A batch is a
    copy: it is read while other batches are processed, and a processor may change it without changing the
        data.

    Args:
        path: The file.
        columns: Names of the tensors to read; empty for all.

    Raises:
        DatasetError: There is no such file or tensor, or the tensors have different lengths.
    """

    def __init__(self, path: str, columns: Sequence[str] = ()) -> None:
        files = find_files(path, SUFFIXES)
        if len(files) != 1:
            raise DatasetError(
                f"{path!r} stands for {len(files)} files; dataset=tensors reads one. For many files use "
                f"dataset=parquet or dataset=jsonl."
            )
        super().__init__(files)
        self._chosen = list(columns)
        self._columns: dict[str, Column] | None = None
        self._length = _common_length(self._open(), str(files[0]))

    def __len__(self) -> int:
        return self._length

    def read_batch(self, start: int, stop: int) -> dict[str, Any]:
        """Return rows ``[start, stop)`` of every tensor, copied; arrays of strings as lists."""
        self.check_range(start, stop)
        return {
            name: values[start:stop].clone(memory_format=torch.contiguous_format)
            if isinstance(values, torch.Tensor)
            else values[start:stop].tolist()
            for name, values in self._open().items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_columns": None}

    def _open(self) -> dict[str, Column]:
        if self._columns is None:
            available = open_columns(self.files[0])
            names = choose_columns(self._chosen, available, self.files[0])
            self._columns = {name: available[name] for name in names}
        return self._columns


def _common_length(columns: dict[str, Column], path: str) -> int:
    shapes = {name: list(values.shape) for name, values in columns.items()}
    if not shapes:
        raise DatasetError(f"{path} holds no tensors.")
    if [] in shapes.values() or len({shape[0] for shape in shapes.values()}) != 1:
        listed = ", ".join(f"{name!r} {shape}" for name, shape in shapes.items())
        raise DatasetError(
            f"The tensors of {path} must have the same first dimension, the number of samples, but have "
            f"shapes {listed}. Choose among them with dataset.columns."
        )
    return int(next(iter(shapes.values()))[0])
