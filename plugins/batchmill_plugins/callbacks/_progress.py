"""Progress for people: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from batchmill import ProgressSnapshot, hookimpl


class ProgressCallback:
    """Shows how far the run is, on standard error.

    Rate and time left count what this launch has done, so they are right after a resume.

    Args:
        every: Seconds between lines where the output is not a terminal.
        per_worker: Whether to show a line per worker, where there are several.
        console: Where to show it; standard error by default.
    """

    def __init__(self, every: float = 10.0, per_worker: bool = True, console: Console | None = None) -> None:
        self._every, self._per_worker = every, per_worker
        self._console = console or Console(stderr=True)
        self._bars: Progress | None = None
        self._total_task: TaskID | None = None
        self._worker_tasks: dict[int, TaskID] = {}
        self._last_line = time.monotonic()

    @hookimpl
    def on_progress(self, progress: ProgressSnapshot) -> None:
        """Show a snapshot."""
        if self._console.is_terminal:
            self._draw(progress)
        elif progress.finished or time.monotonic() - self._last_line >= self._every:
            self._last_line = time.monotonic()
            self._console.print(describe(progress), soft_wrap=True, highlight=False)

    def _draw(self, progress: ProgressSnapshot) -> None:
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), console=self._console
            )
            self._total_task = self._bars.add_task("samples", total=progress.total, told="")
            self._bars.start()
        assert self._total_task is not None
        self._bars.update(self._total_task, completed=progress.done, total=progress.total, told=_figures(progress))
        if self._per_worker and len(progress.workers) > 1:
            self._draw_workers(self._bars, progress)
        if progress.finished:
            self._bars.stop()
            self._bars = None
            self._worker_tasks.clear()

    def _draw_workers(self, bars: Progress, progress: ProgressSnapshot) -> None:
        new = progress.total - progress.resumed
        for rank, samples in sorted(progress.workers.items()):
            if rank not in self._worker_tasks:
                self._worker_tasks[rank] = bars.add_task(f"  worker {rank}", total=new, told="")
            told = f"{samples:,} samples, {rate_of(samples, progress.elapsed)}"
            bars.update(self._worker_tasks[rank], completed=samples, total=new, told=told)


def describe(progress: ProgressSnapshot) -> str:
    """Return a snapshot as one line of text."""
    line = f"batchmill: {_figures(progress)}"
    if progress.resumed:
        line += f"; {progress.resumed:,} were done before"
    if len(progress.workers) > 1:
        line += "; workers " + ", ".join(f"{rank}: {n:,}" for rank, n in sorted(progress.workers.items()))
    return line


def rate_of(samples: int, seconds: float) -> str:
    """Return samples per second for people."""
    if seconds <= 0:
        return "-/s"
    rate = samples / seconds
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2f}/s"


def _figures(progress: ProgressSnapshot) -> str:
    share = progress.done / progress.total if progress.total else 1.0
    told = f"{progress.done:,} of {progress.total:,} samples ({share:.0%}), "
    told += rate_of(progress.done - progress.resumed, progress.elapsed)
    if progress.finished:
        return f"{told}, {timedelta(seconds=round(progress.elapsed))} in all"
    eta = progress.eta
    return told if eta is None else f"{told}, {timedelta(seconds=round(eta))} left"
