"""One worker in this process: scripts, notebooks, debuggers."""

from __future__ import annotations

import dataclasses
import os

from batchmill.components import ComponentRegistry
from batchmill.contracts.launcher import Launcher
from batchmill.contracts.run import RunRequest, RunResult
from batchmill.engine.run import Surroundings, execute
from batchmill.engine.run_directory import RunDirectory
from batchmill.engine.stopping import StopFlag, grace_of, stop_on_signals
from batchmill.launch.callbacks import build_callbacks
from batchmill.launch.naming import new_run_id
from batchmill.launch.progress import ProgressTicker
from batchmill.launch.run_lock import RunLock
from batchmill.plugin_manager import get_catalog, make_run_manager


class InProcessLauncher(Launcher):
    """Runs the one worker right here.

    SIGTERM, SIGUSR1 and Ctrl-C make it stop after the chunk in progress; a second Ctrl-C drops the chunk.
    """

    def launch(self, request: RunRequest) -> RunResult:
        """Run to the end and return the result."""
        registry = get_catalog().registry
        if request.run_id is None:
            request = dataclasses.replace(request, run_id=new_run_id())
        surroundings = Surroundings(stop=StopFlag(grace_of(os.environ)))
        lock = RunLock(join=request.join)
        with stop_on_signals(surroundings.stop), lock:
            return run_with_progress(request, registry, surroundings, lock)


def run_with_progress(
    request: RunRequest, registry: ComponentRegistry, surroundings: Surroundings, lock: RunLock | None
) -> RunResult:
    """Execute one worker's part, telling callbacks how far it is.

    Args:
        request: The run.
        registry: All components.
        surroundings: What the launcher gives; ``opened`` and ``callbacks`` are set here.
        lock: Taken once the run is open; None where another process holds it.
    """
    rank, progress = surroundings.distributed.rank, surroundings.progress
    surroundings.callbacks = build_callbacks(request, registry)
    listening = make_run_manager(surroundings.callbacks if rank == 0 else ())  # one worker tells how the run goes
    with ProgressTicker(listening, lambda: {rank: progress.samples}) as ticker:

        def opened(run: RunDirectory, committed: set[int]) -> None:
            if lock is not None:
                lock.take(run.storage)
            alone = surroundings.distributed.size == 1
            ticker.begin(
                run.grid.samples,
                run.grid.samples_in(committed),
                None if alone else lambda: run.grid.samples_in(run.log.committed()),
            )

        surroundings.opened = opened
        return execute(request, registry, surroundings)
