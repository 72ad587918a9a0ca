"""Reducers of single values that a processor gives them one by one: ready-made reductions, and plain functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import chain
from typing import Any, ClassVar

from batchmill.contracts.reducer import Law, MetricReducer
from batchmill.engine.exact_sum import ExactSum
from batchmill.errors import ReducerError


class Reducer(StrEnum):
    """Ready-made reductions of single values; wrap one and call ``update(value)`` on what comes back."""

    AVG = "avg"
    SUM = "sum"
    MAX = "max"
    MIN = "min"


class ValueReducer(MetricReducer):
    """Average (weighted), sum, maximum or minimum of numbers, the same for any grouping into chunks.

    Sums and the sum of weights are exact and rounded once; of a weighted value, the product is rounded before that.
    Integers of up to 64 bits stay exact.
    """

    law: ClassVar[Law] = Law.EXACT

    def __init__(self, reduction: Reducer) -> None:
        self.reduction = reduction
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self._sum, self._weights = ExactSum(), ExactSum()
        self._extreme: int | float | None = None

    def update(self, value: Any, weight: float = 1.0) -> None:
        """Take one value.

        Args:
            value: A number, or a tensor or array with one element.
            weight: How much it counts in an average.

        Raises:
            ReducerError: The value, the weight or their product is not finite.
        """
        number = _one_number(value)
        if self.reduction is Reducer.AVG:
            weight = float(weight)
            share = number if weight == 1 else number * weight
            self._check(number, weight, share)
            self._sum.add([share])
            self._weights.add([weight])
            return
        self._check(number)
        if self.reduction is Reducer.SUM:
            self._sum.add([number])
        else:
            self._extreme = self._choose([number] if self._extreme is None else [number, self._extreme])

    def _check(self, number: float, *more: float) -> None:
        if not all(map(math.isfinite, (number, *more))):
            weighted = f" with weight {more[0]}" if more and math.isfinite(number) else ""
            raise ReducerError(f"Reducer.{self.reduction.name} was given {number}{weighted}; expected finite numbers.")

    def _choose(self, values: Sequence[int | float]) -> int | float:
        # An integer goes before an equal float, so that which of the two came first does not show.
        if self.reduction is Reducer.MAX:
            return max(values, key=lambda value: (value, isinstance(value, int)))
        return min(values, key=lambda value: (value, isinstance(value, float)))

    def per_slot_reduce(self) -> dict[str, Any]:
        """Return the state of the values seen."""
        return {"sum": self._sum.state(), "weights": self._weights.state(), "extreme": self._extreme}

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Any]) -> int | float | None:
        """Return the reduced value; None if no value was ever given to an average, maximum or minimum."""
        if self.reduction in (Reducer.MAX, Reducer.MIN):
            extremes = [p["extreme"] for p in per_slot_metrics if p["extreme"] is not None]
            return self._choose(extremes) if extremes else None
        total, weights = ExactSum(), ExactSum()
        for slot in per_slot_metrics:
            total.merge(ExactSum.from_state(slot["sum"]))
            weights.merge(ExactSum.from_state(slot["weights"]))
        if self.reduction is Reducer.SUM:
            return total.value()
        return total.value() / weights.value() if weights.value() else None


class FunctionReducer(MetricReducer):
    """A plain function over all values given to ``update``, in dataset order."""

    law: ClassVar[Law] = Law.ORDERED  # the order of its list is the order of the chunks

    def __init__(self, function: Callable[[list[Any]], Any]) -> None:
        self.function = function
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self._values: list[Any] = []

    def update(self, value: Any) -> None:
        """Keep one value; call it once per batch (or any other number of times)."""
        self._values.append(value)

    def per_slot_reduce(self) -> list[Any]:
        """Return the values kept since the last reset."""
        return self._values

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Any]) -> Any:
        """Return what the function gives for all values, in the order of their batches."""
        return self.function(list(chain.from_iterable(per_slot_metrics)))


def _one_number(value: Any) -> int | float:
    """Return an integer as it is if 64 bits hold it, and any other number as a float, with one zero for both signs."""
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, int) and -(2**63) <= plain < 2**64:
        return int(plain)
    return float(plain) + 0.0
