"""Reading batches of claimed chunks: slices where the data allows, else the dataset's own way, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset, default_collate

from batchmill.contracts.dataset import BatchReadable
from batchmill.engine.grid import Grid
from batchmill.engine.loading import ReadAhead, ReadFailure, ReadRange
from batchmill.errors import ConfigError, DatasetError


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


def range_reader(dataset: Any, collate: Callable[[list[Any]], Any] | None) -> ReadRange:
    """Return the cheapest function that reads samples ``[start, stop)`` as one collated batch.

    Args:
        dataset: A dataset that passed ``check_dataset``.
        collate: The user's collate function; None uses PyTorch's default, and lets sliceable data be sliced.
    """
    if collate is None:
        if isinstance(dataset, BatchReadable):
            return dataset.read_batch
        if type(dataset) is TensorDataset:
            return _SliceTensors(dataset.tensors)
        collate = default_collate
    return _CollateItems(dataset, collate) if hasattr(dataset, "__getitems__") else _CollateEach(dataset, collate)


@dataclass(frozen=True)
class _SliceTensors:
    """Slices a TensorDataset's tensors: no per-sample work, no copies."""

    tensors: tuple[Tensor, ...]

    def __call__(self, start: int, stop: int) -> Any:
        return [tensor[start:stop] for tensor in self.tensors]


@dataclass(frozen=True)
class _CollateItems:
    """Asks a dataset for all samples of a range in one call."""

    dataset: Any
    collate: Callable[[list[Any]], Any]

    def __call__(self, start: int, stop: int) -> Any:
        return self.collate(self.dataset.__getitems__(list(range(start, stop))))


@dataclass(frozen=True)
class _CollateEach:
    """Asks a dataset for one sample after another, as a DataLoader does."""

    dataset: Any
    collate: Callable[[list[Any]], Any]

    def __call__(self, start: int, stop: int) -> Any:
        dataset = self.dataset
        return self.collate([dataset[index] for index in range(start, stop)])


class BatchSource:
    """Reads the batches of chunks as they are claimed.

    Args:
        dataset: The dataset.
        grid: The run's grid.
        loader: Keyword arguments for ``DataLoader``; with ``num_workers`` > 0, that many processes read ahead.

    Raises:
        ConfigError: An argument for the loader is unknown, or would change which samples are read or their order.
    """

    def __init__(self, dataset: Any, grid: Grid, loader: Mapping[str, Any]) -> None:
        options = dict(loader)
        self._grid = grid
        self._read = range_reader(dataset, options.pop("collate_fn", None))
        self._ahead = ReadAhead(self._read, options) if any(map(_is_set, options.values())) else None
        self._reading: Generator[tuple[int, int, Any]] | None = None

    def read(self, chunks: Iterator[int]) -> Iterator[tuple[int, int, Any]]:
        """Return an iterator of ``(chunk, batch_idx, batch)`` over every batch of the chunks, in order.

        ``chunks`` is asked for the next chunk only when there is room to read ahead, and never waited for.

        Raises:
            DatasetError: The dataset's code failed, or a loader process died; the message names the samples.
        """
        self._reading = self._read_here(chunks) if self._ahead is None else self._read_ahead(chunks, self._ahead)
        return self._reading

    def close(self) -> None:
        """End reading, and the loader processes; called once nothing is read any more."""
        if self._reading is not None:
            self._reading.close()
        if self._ahead is not None:
            self._ahead.close()

    def _read_here(self, chunks: Iterator[int]) -> Generator[tuple[int, int, Any]]:
        read, batch_range = self._read, self._grid.batch_range
        for chunk in chunks:
            for batch_idx in range(*self._grid.chunk_batch_range(chunk)):
                start, stop = batch_range(batch_idx)
                try:
                    batch = read(start, stop)
                except Exception as error:  # the dataset's own code: any error, told with the samples
                    raise self._failure(batch_idx, f"{type(error).__name__}: {error}") from error
                yield chunk, batch_idx, batch

    def _read_ahead(self, chunks: Iterator[int], ahead: ReadAhead) -> Generator[tuple[int, int, Any]]:
        asked: deque[int] = deque()

        def ranges() -> Iterator[tuple[int, int]]:
            for chunk in chunks:
                for batch_idx in range(*self._grid.chunk_batch_range(chunk)):
                    asked.append(batch_idx)
                    yield self._grid.batch_range(batch_idx)

        batches = ahead.read(ranges())
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:  # a loader process died, perhaps over a later batch, or took too long
                if not asked:
                    raise
                raise self._failure(asked[0], f"{error} Batches up to {asked[-1]} were being read.") from error
            batch_idx = asked.popleft()
            if isinstance(batch, ReadFailure):
                raise self._failure(batch_idx, batch.message)
            yield self._grid.chunk_of_batch(batch_idx), batch_idx, batch

    def _failure(self, batch_idx: int, message: str) -> DatasetError:
        start, stop = self._grid.batch_range(batch_idx)
        return DatasetError(f"Reading samples {start}..{stop - 1} (batch {batch_idx}) failed: {message}")


def _is_set(value: Any) -> bool:
    return value is not None and value is not False and value != 0
