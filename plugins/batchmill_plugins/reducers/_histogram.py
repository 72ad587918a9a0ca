"""Histogram of one column over fixed bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from batchmill import ConfigError, Law
from batchmill_plugins.reducers._columns import BadColumnError, PlacedReducer, read_numbers, refuse_values


class Histogram(PlacedReducer):
    """Counts of a column's elements in bins of equal width, and of those below and above all bins.

    Args:
        column: Name of the column.
        bins: Number of bins.
        low: Lower edge of the first bin.
        high: Upper edge of the last bin. A value on an edge is in the bin above it, ``high`` in the last.

    Raises:
        ConfigError: There are no bins, or none of any width.
    """

    law: ClassVar[Law] = Law.EXACT

    def __init__(self, column: str, bins: int, low: float, high: float) -> None:
        if bins < 1 or not low < high or not math.isfinite(high - low):
            raise ConfigError(
                f"histogram of {column!r} has bins={bins}, low={low}, high={high}; expected at least one bin "
                f"and finite edges with low < high."
            )
        self._edges = np.linspace(low, high, bins + 1, dtype=np.float64)
        if not (np.diff(self._edges) > 0).all():
            raise ConfigError(
                f"histogram of {column!r} has {bins} bins from {low} to {high}, which is finer than float64 "
                f"can tell apart; use fewer bins."
            )
        super().__init__(column)
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self._counts = np.zeros(self._edges.size + 1, dtype=np.int64)

    def update(self, values: Any) -> None:
        """Take one batch of numbers, shape ``(rows, ...)``; infinities count as below and above.

        Raises:
            ReducerError: A value is no number or NaN; the message names the column and the place.
        """
        try:
            column = read_numbers(values)
            if column.values.dtype.kind == "f":
                refuse_values(column, np.isnan(column.values))
        except BadColumnError as error:
            raise self.refusal(self.columns[0], error) from None
        numbers = column.values.astype(np.float64, copy=False)
        places = np.searchsorted(self._edges, numbers, side="right")
        places[numbers == self._edges[-1]] -= 1
        self._counts += np.bincount(places, minlength=self._counts.size)

    def per_slot_reduce(self) -> list[int]:
        """Return the counts of the values seen."""
        counts: list[int] = self._counts.tolist()
        return counts

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Sequence[int]]) -> list[int]:
        """Return the counts of all chunks: below ``low``, each bin in order, above ``high``."""
        return [sum(counts) for counts in zip(*per_slot_metrics, strict=True)] or [0] * (self._edges.size + 1)
