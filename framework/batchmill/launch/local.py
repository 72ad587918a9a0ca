"""Several workers on this machine, under a supervisor of our own."""

from __future__ import annotations

import dataclasses
import os

from batchmill.contracts.launcher import Launcher
from batchmill.contracts.run import RunRequest, RunResult
from batchmill.engine.stopping import StopFlag, grace_of, stop_on_signals
from batchmill.errors import ConfigError
from batchmill.launch.environment import EnvironmentLauncher, started_by_launcher
from batchmill.launch.naming import new_run_id
from batchmill.launch.supervisor import Patience, Supervisor


class LocalLauncher(Launcher):
    """Runs ``nproc`` workers on this machine; one worker runs in this process.

    Started by torchrun, SLURM or Kubernetes (RANK and WORLD_SIZE are set), it is one of their workers instead.

    Args:
        nproc: Number of workers.
    """

    def __init__(self, nproc: int = 1) -> None:
        if nproc < 1:
            raise ConfigError(f"launcher.nproc should be a positive integer, but is {nproc}.")
        self.nproc = nproc

    def launch(self, request: RunRequest) -> RunResult:
        """Start the workers and return the result when all have left."""
        if started_by_launcher(os.environ):
            return EnvironmentLauncher().launch(request)
        if self.nproc == 1:
            from batchmill.launch.in_process import InProcessLauncher  # imports torch, which a supervisor never needs

            return InProcessLauncher().launch(request)
        if request.run_id is None:
            request = dataclasses.replace(request, run_id=new_run_id())
        grace = grace_of(os.environ)
        stop = StopFlag(grace)
        with stop_on_signals(stop, leave=False):  # the supervisor itself ends when the grace is over
            return Supervisor(request, self.nproc, stop, Patience(grace=grace)).run()
