"""Collects what a processor returns for one chunk, column by column, in memory of our own.

Rows are copied at once (one copy, into the chunk's arrays), so a processor may reuse its buffers, and the commit
thread encodes without touching Python rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from batchmill.contracts.writer import INDEX_COLUMN, ChunkOutput
from batchmill.errors import OutputError

DEFAULT_COLUMN = "output"


class OutputBuffer:
    """The rows of one chunk.

    Args:
        start: The chunk's first sample.
        stop: The index after its last sample.
    """

    def __init__(self, start: int, stop: int) -> None:
        self._capacity = stop - start
        self._index = np.empty(self._capacity, dtype=np.int64)
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._order: list[str] = []
        self._rows = 0

    def add(self, outputs: Any, start: int, stop: int, index: Sequence[int] | None = None) -> None:
        """Copy one batch's outputs.

        Args:
            outputs: What ``process_batch`` returned, not None.
            start: The batch's first sample.
            stop: The index after its last sample.
            index: The samples that the rows belong to, ascending; None: all of the batch.

        Raises:
            OutputError: A column has the wrong length, changes its shape, or appears only in some batches.
        """
        rows, place = stop - start if index is None else len(index), f"samples {start}..{stop - 1}"
        columns = {name: _normalised(name, values, place) for name, values in _as_columns(outputs, place).items()}
        if self._rows and columns.keys() != set(self._order):
            raise OutputError(
                f"The processor returned columns {_listed(columns)} for {place}, but {_listed(self._order)} before. "
                f"Every batch must have the same columns."
            )
        for name, values in columns.items():
            if len(values) != rows:
                raise OutputError(
                    f"Column {name!r} has {len(values)} values for {place}; expected {rows}, one for each sample."
                )
            if isinstance(values, list):
                self._add_list(name, values, place)
            else:
                self._add_array(name, values, place)
        self._index[self._rows : self._rows + rows] = np.arange(start, stop) if index is None else index
        self._rows += rows

    def finish(self) -> ChunkOutput | None:
        """Return the chunk's rows, or None if nothing was returned for it."""
        if not self._rows:
            return None
        arrays = {name: array[: self._rows] for name, array in self._arrays.items()}
        columns: dict[str, Any] = {**arrays, **self._lists}
        return ChunkOutput(self._index[: self._rows], {name: columns[name] for name in self._order})

    def _add_list(self, name: str, values: list[Any], place: str) -> None:
        if name in self._arrays:
            raise OutputError(f"Column {name!r} is a list for {place}, but was a tensor or array before.")
        if name not in self._lists:
            self._order.append(name)
        self._lists.setdefault(name, []).extend(values)

    def _add_array(self, name: str, values: npt.NDArray[Any], place: str) -> None:
        array = self._arrays.get(name)
        if array is None:
            if name in self._lists:
                raise OutputError(f"Column {name!r} is an array for {place}, but was a list before.")
            array = self._arrays[name] = np.empty((self._capacity, *values.shape[1:]), dtype=values.dtype)
            self._order.append(name)
        elif array.shape[1:] != values.shape[1:] or array.dtype != values.dtype:
            raise OutputError(
                f"Column {name!r} holds {values.dtype} of shape {values.shape[1:]} a sample for {place}, but "
                f"{array.dtype} of shape {array.shape[1:]} before. Return lists of values where sizes differ."
            )
        array[self._rows : self._rows + len(values)] = values


def nonfinite_rows(outputs: Any, rows: int) -> dict[int, str]:
    """Return the rows whose values are not all finite, ascending, with the first column in which that is so.

    Args:
        outputs: What ``process_batch`` returned.
        rows: Rows in it; columns of another length are left to ``add``.
    """
    found: dict[int, str] = {}
    for name, values in _as_columns(outputs, "a batch").items():
        array = _normalised(name, values, "a batch")
        if len(array) != rows:
            continue
        if isinstance(array, list):
            bad = [row for row, value in enumerate(array) if not _is_finite(value)]
        elif array.dtype.kind in "fc":
            finite = np.isfinite(array).reshape(rows, -1).all(axis=1)
            bad = np.flatnonzero(~finite).tolist()
        else:
            continue
        for row in bad:
            found.setdefault(row, name)
    return dict(sorted(found.items()))


def _is_finite(value: Any) -> bool:
    if isinstance(value, (float, complex)):
        return bool(np.isfinite(value))
    if isinstance(value, torch.Tensor):
        return bool(torch.isfinite(value).all())
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    return True


def _as_columns(outputs: Any, place: str) -> Mapping[str, Any]:
    if isinstance(outputs, Mapping):
        for name in outputs:
            if not isinstance(name, str) or name == INDEX_COLUMN or not name:
                raise OutputError(
                    f"The processor returned a column named {name!r} for {place}; expected a non-empty string other "
                    f"than {INDEX_COLUMN!r}, which is the sample's index."
                )
        if not outputs:
            raise OutputError(f"The processor returned an empty mapping for {place}; return None to write nothing.")
        return outputs
    if isinstance(outputs, (torch.Tensor, np.ndarray)):
        return {DEFAULT_COLUMN: outputs}
    if isinstance(outputs, Sequence) and not isinstance(outputs, (str, bytes)):
        if outputs and all(isinstance(item, Mapping) for item in outputs):
            names = list(outputs[0])
            for position, item in enumerate(outputs):
                if item.keys() != outputs[0].keys():
                    raise OutputError(
                        f"Row {position} of {place} has keys {_listed(item)}, the first row has {_listed(names)}."
                    )
            return _as_columns({name: [item[name] for item in outputs] for name in names}, place)
        return {DEFAULT_COLUMN: outputs}
    raise OutputError(
        f"process_batch returned a {type(outputs).__name__} for {place}; expected None, a mapping from column name to "
        f"values, or one value per sample (a tensor, array or sequence)."
    )


def _normalised(name: str, values: Any, place: str) -> npt.NDArray[Any] | list[Any]:
    if isinstance(values, (str, bytes, Mapping, Set)) or not isinstance(values, (torch.Tensor, Iterable)):
        raise OutputError(
            f"Column {name!r} is a {type(values).__name__} for {place}; expected one value per sample: a tensor, an "
            f"array or a sequence."
        )
    try:
        return _normalise(values)
    except (TypeError, RuntimeError) as error:
        raise OutputError(f"Column {name!r} cannot be copied for {place}: {error}") from error


def _normalise(values: Any) -> npt.NDArray[Any] | list[Any]:
    if isinstance(values, torch.Tensor):
        tensor = values.detach()
        if tensor.dtype is torch.bfloat16:
            tensor = tensor.float()  # numpy has no bfloat16
        values = tensor.cpu().resolve_conj().resolve_neg().numpy()
    if isinstance(values, np.ndarray):
        if values.ndim == 0:
            return [values.item()]
        return values.tolist() if values.dtype.kind in "OUSMm" else values
    items = list(values)
    if items and all(isinstance(item, torch.Tensor) for item in items):
        if len({(item.shape, item.dtype) for item in items}) == 1:
            return _normalise(torch.stack(items))
        items = [_normalise(item) if item.ndim else item.item() for item in items]
    return [item.copy() if isinstance(item, np.ndarray) else item for item in items]


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in sorted(map(str, names)))
