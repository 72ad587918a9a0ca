"""Rows of what a processor returns. Unlike in a batch, a list here always holds one value per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from batchmill.engine.rows import is_arrow, join_arrays
from batchmill.errors import OutputError


def select_outputs(outputs: Any, rows: int, positions: Sequence[int]) -> Any:
    """Return the outputs of the rows at the given positions, ascending.

    Args:
        outputs: What ``process_batch`` returned: a mapping from column name to values, or one value per sample.
        rows: Rows of the batch that it was given.
        positions: Positions, 0 to ``rows - 1``.

    Raises:
        OutputError: There is not one value per sample.
    """
    if isinstance(outputs, Mapping):
        return {name: _select(values, rows, positions, f"Column {name!r}") for name, values in outputs.items()}
    return _select(outputs, rows, positions, "What process_batch returned")


def join_outputs(pieces: Sequence[Any], rows: Sequence[int]) -> Any:
    """Return the outputs of several pieces of a batch as if it had been processed at once.

    Args:
        pieces: What ``process_batch`` returned for each piece, at least one.
        rows: Rows of each piece.

    Raises:
        OutputError: The pieces differ in kind or columns, or lack a value for a sample.
    """
    if all(piece is None for piece in pieces):
        return None
    if all(isinstance(piece, Mapping) for piece in pieces):
        names = list(pieces[0])
        if any(piece.keys() != pieces[0].keys() for piece in pieces):
            raise OutputError("process_batch returned other columns for one piece of a batch than for another.")
        return {name: _join([piece[name] for piece in pieces], rows, f"Column {name!r}") for name in names}
    return _join(pieces, rows, "What process_batch returned")


def _select(values: Any, rows: int, positions: Sequence[int], what: str) -> Any:
    values = _sized(values, what)
    _check(values, rows, what)
    if isinstance(values, torch.Tensor):
        return values[torch.as_tensor(positions, dtype=torch.long, device=values.device)]
    if isinstance(values, np.ndarray):
        return values[np.asarray(positions, dtype=np.int64)]
    return values.take(list(positions)) if is_arrow(values) else [values[position] for position in positions]


def _join(pieces: Sequence[Any], rows: Sequence[int], what: str) -> Any:
    sized = [_sized(piece, what) for piece in pieces]
    for values, count in zip(sized, rows, strict=True):
        _check(values, count, what)
    for same in _ARRAYS:
        if all(map(same, sized)):
            return join_arrays(sized)
    if any(same(values) for same in _ARRAYS for values in sized):
        kinds = sorted({type(values).__qualname__ for values in sized})
        raise OutputError(f"{what} is of different types in the pieces of one batch: {', '.join(kinds)}.")
    return [value for values in sized for value in values]


_ARRAYS: tuple[Callable[[Any], bool], ...] = (
    lambda values: isinstance(values, torch.Tensor),
    lambda values: isinstance(values, np.ndarray),
    is_arrow,
)


def _sized(values: Any, what: str) -> Any:
    """Return values that can be counted and indexed; anything else that can be iterated becomes a list."""
    if isinstance(values, (torch.Tensor, np.ndarray)):
        if values.ndim == 0:
            raise OutputError(f"{what} is a single value; expected one value per sample.")
        return values
    if is_arrow(values):
        return values
    if values is None or isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise OutputError(f"{what} is a {type(values).__name__}; expected one value per sample.")
    return values if isinstance(values, (list, tuple)) else list(values)


def _check(values: Any, rows: int, what: str) -> None:
    if len(values) != rows:
        raise OutputError(f"{what} has {len(values)} values; expected {rows}, one for each sample.")
