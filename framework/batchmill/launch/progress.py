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


class ProgressTicker:
    """Calls the hook ``on_progress`` twice a second while a run goes on, and once at its end.

    Args:
        hooks: The run manager whose callbacks listen; nothing is started if none does.
        samples_by_rank: Returns the samples that each worker has done in this launch.
    """

    def __init__(self, hooks: pluggy.PluginManager, samples_by_rank: Callable[[], Mapping[int, int]]) -> None:
        self._hooks, self._samples_by_rank = hooks, samples_by_rank
        self._total: int | None = None
        self._resumed = 0
        self._began = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="batchmill-progress", daemon=True)
        self._heard = bool(hooks.hook.on_progress.get_hookimpls())

    def begin(self, total: int, resumed: int) -> None:
        """Start to tell; called once the run is open.

        Args:
            total: Samples in the run.
            resumed: Samples that were committed before this launch.
        """
        if self._total is None:
            self._total, self._resumed, self._began = total, resumed, time.monotonic()
            if self._heard:
                self._thread.start()

    def _tick(self) -> None:
        while not self._stop.wait(_INTERVAL):
            self._tell(finished=False)

    def _tell(self, finished: bool) -> None:
        workers = dict(self._samples_by_rank())
        assert self._total is not None
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
