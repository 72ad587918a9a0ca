"""Tells listening callbacks how far a run is, from a thread of its own, so that the worker's loop pays nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import pluggy

from batchmill.contracts.run import ProgressSnapshot

_INTERVAL = 0.5
# Seconds between looks at the commit log, which may be a slow listing.
_LOG_INTERVAL = 5.0


class ProgressTicker:
    """Calls the hook ``on_progress`` twice a second while a run goes on, and once at its end.

    Args:
        hooks: The run manager whose callbacks listen; nothing is started if none does.
        samples_by_rank: Returns the samples that each worker has done in this launch.
    """

    def __init__(self, hooks: pluggy.PluginManager, samples_by_rank: Callable[[], Mapping[int, int]]) -> None:
        self._hooks, self._samples_by_rank = hooks, samples_by_rank
        self._committed_samples: Callable[[], int] | None = None
        self._interval = _INTERVAL
        self._total: int | None = None
        self._resumed = 0
        self._began = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="batchmill-progress", daemon=True)
        self._heard = bool(hooks.hook.on_progress.get_hookimpls())

    def begin(self, total: int, resumed: int, committed_samples: Callable[[], int] | None = None) -> None:
        """Start to tell; called once the run is open.

        Args:
            total: Samples in the run.
            resumed: Samples that were committed before this launch.
            committed_samples: Counts the samples committed by anyone, where other workers cannot be asked; called
                every few seconds.
        """
        if self._total is None:
            if committed_samples is not None:
                self._committed_samples, self._interval = committed_samples, _LOG_INTERVAL
            self._total, self._resumed, self._began = total, resumed, time.monotonic()
            if self._heard:
                self._thread.start()

    def _tick(self) -> None:
        while not self._stop.wait(self._interval):
            self._tell(finished=False)

    def _tell(self, finished: bool) -> None:
        workers = dict(self._samples_by_rank())
        assert self._total is not None
        if self._committed_samples is not None:
            done = self._committed_samples()
        else:
            done = min(self._total, self._resumed + sum(workers.values()))  # a repeated chunk may count twice
        elapsed = time.monotonic() - self._began
        snapshot = ProgressSnapshot(self._total, done, self._resumed, elapsed, workers, finished)
        self._hooks.hook.on_progress(progress=snapshot)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._total is not None and self._heard:
            self._thread.join()
            self._tell(finished=True)
