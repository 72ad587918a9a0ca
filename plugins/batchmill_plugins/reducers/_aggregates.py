"""Count, sum, mean, minimum and maximum of one column."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from batchmill import ExactSum, Law, ReducerError
from batchmill_plugins.reducers._columns import (
    BadColumnError,
    PlacedReducer,
    count_rows,
    read_numbers,
    refuse_values,
)


class Count(PlacedReducer):
    """The number of samples that have the column.

    Args:
        column: Name of the column.
    """

    law: ClassVar[Law] = Law.EXACT

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._rows = 0

    def update(self, values: Any) -> None:
        """Take one batch: anything with one entry per sample."""
        try:
            self._rows += count_rows(values)
        except BadColumnError as error:
            raise self.refusal(self.columns[0], error) from None

    def per_slot_reduce(self) -> int:
        """Return the number of samples seen."""
        return self._rows

    def cross_slot_reduce(self, per_slot_metrics: Sequence[int]) -> int:
        """Return the number of samples of all chunks."""
        return sum(per_slot_metrics)


class _NumericReducer(PlacedReducer):
    """Reads one column of finite numbers; subclasses take them as one flat array.

    Args:
        column: Name of the column.
    """

    law: ClassVar[Law] = Law.EXACT

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.reset()

    def update(self, values: Any) -> None:
        """Take one batch.

        Args:
            values: Numbers of any dtype, shape ``(rows, ...)``, or a list of ``rows`` numbers or arrays.

        Raises:
            ReducerError: A value is no number, NaN or infinite; the message names the column and the place.
        """
        try:
            column = read_numbers(values)
            if column.values.dtype.kind == "f":
                refuse_values(column, ~np.isfinite(column.values))
        except BadColumnError as error:
            raise self.refusal(self.columns[0], error) from None
        if column.values.size:
            self._take(column.values)

    @abstractmethod
    def _take(self, values: npt.NDArray[Any]) -> None:
        """Take finite numbers, shape ``(elements,)``, at least one."""


class _SummingReducer(_NumericReducer):
    def reset(self) -> None:
        """Forget all values."""
        self._sum = ExactSum()

    def per_slot_reduce(self) -> dict[str, Any]:
        """Return the exact sum of the values seen."""
        return self._sum.state()

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Mapping[str, Any]]) -> float | None:
        """Return the metric over all chunks; None for no values.

        Raises:
            ReducerError: It is beyond the largest float64.
        """
        total = ExactSum()
        for state in per_slot_metrics:
            total.merge(ExactSum.from_state(state))
        try:
            return self._finish(total)
        except OverflowError as error:
            raise ReducerError(f"{type(self).__name__} of column {self.columns[0]!r}: {error}.") from None

    def _take(self, values: npt.NDArray[Any]) -> None:
        self._sum.add(values)

    @abstractmethod
    def _finish(self, total: ExactSum) -> float | None:
        """Return the metric of the exact sum of all values."""


class Sum(_SummingReducer):
    """The sum of all elements of a column: exact, rounded once at the end."""

    def _finish(self, total: ExactSum) -> float | None:
        return total.value() if total.count else None


class Mean(_SummingReducer):
    """The mean over all elements of a column: exact, rounded once at the end."""

    def _finish(self, total: ExactSum) -> float | None:
        return total.mean()


class _ExtremeReducer(_NumericReducer):
    def reset(self) -> None:
        """Forget all values."""
        self._extreme: int | float | None = None

    def per_slot_reduce(self) -> int | float | None:
        """Return the extreme of the values seen; None for no values."""
        return self._extreme

    def cross_slot_reduce(self, per_slot_metrics: Sequence[int | float | None]) -> int | float | None:
        """Return the extreme of all chunks, an integer for an integer column; None for no values."""
        known = [value for value in per_slot_metrics if value is not None]
        return self._choose(known) if known else None

    def _take(self, values: npt.NDArray[Any]) -> None:
        # Adding 0 turns a bool into an integer and -0.0 into 0.0: which of the two was first must not show.
        found = self._choose_in(values).item() + 0
        self._extreme = found if self._extreme is None else self._choose([self._extreme, found])

    @abstractmethod
    def _choose(self, values: Sequence[int | float]) -> int | float:
        """Return the extreme of at least one value.

        A column may hold integers in one batch and floats in another. Of equal ones the integer is chosen, so that
        which of them was first does not show.
        """

    @abstractmethod
    def _choose_in(self, values: npt.NDArray[Any]) -> Any:
        """Return the extreme of an array as a numpy scalar."""


class Min(_ExtremeReducer):
    """The smallest element of a column."""

    def _choose(self, values: Sequence[int | float]) -> int | float:
        return min(values, key=lambda value: (value, isinstance(value, float)))

    def _choose_in(self, values: npt.NDArray[Any]) -> Any:
        return values.min()


class Max(_ExtremeReducer):
    """The largest element of a column."""

    def _choose(self, values: Sequence[int | float]) -> int | float:
        return max(values, key=lambda value: (value, isinstance(value, int)))

    def _choose_in(self, values: npt.NDArray[Any]) -> Any:
        return values.max()
