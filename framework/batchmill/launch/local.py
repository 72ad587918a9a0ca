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
from batchmill.launch.supervisor import Supervisor
from batchmill.launch.worker_process import Patience


class LocalLauncher(Launcher):
    """Runs ``nproc`` workers on this machine; one worker runs in this process.

    Started by torchrun, SLURM or Kubernetes (RANK and WORLD_SIZE are set), it is one of their workers instead.

    Args:
        nproc: Number of workers.
        batch_timeout: Seconds for a batch, or ten times as long as the slowest before if that is more, after which its
            worker is taken to hang and is replaced. A worker's first batch has half an hour.
    """

    def __init__(self, nproc: int = 1, batch_timeout: float = 60.0) -> None:
        if nproc < 1:
            raise ConfigError(f"launcher.nproc should be a positive integer, but is {nproc}.")
        if not batch_timeout > 0:
            raise ConfigError(f"launcher.batch_timeout should be a positive number of seconds, but is {batch_timeout}.")
        self.nproc, self.batch_timeout = nproc, batch_timeout

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
            return Supervisor(request, self.nproc, stop, Patience(batch=self.batch_timeout, grace=grace)).run()
