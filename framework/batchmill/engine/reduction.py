"""Reducers of a run: wrapping what users give, taking partials, folding them in chunk order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from types import MethodType
from typing import Any

from batchmill.contracts.reducer import Law, MetricReducer, RowReducer
from batchmill.contracts.writer import Writer
from batchmill.engine.committed_rows import CommittedRows
from batchmill.engine.plain_metrics import plain_metric, with_text_keys
from batchmill.engine.serialization import decode_value, encode_value
from batchmill.engine.value_reducers import FunctionReducer, Reducer, ValueReducer
from batchmill.errors import BatchmillError, ConfigError, ReducerError


class ReducerSet:
    """All reducers of one worker, by name; the same names, in the same order, on every worker.

    Args:
        writer: The run's writer, which decodes the rows for reducers of law "rows"; None where nothing is folded.
    """

    def __init__(self, writer: Writer | None = None) -> None:
        self._writer = writer
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
            ConfigError: It reads committed rows, and the run's writer keeps none.
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
        self._check_law(name, wrapped)
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

        Reducers of law "rows" have no partials; ``fold_rows`` adds theirs.

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
            if not isinstance(reducer, RowReducer):
                decoded = [decode_value(of_chunk[name]) for of_chunk in partials]
                self._add(metrics, name, self._call(name, partial(reducer.cross_slot_reduce, decoded)))
        return metrics

    def fold_rows(self, rows: CommittedRows, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metrics with those of the reducers that read committed rows.

        Args:
            rows: All rows of the run; each reducer reads them once.
            metrics: What ``fold`` returned.

        Raises:
            ReducerError: A column is missing, a reducer failed, or a result is not JSON or not finite; the message
                names the reducer.
            CorruptRunError: A part is missing or damaged.
        """
        found = dict(metrics)
        for name, reducer in self._reducers.items():
            if isinstance(reducer, RowReducer):
                assert self._writer is not None, "whoever finishes a run has its writer"
                with closing(rows.tables(self._writer, reducer)) as tables:
                    self._add(found, name, self._call(name, partial(reducer.reduce_rows, tables)))
        return found

    def _add(self, metrics: dict[str, Any], name: str, result: Any) -> None:
        for metric, value in self._results(name, result).items():
            if metric in metrics:
                raise ReducerError(f"Reducer {name!r} gives metric {metric!r}, which another reducer gave already.")
            metrics[metric] = value

    def _check_law(self, name: str, reducer: MetricReducer) -> None:
        kind, reads_rows = type(reducer).__name__, isinstance(reducer, RowReducer)
        if reducer.law not in tuple(Law) or (reducer.law == Law.ROWS) != reads_rows:
            expected = "rows" if reads_rows else "exact or ordered (rows is for subclasses of batchmill.RowReducer)"
            raise ReducerError(f"Reducer {name!r} ({kind}) declares law {str(reducer.law)!r}; expected {expected}.")
        if reads_rows and self._writer is not None and not self._writer.extension:
            raise ConfigError(
                f"Reducer {name!r} ({kind}) is computed from the committed rows, but the run's writer "
                f"({type(self._writer).__name__}) keeps none. Choose a writer that does, such as writer=parquet, or "
                f"leave the reducer out."
            )

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
            key: plain_metric(f"{name[1:]}.{key}", value) for key, value in with_text_keys(name[1:], result).items()
        }

    def _call(self, name: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:  # user code: any error, told with the reducer's name
            if isinstance(error, BatchmillError) and not isinstance(error, ReducerError):
                raise  # storage that fails, or a damaged part, is not the reducer's fault
            kind = type(self._reducers[name]).__name__
            raise ReducerError(f"Reducer {name!r} ({kind}) failed: {type(error).__name__}: {error}") from error


def _same_function(one: Any, other: Any) -> bool:
    # A method is a new object each time it is looked up, and only methods compare in a known way.
    return one is other or (isinstance(one, MethodType) and isinstance(other, MethodType) and one == other)


def _describe(reducer: Any) -> str:
    return getattr(reducer, "__qualname__", type(reducer).__qualname__)
