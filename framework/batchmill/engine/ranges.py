"""Reading ranges of samples as collated batches: slices where the data allows, else the dataset's own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from batchmill.contracts.dataset import BatchReadable
from batchmill.engine.rows import join_rows, select_rows
from batchmill.engine.user_code import user_trace
from batchmill.errors import OutputError


class RangeReader(Protocol):
    """Reads samples of one dataset as collated batches."""

    def __call__(self, start: int, stop: int) -> Any:
        """Return samples ``[start, stop)`` as one batch."""

    def pick(self, indices: Sequence[int]) -> Any:
        """Return the samples of the given indices, which may repeat, as one batch in that order."""


@dataclass(frozen=True)
class ReadFailure:
    """An error in the dataset's code, handed on as a value so that its batch is known.

    Attributes:
        error: Name of the exception's class.
        message: Its text.
        trace: Its traceback.
        cause: The exception itself, where it was raised in this process.
        of_rows: Whether rows of the dataset's batches cannot be told apart, which is no sample's fault.
    """

    error: str
    message: str
    trace: str = ""
    cause: Exception | None = field(default=None, compare=False)
    of_rows: bool = False

    @classmethod
    def of(cls, error: Exception, *, here: bool) -> ReadFailure:
        """Describe an exception; only one raised ``here`` is kept itself, for not every one can be sent."""
        of_rows = isinstance(error, OutputError)
        return cls(type(error).__name__, str(error), user_trace(error), error if here else None, of_rows)


def range_reader(dataset: Any, collate: Callable[[list[Any]], Any] | None) -> RangeReader:
    """Return the cheapest way to read samples ``[start, stop)`` as one collated batch.

    Args:
        dataset: A dataset that passed ``check_dataset``.
        collate: The user's collate function; None uses PyTorch's default, and lets sliceable data be sliced.
    """
    if collate is None:
        if isinstance(dataset, BatchReadable):
            return _ReadBatches(dataset)
        if type(dataset) is TensorDataset:
            return _SliceTensors(dataset.tensors)
        if not hasattr(dataset, "__getitems__"):
            return _StackEach(dataset, default_collate)
        collate = default_collate
    return _CollateItems(dataset, collate) if hasattr(dataset, "__getitems__") else _CollateEach(dataset, collate)


@dataclass(frozen=True)
class _ReadBatches:
    """Asks a dataset for whole ranges."""

    dataset: BatchReadable

    def __call__(self, start: int, stop: int) -> Any:
        return self.dataset.read_batch(start, stop)

    def pick(self, indices: Sequence[int]) -> Any:
        wanted = sorted(set(indices))
        runs = list(_runs(wanted))
        batch = join_rows([self(start, stop) for start, stop in runs], [stop - start for start, stop in runs])
        if list(indices) == wanted:
            return batch
        place = {index: position for position, index in enumerate(wanted)}
        return select_rows(batch, len(wanted), [place[index] for index in indices])


@dataclass(frozen=True)
class _SliceTensors:
    """Slices a TensorDataset's tensors: no per-sample work, no copies."""

    tensors: tuple[Tensor, ...]

    def __call__(self, start: int, stop: int) -> Any:
        return [tensor[start:stop] for tensor in self.tensors]

    def pick(self, indices: Sequence[int]) -> Any:
        if len(indices) == indices[-1] - indices[0] + 1 and list(indices) == list(range(indices[0], indices[-1] + 1)):
            return self(indices[0], indices[-1] + 1)
        return [_gather(tensor, indices) for tensor in self.tensors]


@dataclass(frozen=True)
class _CollateItems:
    """Asks a dataset for all samples of a range in one call."""

    dataset: Any
    collate: Callable[[list[Any]], Any]

    def __call__(self, start: int, stop: int) -> Any:
        return self.pick(range(start, stop))

    def pick(self, indices: Sequence[int]) -> Any:
        return self.collate(self.dataset.__getitems__(list(indices)))


@dataclass(frozen=True)
class _CollateEach:
    """Asks a dataset for one sample after another, as a DataLoader does."""

    dataset: Any
    collate: Callable[[list[Any]], Any]

    def __call__(self, start: int, stop: int) -> Any:
        return self.pick(range(start, stop))

    def pick(self, indices: Sequence[int]) -> Any:
        dataset = self.dataset
        return self.collate([dataset[index] for index in indices])


@dataclass(frozen=True)
class _StackEach(_CollateEach):
    """The same with PyTorch's default collate, which makes new tensors of all samples.

    So the samples themselves may be read in inference mode, where indexing a tensor takes a tenth less time; the
    batch is made outside of it, and its tensors are as any others, for those whose processor needs gradients.
    """

    def pick(self, indices: Sequence[int]) -> Any:
        dataset = self.dataset
        try:
            with torch.inference_mode():
                samples = [dataset[index] for index in indices]
        except RuntimeError:  # perhaps the dataset's own code needs gradients; if not, the same error comes again
            return super().pick(indices)
        return self.collate(samples)


def _gather(tensor: Tensor, indices: Sequence[int]) -> Tensor:
    """Return some rows, with strides in the order of a slice's, for those may matter to the bits of a result."""
    rows = tensor[list(indices)]
    like = torch.empty_like(tensor[: len(indices)]) if len(indices) <= len(tensor) else rows
    return rows if rows.stride() == like.stride() else like.copy_(rows)


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the ranges ``[start, stop)`` of ascending indices."""
    start = stop = indices[0]
    for index in indices:
        if index > stop:
            yield start, stop
            start = index
        stop = index + 1
    yield start, stop
