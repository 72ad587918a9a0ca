"""Reading a column's values, whatever holds them, as flat arrays in which every value's row is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from batchmill import ColumnReducer, MetricReducer, ReducerError, hookimpl

_NUMBER_KINDS = "biuf"


class BadColumnError(ValueError):
    """A column's values cannot be reduced.

    Attributes:
        problem: What is wrong, to follow "column 'x'" in a message.
        row: The first row concerned, or None if it is the whole column.
    """

    def __init__(self, problem: str, row: int | None = None) -> None:
        super().__init__(problem)
        self.problem, self.row = problem, row


@dataclass(frozen=True)
class FlatColumn:
    """A column's values, sample after sample.

    Attributes:
        values: All elements, shape ``(elements,)``.
        shape: Shape of the column, ``(rows, ...)``; ``(rows, -1)`` where samples differ in size.
        ends: For samples of different size: each sample's end in ``values``, shape ``(rows,)``.
    """

    values: npt.NDArray[Any]
    shape: tuple[int, ...]
    ends: npt.NDArray[np.int64] | None = None

    def row_of(self, position: int) -> int:
        """Return the row that the element at ``position`` belongs to."""
        if self.ends is not None:
            return int(np.searchsorted(self.ends, position, side="right"))
        return position * self.shape[0] // self.values.size


def count_rows(values: Any) -> int:
    """Return how many samples a column holds.

    Raises:
        BadColumnError: It is one single value.
    """
    if isinstance(values, (torch.Tensor, np.ndarray)):
        if values.ndim:
            return len(values)
    elif isinstance(values, Sequence) and not isinstance(values, (str, bytes)):
        return len(values)
    kind = f"{type(values).__name__} of shape ()" if hasattr(values, "ndim") else type(values).__name__
    raise BadColumnError(f"is one single value ({kind}); expected one value for each sample")


def read_numbers(values: Any) -> FlatColumn:
    """Return a column of bools, integers or floats.

    Args:
        values: Tensor or array of shape ``(rows, ...)``, or a sequence of ``rows`` numbers, arrays, tensors
            or (nested) lists; bfloat16 becomes float32.

    Raises:
        BadColumnError: A value is not a number.
    """
    rows = count_rows(values)
    if isinstance(values, (torch.Tensor, np.ndarray)):
        array = _as_array(values)
        if array.dtype.kind not in _NUMBER_KINDS:
            raise BadColumnError(f"holds {array.dtype}; expected numbers")
        return FlatColumn(array.reshape(-1), array.shape)
    quick = _read_plain_list(values)
    if quick is not None:
        return quick
    samples = [_as_array(value) for value in values]
    for row, sample in enumerate(samples):
        if sample.dtype.kind not in _NUMBER_KINDS:
            raise BadColumnError(f"holds {_shortened(values[row])}; expected numbers", row)
    ends = np.cumsum([sample.size for sample in samples], dtype=np.int64)
    flat = np.concatenate([sample.reshape(-1) for sample in samples]) if samples else np.empty(0)
    return FlatColumn(flat, (rows, -1), ends)


def read_labels(values: Any) -> FlatColumn:
    """Return a column of labels: numbers or strings, all of one kind.

    Args:
        values: As for ``read_numbers``, or strings instead of numbers; every sample of the same shape.

    Raises:
        BadColumnError: A value is neither, samples differ in kind or shape, or a number is NaN.
    """
    count_rows(values)
    if isinstance(values, (torch.Tensor, np.ndarray)):
        array = _as_array(values)
    elif values and all(isinstance(value, str) for value in values):
        array = np.asarray(values)
    else:
        try:
            array = np.asarray([_as_array(value) for value in values] if values else np.empty(0))
        except ValueError:
            raise BadColumnError("holds samples of different shapes; expected labels of one shape") from None
    if array.dtype.kind == "U" and not isinstance(values, np.ndarray):
        _refuse_mixed(values)
    if array.dtype.kind not in _NUMBER_KINDS + "U":
        odd = next((r for r, v in enumerate(values) if not isinstance(v, (str, int, float))), None)
        held = f"holds {array.dtype}" if odd is None else f"holds {_shortened(values[odd])}"
        raise BadColumnError(f"{held}; expected numbers or strings", odd)
    column = FlatColumn(array.reshape(-1), array.shape)
    if array.dtype.kind == "f":
        refuse_values(column, np.isnan(column.values))
    return column


def refuse_values(column: FlatColumn, bad: npt.NDArray[np.bool_]) -> None:
    """Raise BadColumnError for the first value marked in ``bad``, shape ``(elements,)``."""
    if bad.any():
        position = int(np.argmax(bad))
        raise BadColumnError(f"holds {column.values[position]}", column.row_of(position))


def refused(reducer: MetricReducer, column: str, error: BadColumnError, place: str) -> ReducerError:
    """Return the error to raise for a column that cannot be reduced; ``place`` is where its rows are from."""
    where = f"in {place}" if error.row is None else f"at row {error.row} of {place}"
    return ReducerError(f"{type(reducer).__name__} cannot use column {column!r}: it {error.problem} {where}.")


class PlacedReducer(ColumnReducer):
    """A column reducer whose errors name the column, the batch and the row."""

    _batch_idx: int | None = None

    @hookimpl
    def on_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """Update from one batch. The hook passes what an implementation names, so naming more is allowed."""
        self._batch_idx = batch_idx
        super().on_batch_end(outputs, batch)

    def refusal(self, column: str, error: BadColumnError) -> ReducerError:
        """Return the error to raise for a column that cannot be reduced."""
        return refused(self, column, error, "the batch" if self._batch_idx is None else f"batch {self._batch_idx}")


def _read_plain_list(values: Sequence[Any]) -> FlatColumn | None:
    if not values or hasattr(values[0], "__array__"):
        return None
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # samples of different sizes, or tensors among them
        return None
    return FlatColumn(array.reshape(-1), array.shape) if array.dtype.kind in _NUMBER_KINDS else None


def _as_array(value: Any) -> npt.NDArray[Any]:
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
            tensor = tensor.float()  # numpy has neither bfloat16 nor the 8-bit floats
        return tensor.cpu().resolve_conj().resolve_neg().numpy()
    try:
        return np.asarray(value)
    except ValueError:  # a ragged list; object arrays are refused with the value in the message
        return np.asarray(None)


def _refuse_mixed(values: Any) -> None:
    for row, value in enumerate(values):
        if _as_array(value).dtype.kind != "U":
            raise BadColumnError(f"holds {_shortened(value)} among strings", row)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
