"""What a metric reducer promises, with the seed's words (`reset`, `per_slot_reduce`, `cross_slot_reduce`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from batchmill.errors import ReducerError, did_you_mean
from batchmill.markers import hookimpl


class MetricReducer(ABC):
    """Turns what a worker saw in one chunk into a partial, and all partials into the metric.

    The engine calls ``per_slot_reduce()`` and then ``reset()`` at the end of every chunk, stores the partial in
    the chunk's commit record, and when all chunks are committed calls ``cross_slot_reduce`` once with all
    partials **in chunk order**. So metrics survive whatever the outputs survive, and need no gather.
    """

    @abstractmethod
    def reset(self) -> None:
        """Forget everything seen. Called on every rank, at the start and after every chunk."""

    @abstractmethod
    def per_slot_reduce(self) -> Any:
        """Return the partial of the samples seen since the last ``reset()``. Called on every rank.

        Returns:
            Anything made of None, bool, int, float (not NaN), str, bytes, list, tuple, dict, torch tensors and
            numpy arrays; it is stored without pickle. Float sums that must not depend on how samples are grouped
            into chunks should be kept exactly, as ``batchmill.ExactSum`` does.
        """

    @abstractmethod
    def cross_slot_reduce(self, per_slot_metrics: Sequence[Any]) -> Any:
        """Return the metric from all partials, given in chunk order. Called by whoever finishes the run.

        Args:
            per_slot_metrics: One partial per committed chunk, in chunk order, as ``per_slot_reduce`` returned it.

        Returns:
            One JSON value if the reducer was given a name, else a dict from metric name to JSON value.
        """


class ColumnReducer(MetricReducer):
    """A reducer that config can select: it reads named columns of each batch by itself.

    A column is looked up in what ``process_batch`` returned and then in the batch. Subclasses implement
    ``update(*values)`` with one argument per column.

    Args:
        columns: Names of the columns, in the order in which ``update`` takes them.
    """

    def __init__(self, *columns: str) -> None:
        self.columns = columns

    @abstractmethod
    def update(self, *values: Any) -> None:
        """Take one batch: one tensor of shape ``(rows, ...)`` or list of ``rows`` values per column."""

    @hookimpl
    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Update from the named columns of one processed batch. Called on every rank, after each batch."""
        self.update(*(_find_column(name, outputs, batch, self) for name in self.columns))


def _find_column(name: str, outputs: Any, batch: Any, reducer: object) -> Any:
    available: list[str] = []
    for source in (outputs, batch):
        if isinstance(source, Mapping):
            if name in source:
                return source[name]
            available += [str(key) for key in source]
    raise ReducerError(
        f"{type(reducer).__name__} reads column {name!r}, but neither the processor's output nor the batch has it."
        f"{did_you_mean(name, available)} Available: {', '.join(available) or 'no named columns'}."
    )
