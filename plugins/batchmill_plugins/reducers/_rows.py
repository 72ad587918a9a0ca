"""Metrics that need every value at once, computed from the committed rows: exact quantiles and ROC AUC."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchmill import INDEX_COLUMN, ConfigError, ReducerError, RowReducer, hookimpl
from batchmill_plugins.reducers._arrow import read_arrow
from batchmill_plugins.reducers._columns import BadColumnError, FlatColumn, read_numbers, refuse_values, refused

# Scores that are looked up at once; more would only hold memory.
_BLOCK = 2**16


class _NumberRows(RowReducer):
    """Reads columns of numbers; what is wrong with one is told at its batch, and not hours later.

    A subclass's ``_check`` sees each batch's columns as they are returned, and each chunk's as they are read back.
    """

    @hookimpl
    def on_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """Check one batch. The hook passes what an implementation names, so naming more is allowed."""
        super().on_batch_end(outputs, batch)
        if isinstance(outputs, Mapping):
            self._read({name: read_numbers for name in self.columns}, outputs, f"batch {batch_idx}")

    def _read_table(self, table: pa.Table) -> list[FlatColumn]:
        index = table.column(INDEX_COLUMN)
        place = f"samples {index[0]} to {index[-1]}"
        return self._read({name: read_arrow for name in self.columns}, table, place)

    def _read(self, readers: Mapping[str, Any], source: Any, place: str) -> list[FlatColumn]:
        columns = []
        for name, read in readers.items():
            try:
                column = read(source[name])
                self._check(name, column)
            except BadColumnError as error:
                raise refused(self, name, error, place) from None
            columns.append(column)
        if len({column.values.size for column in columns}) > 1:
            raise ReducerError(
                f"{type(self).__name__} reads columns {', '.join(map(repr, self.columns))} side by side, but they "
                f"hold {' and '.join(str(column.values.size) for column in columns)} values in {place}."
            )
        return columns

    def _check(self, name: str, column: FlatColumn) -> None:
        """Refuse values that the metric cannot stand for.

        Raises:
            BadColumnError: There is such a value.
        """
        raise NotImplementedError


class Quantile(_NumberRows):
    """Exact quantiles of all elements of a column, by numpy's method "linear" on float64.

    Holds the whole column in memory at the end of the run, 8 bytes a value.

    Args:
        column: Name of the column.
        q: Which quantiles, 0.0 to 1.0.

    Raises:
        ConfigError: ``q`` is no such list.
    """

    def __init__(self, column: str, q: Sequence[float] = (0.25, 0.5, 0.75)) -> None:
        listed = isinstance(q, Sequence) and not isinstance(q, str)
        if not listed or not q or any(isinstance(each, bool) or not _is_share(each) for each in q):
            raise ConfigError(f"q of quantile of {column!r} is {q!r}; expected a list of numbers from 0 to 1.")
        super().__init__(column)
        self._q = [float(each) for each in q]

    def reduce_rows(self, tables: Iterator[pa.Table]) -> list[float] | None:
        """Return the quantiles in the order of ``q``; None for no values."""
        held = array("d")
        for table in tables:
            (column,) = self._read_table(table)
            _append(held, column.values)
        if not held:
            return None
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite result is refused by name
            found = np.quantile(np.frombuffer(held), self._q, method="linear", overwrite_input=True)
        quantiles: list[float] = found.tolist()
        return quantiles

    def _check(self, name: str, column: FlatColumn) -> None:
        if column.values.dtype.kind == "f":
            refuse_values(column, ~np.isfinite(column.values))


class RocAuc(_NumberRows):
    """Area under the ROC curve of binary labels: the share of pairs ranked right, a tie counting one half.

    Exact for any number of ties, rounded once. Holds all scores in memory at the end of the run, 8 bytes a value.

    Args:
        score: Column of scores, higher for samples that are more likely positive; infinities are allowed.
        label: Column of labels, 0 and 1 or False and True.
    """

    def __init__(self, score: str = "score", label: str = "label") -> None:
        super().__init__(score, label)

    def reduce_rows(self, tables: Iterator[pa.Table]) -> float | None:
        """Return the area, 0.0 to 1.0; None if there are not both positive and negative samples."""
        negative, positive = array("d"), array("d")
        for table in tables:
            score, label = self._read_table(table)
            chosen = label.values == 1
            _append(positive, score.values[chosen])
            _append(negative, score.values[~chosen])
        return _area(np.frombuffer(positive), np.frombuffer(negative)) if positive and negative else None

    def _check(self, name: str, column: FlatColumn) -> None:
        if name == self.columns[0]:
            if column.values.dtype.kind == "f":
                refuse_values(column, np.isnan(column.values))
            return
        wrong = (column.values != 0) & (column.values != 1)
        if wrong.any():
            position = int(np.argmax(wrong))
            raise BadColumnError(f"holds {column.values[position]}; expected 0 or 1", column.row_of(position))


def _area(positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64]) -> float:
    """Return the area from both classes' scores, which are sorted in place."""
    positive.sort()
    negative.sort()
    doubled = 0  # twice the number of negatives below each positive, and once that of those equal to it
    for start in range(0, positive.size, _BLOCK):
        block = positive[start : start + _BLOCK]
        doubled += sum(int(np.searchsorted(negative, block, side=side).sum()) for side in ("left", "right"))
    return doubled / (2 * positive.size * negative.size)


def _append(held: array[float], values: npt.NDArray[Any]) -> None:
    held.frombytes(np.ascontiguousarray(values, dtype=np.float64).view(np.uint8).data)


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1
