"""Reading batches of claimed chunks: slices where the data allows, else the dataset's own way, in order."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from batchmill.contracts.dataset import BatchReadable
from batchmill.engine.grid import Grid
from batchmill.errors import ConfigError, DatasetError

ReadRange = Callable[[int, int], Any]

# Signals that ask a worker to drain; its loader processes leave them to it.
_DRAIN_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def check_dataset(dataset: Any) -> int:
    """Return the dataset's length.

    Raises:
        ConfigError: It has no length, or no access by index.
    """
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
    """

    def __init__(self, dataset: Any, grid: Grid, loader: Mapping[str, Any]) -> None:
        options = dict(loader)
        self._grid = grid
        self._read = range_reader(dataset, options.pop("collate_fn", None))
        self._ahead: deque[int] = deque()
        self._feed: Iterator[int] = iter(())
        self._loader: DataLoader[Any] | None = None
        if any(options.values()):
            try:
                self._loader = self._make_loader(options)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"The loader's arguments do not fit torch's DataLoader: {error}") from error

    def read(self, chunks: Iterator[int]) -> Iterator[tuple[int, int, Any]]:
        """Yield ``(chunk, batch_idx, batch)`` for every batch of the chunks, in order.

        ``chunks`` is asked for the next chunk only when there is room to read ahead, and never waited for.
        """
        if self._loader is None:
            yield from self._read_here(chunks)
            return
        self._feed = chunks
        for batch in self._loader:
            batch_idx = self._ahead.popleft()
            if isinstance(batch, _ReadFailure):
                raise self._failure(batch_idx, batch.message)
            yield self._grid.chunk_of_batch(batch_idx), batch_idx, batch

    def close(self) -> None:
        """End the loader processes; called once nothing is read any more.

        They are told to leave when the loader is freed. Left to the interpreter's exit they would be sent SIGTERM,
        which they ignore, and be waited for without end.
        """
        self._feed = iter(())
        self._loader = None

    def _read_here(self, chunks: Iterator[int]) -> Iterator[tuple[int, int, Any]]:
        read, batch_range = self._read, self._grid.batch_range
        for chunk in chunks:
            for batch_idx in range(*self._grid.chunk_batch_range(chunk)):
                start, stop = batch_range(batch_idx)
                try:
                    batch = read(start, stop)
                except Exception as error:  # the dataset's own code: any error, told with the samples
                    raise self._failure(batch_idx, f"{type(error).__name__}: {error}") from error
                yield chunk, batch_idx, batch

    def _failure(self, batch_idx: int, message: str) -> DatasetError:
        start, stop = self._grid.batch_range(batch_idx)
        return DatasetError(f"Reading samples {start}..{stop - 1} (batch {batch_idx}) failed: {message}")

    def _make_loader(self, options: dict[str, Any]) -> DataLoader[Any]:
        started = options.pop("worker_init_fn", None)
        if options.get("num_workers", 0):
            options.setdefault("persistent_workers", True)
        # The loader is fed with ranges, not index lists: two numbers travel to a process, not a batch of them.
        return DataLoader(
            _RangeDataset(self._read),
            batch_size=None,
            sampler=_Ranges(self),
            collate_fn=_unchanged,
            worker_init_fn=_WorkerInit(started),
            **options,
        )

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the sample ranges to read for the chunks being claimed, noting each batch's number."""
        for chunk in self._feed:
            for batch_idx in range(*self._grid.chunk_batch_range(chunk)):
                self._ahead.append(batch_idx)
                yield self._grid.batch_range(batch_idx)


class _Ranges:
    """The loader's sampler: asks the source anew each time the loader is iterated."""

    def __init__(self, source: BatchSource) -> None:
        self._source = source

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self._source.ranges()


class _ReadFailure:
    """An error in a loader process, sent back as a value so that its batch is known."""

    def __init__(self, message: str) -> None:
        self.message = message


class _RangeDataset(Dataset[Any]):
    """Looks like a map-style dataset whose keys are ranges."""

    def __init__(self, read: ReadRange) -> None:
        self._read = read

    def __getitem__(self, key: tuple[int, int]) -> Any:
        try:
            return self._read(*key)
        except Exception as error:  # the dataset's own code; the batch is named where it arrives
            return _ReadFailure(f"{type(error).__name__}: {error}")


class _WorkerInit:
    """Prepares a loader process; a class, so that it can be sent to spawned processes."""

    def __init__(self, started: Callable[[int], None] | None) -> None:
        self._started = started

    def __call__(self, worker_id: int) -> None:
        for number in _DRAIN_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if self._started is not None:
            self._started(worker_id)


def _unchanged(batch: Any) -> Any:
    return batch
