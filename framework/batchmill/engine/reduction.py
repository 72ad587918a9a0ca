"""Reducers of a run: wrapping what users give, taking partials, folding them in chunk order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from itertools import chain
from types import MethodType
from typing import Any

from batchmill.contracts.reducer import MetricReducer
from batchmill.engine.exact_sum import ExactSum
from batchmill.engine.serialization import decode_value, encode_value
from batchmill.errors import ReducerError


class Reducer(StrEnum):
    """Ready-made reductions of single values; wrap one and call ``update(value)`` on what comes back."""

    AVG = "avg"
    SUM = "sum"
    MAX = "max"
    MIN = "min"


class ValueReducer(MetricReducer):
    """Average (weighted), sum, maximum or minimum of numbers, the same for any grouping into chunks."""

    def __init__(self, reduction: Reducer) -> None:
        self.reduction = reduction
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self._sum, self._weights = ExactSum(), ExactSum()
        self._extreme: float | None = None

    def update(self, value: Any, weight: float = 1.0) -> None:
        """Take one value.

        Args:
            value: A number, or a tensor or array with one element.
            weight: How much it counts in an average.
        """
        number = float(value)
        if not math.isfinite(number):
            raise ReducerError(f"Reducer.{self.reduction.name} was given {number}; expected finite numbers.")
        if self.reduction is Reducer.AVG:
            self._sum.add([number * float(weight)])
            self._weights.add([float(weight)])
        elif self.reduction is Reducer.SUM:
            self._sum.add([number])
        else:
            known = [number] if self._extreme is None else [number, self._extreme]
            self._extreme = max(known) if self.reduction is Reducer.MAX else min(known)

    def per_slot_reduce(self) -> dict[str, Any]:
        """Return the state of the values seen."""
        return {"sum": self._sum.state(), "weights": self._weights.state(), "extreme": self._extreme}

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Any]) -> float | None:
        """Return the reduced value; None if no value was ever given to an average, maximum or minimum."""
        if self.reduction in (Reducer.MAX, Reducer.MIN):
            extremes = [p["extreme"] for p in per_slot_metrics if p["extreme"] is not None]
            choose = max if self.reduction is Reducer.MAX else min
            return choose(extremes, default=None)
        total, weights = ExactSum(), ExactSum()
        for slot in per_slot_metrics:
            total.merge(ExactSum.from_state(slot["sum"]))
            weights.merge(ExactSum.from_state(slot["weights"]))
        if self.reduction is Reducer.SUM:
            return total.value()
        return total.value() / weights.value() if weights.value() else None


class FunctionReducer(MetricReducer):
    """A plain function over all values given to ``update``, in dataset order."""

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


class ReducerSet:
    """All reducers of one worker, by name; the same names, in the same order, on every worker."""

    def __init__(self) -> None:
        self._reducers: dict[str, MetricReducer] = {}
        self._unnamed: set[str] = set()

    @property
    def names(self) -> list[str]:
        """Names under which partials are stored, in fold order."""
        return list(self._reducers)

    def wrap(self, reducer: Any, name: str | None = None) -> Any:
        """Add a reducer and return the object to update.

        Args:
            reducer: A MetricReducer, a member of ``Reducer``, or a function of a list of values.
            name: Name of the metric; None for a reducer whose result is a dict of metrics.

        Raises:
            ReducerError: The reducer was given before, the name is taken, or it is none of these.
        """
        if isinstance(reducer, MetricReducer):
            wrapped: MetricReducer = reducer
        elif isinstance(reducer, Reducer):
            wrapped = ValueReducer(reducer)
        elif isinstance(reducer, type):
            raise ReducerError(
                f"wrap_reducer was given the class {reducer.__qualname__}; expected an instance. "
                f"Did you forget the parentheses, {reducer.__qualname__}()?"
            )
        elif callable(reducer):
            wrapped = FunctionReducer(reducer)
        else:
            raise ReducerError(
                f"wrap_reducer was given a {type(reducer).__name__}; expected a MetricReducer, a member of "
                f"batchmill.Reducer or a function of a list of values."
            )
        if name is not None and (not isinstance(name, str) or not name):
            raise ReducerError(f"The name of a metric is {name!r}; expected a non-empty string, or None.")
        for known, other in self._reducers.items():
            if other is wrapped or (isinstance(other, FunctionReducer) and _same_function(other.function, reducer)):
                raise ReducerError(f"The reducer {_describe(reducer)} was wrapped before, as {known!r}.")
        if name is None:
            name = f"#{len(self._unnamed)}:{type(wrapped).__name__}"
            self._unnamed.add(name)
        elif name in self._reducers:
            raise ReducerError(f"Two reducers are named {name!r}; give each metric its own name.")
        self._reducers[name] = wrapped
        self._call(name, wrapped.reset)
        return wrapped

    def take_partials(self) -> dict[str, Any]:
        """Return every reducer's partial, encoded for storage, and reset them.

        Raises:
            ReducerError: A reducer failed or its partial cannot be stored; the message names it.
        """
        partials: dict[str, Any] = {}
        for name, reducer in self._reducers.items():
            taken = self._call(name, reducer.per_slot_reduce)
            try:
                partials[name] = encode_value(taken)
            except (TypeError, ValueError, RuntimeError) as error:  # torch tells of odd dtypes by RuntimeError
                raise ReducerError(f"The partial of reducer {name!r} cannot be stored: {error}.") from error
            self._call(name, reducer.reset)
        return partials

    def reset(self) -> None:
        """Reset every reducer, so that an abandoned chunk leaves no trace."""
        for name, reducer in self._reducers.items():
            self._call(name, reducer.reset)

    def fold(self, partials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the metrics from every chunk's encoded partials, given in chunk order.

        Raises:
            ReducerError: A partial is missing, a reducer failed, or a result is not JSON or not finite; the message
                names the reducer.
        """
        metrics: dict[str, Any] = {}
        for name, reducer in self._reducers.items():
            for chunk, of_chunk in enumerate(partials):
                if name not in of_chunk:
                    raise ReducerError(
                        f"Chunk {chunk} was committed without reducer {name!r} "
                        f"(it has {', '.join(of_chunk) or 'none'}). The processor was changed since; start a new "
                        f"run_id."
                    )
            decoded = [decode_value(of_chunk[name]) for of_chunk in partials]
            result = self._call(name, partial(reducer.cross_slot_reduce, decoded))
            for metric, value in self._results(name, result).items():
                if metric in metrics:
                    raise ReducerError(f"Reducer {name!r} gives metric {metric!r}, which another reducer gave already.")
                metrics[metric] = value
        return metrics

    def _results(self, name: str, result: Any) -> dict[str, Any]:
        if name not in self._unnamed:
            if isinstance(result, dict):
                raise ReducerError(
                    f"Reducer {name!r} returned a dict. Wrap it without a name, so that each key becomes a metric, or "
                    f"return one value."
                )
            return {name: plain_metric(name, result)}
        if not isinstance(result, dict):
            raise ReducerError(
                f"Reducer {name[1:]} was wrapped without a name and returned a {type(result).__name__}; expected a "
                f"dict of metrics. Wrap it with a name to return one value."
            )
        return {
            key: plain_metric(f"{name[1:]}.{key}", value) for key, value in _with_text_keys(name[1:], result).items()
        }

    def _call(self, name: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:  # user code: any error, told with the reducer's name
            kind = type(self._reducers[name]).__name__
            raise ReducerError(f"Reducer {name!r} ({kind}) failed: {type(error).__name__}: {error}") from error


def plain_metric(name: str, value: Any) -> Any:
    """Return a metric as a plain JSON value; tensors, arrays and numpy scalars become numbers and lists.

    Raises:
        ReducerError: The value is not JSON, or not finite; the message names the metric.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str):
        return _checked_text(name, value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ReducerError(f"Metric {name!r} is {value}; expected a finite number, or None where there is none.")
        return value
    if isinstance(value, (list, tuple)):
        return [plain_metric(name, item) for item in value]
    if isinstance(value, dict):
        return {key: plain_metric(name, item) for key, item in _with_text_keys(name, value).items()}
    raise ReducerError(f"Metric {name!r} is a {type(value).__name__}; expected a JSON value.")


def _with_text_keys(name: str, values: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        text = _checked_text(name, str(key))
        if text in found:
            raise ReducerError(f"Metric {name!r} has two keys that are both written {text!r}.")
        found[text] = value
    return found


def _checked_text(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ReducerError(f"Metric {name!r} holds {text!r}, which is not valid Unicode.") from error
    return text


def _same_function(one: Any, other: Any) -> bool:
    # A method is a new object each time it is looked up, and only methods compare in a known way.
    return one is other or (isinstance(one, MethodType) and isinstance(other, MethodType) and one == other)


def _describe(reducer: Any) -> str:
    return getattr(reducer, "__qualname__", type(reducer).__qualname__)
