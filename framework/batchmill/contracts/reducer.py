"""What a metric reducer promises, with the seed's words (`reset`, `per_slot_reduce`, `cross_slot_reduce`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from batchmill.errors import ReducerError, did_you_mean
from batchmill.markers import hookimpl

if TYPE_CHECKING:
    import pyarrow as pa


class Law(StrEnum):
    """What a reducer's result may depend on. All three give equal bits for 1 or N workers and any crash history.

    Attributes:
        EXACT: On the samples only. Any grouping of batches into chunks and any order of partials gives equal bits:
            counts, extremes, sums kept by ``batchmill.ExactSum``.
        ORDERED: Also on the chunks. Partials are taken per chunk and folded in chunk order, so who processed what
            does not show; another ``checkpoint_interval`` may: plain float sums, Welford's variance, text digests.
        ROWS: On the committed rows, read in dataset order in a last pass: exact quantiles, ROC AUC.
    """

    EXACT = "exact"
    ORDERED = "ordered"
    ROWS = "rows"


class MetricReducer(ABC):
    """Turns what a worker saw in one chunk into a partial, and all partials into the metric.

    The engine calls ``per_slot_reduce()`` and then ``reset()`` at the end of every chunk, stores the partial in
    the chunk's commit record, and when all chunks are committed calls ``cross_slot_reduce`` once with all
    partials **in chunk order**. So metrics survive whatever the outputs survive, and need no gather.

    Attributes:
        law: What the result may depend on. ``batchmill.testing.reducer_suite`` tests what is declared.
    """

    law: ClassVar[Law] = Law.ORDERED

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


class RowReducer(MetricReducer):
    """A metric of the committed rows, computed in a last pass when every chunk is committed.

    It gets nothing during processing, so no partial grows with the data. The run's writer must keep rows
    (``writer=none`` does not), and every column must be one that ``process_batch`` returns: what is only in the
    batch is not committed. Rows of samples that were set aside are not there. Subclasses implement ``reduce_rows``.

    Args:
        columns: Names of the columns to read.
    """

    law: ClassVar[Law] = Law.ROWS

    def __init__(self, *columns: str) -> None:
        self.columns = columns

    @abstractmethod
    def reduce_rows(self, tables: Iterator[pa.Table]) -> Any:
        """Return the metric of all committed rows. Called by whoever finishes the run.

        Args:
            tables: The committed parts in dataset order, one table per chunk that has rows: ``_index`` (int64) and
                this reducer's columns, as the run's writer decodes them. Each is read when it is asked for.

        Returns:
            One JSON value if the reducer was given a name, else a dict from metric name to JSON value.
        """

    def reset(self) -> None:
        """Nothing is kept between batches."""

    def per_slot_reduce(self) -> None:
        """Return no partial: the rows are the state."""

    def cross_slot_reduce(self, per_slot_metrics: Sequence[Any]) -> Any:
        """Refuse to fold partials.

        Raises:
            ReducerError: Always; the engine calls ``reduce_rows``.
        """
        raise ReducerError(f"{type(self).__name__} is computed from committed rows by reduce_rows, not from partials.")

    @hookimpl
    def on_batch_end(self, outputs: Any, batch: Any) -> None:
        """Refuse a first batch whose output lacks a column, long before the last pass. Called on every rank.

        Raises:
            ReducerError: A column will not be among the committed rows; the message says why.
        """
        if isinstance(outputs, Mapping):  # the columns of other outputs are named by the engine
            for name in self.columns:
                if name not in outputs:
                    raise self.missing_column(name, outputs, batch)

    def missing_column(self, name: str, returned: Iterable[Any], batch: Any = None) -> ReducerError:
        """Return the error for a column that is not among the rows.

        Args:
            name: The column.
            returned: Names of the columns that there are.
            batch: The batch, where it is at hand.
        """
        names = [str(each) for each in returned]
        reason = did_you_mean(name, names)
        if isinstance(batch, Mapping) and name in batch:
            reason = (
                " The batch has it, but what is only in the batch is not committed and cannot be read back: return "
                "it from process_batch as well."
            )
        return ReducerError(
            f"{type(self).__name__} reads column {name!r} of the committed rows, but process_batch does not return "
            f"it.{reason} Returned: {', '.join(names) or 'no named columns'}."
        )


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
