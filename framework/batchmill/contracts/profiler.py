"""The profiler that a processor sees: usable as a context manager around each batch."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class Profiler(Protocol):
    """The part of ``torch.profiler.profile`` that a processor needs."""

    def __enter__(self) -> Self:
        """Begin to record, if this is the first time."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the block; recording goes on until the run ends."""
        ...

    def step(self) -> None:
        """Tell the profiler that a batch is done."""
        ...


class DisabledProfiler:
    """Records nothing, at next to no cost."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def step(self) -> None:
        """Do nothing."""


DISABLED_PROFILER = DisabledProfiler()
