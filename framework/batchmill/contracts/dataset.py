"""What a dataset offers. Any sized ``torch.utils.data.Dataset`` is one; the rest is optional speed and safety."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class SizedDataset(Protocol):
    """The least that a dataset must offer: a length and samples by index 0..n-1."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Return the sample at ``index``."""
        ...


@runtime_checkable
class BatchReadable(Protocol):
    """A dataset that reads a contiguous range in one call, without per-sample work."""

    def read_batch(self, start: int, stop: int) -> Any:
        """Return samples ``[start, stop)`` already collated, as ``process_batch`` receives them.

        Args:
            start: Index of the first sample.
            stop: Index after the last sample; never past the end of the dataset.

        Returns:
            The batch, usually a mapping from column name to a tensor of shape ``(stop - start, ...)``
            or a list of ``stop - start`` values.
        """
        ...


@runtime_checkable
class Identified(Protocol):
    """A dataset that can name its contents, so that a resume on other data is refused."""

    def identity(self) -> dict[str, Any]:
        """Return a small JSON mapping that changes whenever the samples change.

        Called once on every rank before the run is opened; it must not depend on rank, path or time.
        """
        ...
