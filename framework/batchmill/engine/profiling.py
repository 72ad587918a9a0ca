"""The profiler behind ``processor.profiler`` when a run asks to be profiled."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_WAIT, _WARMUP, _ACTIVE = 1, 1, 5


class TraceProfiler:
    """Records the first few batches with ``torch.profiler`` and leaves a trace for TensorBoard or Perfetto.

    Entering and leaving it for every batch, as the seed's guide does, is one recording.

    Args:
        directory: Where the trace goes; made when there is one.
        rank: Rank in the trace's file name.
    """

    def __init__(self, directory: Path, rank: int) -> None:
        self._path = directory / f"rank{rank}.pt.trace.json"
        self._started = False
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profile = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=_WAIT, warmup=_WARMUP, active=_ACTIVE, repeat=1),
            on_trace_ready=self._export,
        )

    def __enter__(self) -> Self:
        if not self._started:
            self._profile.start()
            self._started = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def step(self) -> None:
        """Tell the profiler that a batch is done."""
        if self._started:
            self._profile.step()

    def close(self) -> None:
        """Stop recording; called by the engine when the worker is done."""
        if self._started:
            self._profile.stop()
            self._started = False

    def _export(self, profile: torch.profiler.profile) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(self._path))
