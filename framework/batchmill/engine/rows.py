"""Rows of collated batches: choosing some of them, and putting pieces together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from batchmill.errors import OutputError

_EXPECTED = "expected tensors, arrays, Arrow tables, lists of one value per sample, or mappings and lists of these"


def select_rows(batch: Any, rows: int, positions: Sequence[int], columns: bool = True) -> Any:
    """Return a batch with only the rows at the given positions, in that order, in memory of its own.

    Single values (numbers, texts, None), which belong to no row, stay as they are.

    Args:
        batch: A tensor or array of shape ``(rows, ...)``, an Arrow table, a list of one value per row, or mappings,
            lists and tuples (also named ones) of these.
        rows: Rows in the batch.
        positions: Positions, 0 to ``rows - 1``; they may repeat.
        columns: Whether a list of ``rows`` tensors of ``rows`` rows each holds columns, as PyTorch's default collate
            makes them; if False, nobody knows.

    Raises:
        OutputError: The rows of such a batch cannot be told apart.
    """
    if _is_single(batch):
        return batch
    if isinstance(batch, torch.Tensor):
        _check_length(batch, rows)
        return batch[torch.as_tensor(positions, dtype=torch.long, device=batch.device)]
    if isinstance(batch, np.ndarray):
        _check_length(batch, rows)
        return batch[np.asarray(positions, dtype=np.int64)]
    if is_arrow(batch):
        _check_length(batch, rows)
        return batch.take(list(positions))
    if isinstance(batch, Mapping):
        return _like(batch, {key: select_rows(value, rows, positions, columns) for key, value in batch.items()})
    if isinstance(batch, (list, tuple)):
        if _holds_columns(batch, rows):
            if len(batch) == rows and not columns:
                raise OutputError(
                    f"A {type(batch).__qualname__} of {rows} tensors with {rows} rows each may hold columns or rows; "
                    f"the rows cannot be told apart. Collate to a mapping of tensors, or stack the rows."
                )
            return _like(batch, [select_rows(column, rows, positions, columns) for column in batch])
        if len(batch) == rows:
            return _like(batch, [batch[position] for position in positions])
    raise OutputError(f"The rows of a {type(batch).__qualname__} cannot be told apart; {_EXPECTED}.")


def join_rows(pieces: Sequence[Any], rows: Sequence[int]) -> Any:
    """Return one batch with the rows of all pieces, one after another; lists of tensors are read as columns.

    Args:
        pieces: Batches of one structure, at least one.
        rows: Rows of each piece.

    Raises:
        OutputError: The pieces differ in structure, or their rows cannot be told apart.
    """
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if any(type(piece) is not type(first) for piece in pieces):
        kinds = sorted({type(piece).__qualname__ for piece in pieces})
        raise OutputError(f"Pieces of one batch are of different types: {', '.join(kinds)}.")
    if _is_single(first):
        if any(piece is not first and piece != first for piece in pieces):
            raise OutputError(f"Pieces of one batch hold different single values: {pieces}.")
        return first
    if isinstance(first, (torch.Tensor, np.ndarray)):
        for piece, count in zip(pieces, rows, strict=True):
            _check_length(piece, count)
        return join_arrays(pieces)
    if is_arrow(first):
        return join_arrays(pieces)
    if isinstance(first, Mapping):
        if any(piece.keys() != first.keys() for piece in pieces):
            raise OutputError("Pieces of one batch have different keys.")
        return _like(first, {key: join_rows([piece[key] for piece in pieces], rows) for key in first})
    if isinstance(first, (list, tuple)):
        if all(_holds_columns(piece, count) for piece, count in zip(pieces, rows, strict=True)):
            if len({len(piece) for piece in pieces}) > 1:
                raise OutputError("Pieces of one batch have different numbers of columns.")
            return _like(first, [join_rows(list(columns), rows) for columns in zip(*pieces, strict=True)])
        if all(len(piece) == count for piece, count in zip(pieces, rows, strict=True)):
            return _like(first, [row for piece in pieces for row in piece])
    raise OutputError(f"Pieces of type {type(first).__qualname__} cannot be joined; {_EXPECTED}.")


def join_arrays(pieces: Sequence[Any]) -> Any:
    """Return tensors, arrays or Arrow tables of one type, one after another.

    Raises:
        OutputError: Their shapes do not fit.
    """
    try:
        if isinstance(pieces[0], torch.Tensor):
            return torch.cat(list(pieces))
        if isinstance(pieces[0], np.ndarray):
            return np.concatenate(list(pieces))
        import pyarrow as pa

        if isinstance(pieces[0], (pa.Array, pa.ChunkedArray)):
            chunks = [chunk for p in pieces for chunk in (p.chunks if isinstance(p, pa.ChunkedArray) else [p])]
            return pa.chunked_array(chunks).combine_chunks()
        tables = [pa.Table.from_batches([p]) if isinstance(p, pa.RecordBatch) else p for p in pieces]
        return pa.concat_tables(tables).combine_chunks()
    except (RuntimeError, ValueError) as error:
        raise OutputError(f"Pieces of one batch do not fit together: {error}") from error


def is_arrow(batch: Any) -> bool:
    """Return whether something is an Arrow table, record batch or array; imports nothing."""
    return type(batch).__module__.partition(".")[0] == "pyarrow" and hasattr(batch, "take")


def _is_single(batch: Any) -> bool:
    if isinstance(batch, (torch.Tensor, np.ndarray)):
        return batch.ndim == 0
    return batch is None or isinstance(batch, (str, bytes, bool, int, float, complex, np.generic))


def _check_length(batch: Any, rows: int) -> None:
    if len(batch) != rows:
        raise OutputError(
            f"Expected {rows} rows, one for each sample, but a {type(batch).__qualname__} has {len(batch)}."
        )


def _holds_columns(batch: Sequence[Any], rows: int) -> bool:
    """Return whether a list holds columns, as PyTorch's default collate makes them, and not one value per row."""
    return bool(batch) and all(_is_column(item, rows) for item in batch)


def _is_column(item: Any, rows: int) -> bool:
    if isinstance(item, (torch.Tensor, np.ndarray)):
        return item.ndim > 0 and len(item) == rows
    if isinstance(item, Mapping):
        return _holds_columns(list(item.values()), rows)
    if isinstance(item, (list, tuple)):
        return len(item) == rows or _holds_columns(item, rows)
    return is_arrow(item)


def _like(original: Any, values: Any) -> Any:
    if isinstance(original, tuple) and hasattr(original, "_fields"):
        return type(original)(*values)
    if type(original) in (dict, list, tuple):
        return type(original)(values)
    try:
        return type(original)(values)
    except TypeError:
        return values
