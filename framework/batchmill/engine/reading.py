"""Reading batches of claimed chunks: slices where the data allows, else the dataset's own way, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from torch.utils.data import IterableDataset

from batchmill.contracts.dataset import BatchReadable
from batchmill.engine.grid import Grid
from batchmill.engine.loading import LOADER_ERRORS, ReadAhead, RowReader
from batchmill.engine.ranges import ReadFailure, range_reader
from batchmill.errors import ConfigError


def check_dataset(dataset: Any) -> int:
    """Return the dataset's length.

    Raises:
        ConfigError: It has no length, or no access by index.
    """
    if isinstance(dataset, type):
        raise ConfigError(f"The dataset is the class {dataset.__qualname__}, not an instance; call it first.")
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ConfigError(
            f"{type(dataset).__name__} cannot be run: a dataset must implement __len__() and __getitem__(index), so "
            f"that samples have numbers. Iterable datasets have none."
        )
    if not isinstance(dataset, BatchReadable) and not hasattr(dataset, "__getitem__"):
        raise ConfigError(f"{type(dataset).__name__} has no __getitem__(index); samples cannot be read.")
    return len(dataset)


class BatchSource:
    """Reads the batches of chunks as they are claimed.

    Args:
        dataset: The dataset.
        grid: The run's grid.
        loader: Keyword arguments for ``DataLoader``; with ``num_workers`` > 0, that many processes read ahead.

    Attributes:
        columns: Whether PyTorch's default collate makes the batches, so that a list of tensors holds columns.

    Raises:
        ConfigError: An argument for the loader is unknown, or would change which samples are read or their order.
    """

    def __init__(self, dataset: Any, grid: Grid, loader: Mapping[str, Any]) -> None:
        self._options = dict(loader)
        self._grid = grid
        collate = self._options.pop("collate_fn", None)
        self.columns = collate is None
        self._read = range_reader(dataset, collate)
        self._ahead = self._loader() if any(map(_is_set, self._options.values())) else None
        self._rows = RowReader(self._read, self._options)
        self._reading: Generator[tuple[int, int, Any]] | None = None

    def read(self, chunks: Iterator[int], avoid: Collection[int] = ()) -> Iterator[tuple[int, int, Any]]:
        """Return an iterator of ``(chunk, batch_idx, batch)`` over every batch of the chunks, in order.

        In place of a batch comes a ``ReadFailure`` where the dataset's code failed or a loader process died.
        ``chunks`` is asked for the next chunk only when there is room to read ahead, and never waited for.

        Args:
            chunks: The chunks.
            avoid: Chunks of which nothing is read in this process; None comes in place of their first batch.
        """
        self._reading = self._read_here(chunks, avoid) if self._ahead is None else self._read_ahead(chunks)
        return self._reading

    @property
    def reads_ahead(self) -> bool:
        """Whether loader processes read batches before they are asked for."""
        return self._ahead is not None

    def pick(self, indices: Sequence[int]) -> Any:
        """Return single samples, which may repeat, as one batch; what kills a loader process kills only that.

        Returns:
            The collated batch, or a ``ReadFailure``.
        """
        return self._rows.read(indices)

    def close(self) -> None:
        """End reading, and the loader processes; called once nothing is read any more."""
        if self._reading is not None:
            self._reading.close()
        self._rows.close()
        if self._ahead is not None:
            self._ahead.close()

    def _loader(self) -> ReadAhead:
        return ReadAhead(self._read, self._options)

    def _read_here(self, chunks: Iterator[int], avoid: Collection[int]) -> Generator[tuple[int, int, Any]]:
        read, batch_range = self._read, self._grid.batch_range
        for chunk in chunks:
            if chunk in avoid:
                yield chunk, self._grid.chunk_batch_range(chunk)[0], None
                continue
            for batch_idx in range(*self._grid.chunk_batch_range(chunk)):
                start, stop = batch_range(batch_idx)
                try:
                    batch = read(start, stop)
                except Exception as error:  # the dataset's own code: any error, told with the samples
                    batch = ReadFailure.of(error, here=True)
                yield chunk, batch_idx, batch

    def _read_ahead(self, chunks: Iterator[int]) -> Generator[tuple[int, int, Any]]:
        asked: deque[int] = deque()

        def ask(batches: Iterator[int]) -> Iterator[tuple[int, int]]:
            for batch_idx in batches:
                asked.append(batch_idx)
                yield self._grid.batch_range(batch_idx)

        todo = (batch_idx for chunk in chunks for batch_idx in range(*self._grid.chunk_batch_range(chunk)))
        assert self._ahead is not None, "read ahead only with a loader"
        batches = self._ahead.read(ask(todo))
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except LOADER_ERRORS as error:  # a loader process died, perhaps over a later batch, or took too long
                if not asked:
                    raise
                failure = self._ahead.failure(error)
                failure = replace(failure, message=f"{failure.message} Batches up to {asked[-1]} were being read.")
                batch_idx = asked.popleft()
                self._ahead.close()  # at once: its other processes may be about to die, too
                yield self._grid.chunk_of_batch(batch_idx), batch_idx, failure
                # Whoever still listens goes on without that batch, with new processes.
                self._ahead = self._loader()
                again = list(asked)
                asked.clear()
                batches = self._ahead.read(ask(chain(again, todo)))
                continue
            batch_idx = asked.popleft()
            yield self._grid.chunk_of_batch(batch_idx), batch_idx, batch


def _is_set(value: Any) -> bool:
    return value is not None and value is not False and value != 0
