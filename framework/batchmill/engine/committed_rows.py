"""Reading a complete run's rows back, chunk after chunk, for the metrics that are computed from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchmill.contracts.reducer import RowReducer
from batchmill.contracts.writer import INDEX_COLUMN, Writer
from batchmill.engine.commit_log import CommitLog
from batchmill.errors import ReducerError

if TYPE_CHECKING:
    import pyarrow as pa

# Parts on their way from storage while one is reduced; more would only hold memory.
_READ_AHEAD = 4


@dataclass(frozen=True)
class CommittedRows:
    """The rows of a run whose every chunk is committed. They can be read any number of times.

    Attributes:
        log: The run's commit log.
        parts: All parts that the records name, in chunk order.
        processed: Samples that were not set aside.
    """

    log: CommitLog
    parts: Sequence[Mapping[str, Any]]
    processed: int

    def tables(self, writer: Writer, reducer: RowReducer) -> Generator[pa.Table, None, None]:
        """Yield ``_index`` and the reducer's columns, one table per part that has rows, in dataset order.

        Args:
            writer: Decodes parts.
            reducer: Names the columns.

        Raises:
            ReducerError: A column is missing, or the processor returned no rows at all.
            CorruptRunError: A part is missing or damaged.
        """
        filled = [part for part in self.parts if part["rows"]]
        if self.processed and not filled:
            raise ReducerError(
                f"{type(reducer).__name__} reads column {reducer.columns[0]!r} of the committed rows, but there are "
                f"none: process_batch returned None for all {self.processed} samples. Return the columns from it."
            )
        waiting: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(_READ_AHEAD) as pool:
            for part in filled:
                waiting.append(pool.submit(self.log.read_named, part))
                if len(waiting) > _READ_AHEAD:
                    yield _selected(writer.decode(waiting.popleft().result()), reducer)
            while waiting:
                yield _selected(writer.decode(waiting.popleft().result()), reducer)


def _selected(table: pa.Table, reducer: RowReducer) -> pa.Table:
    there = [name for name in table.column_names if name != INDEX_COLUMN]
    for name in reducer.columns:
        if name not in there:
            raise reducer.missing_column(name, there)
    return table.select([INDEX_COLUMN, *dict.fromkeys(reducer.columns)])
