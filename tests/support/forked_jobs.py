"""What children of the zygote run: a request on one worker, or as one of several."""

from __future__ import annotations

import sys
from typing import Any

import batchmill.engine.claims
import batchmill.engine.run
from batchmill.api import run_request
from batchmill.contracts.distributed import DistributedContext
from batchmill.contracts.run import RunRequest
from batchmill.errors import BatchmillError
from batchmill.launch.environment import EnvironmentLauncher


def alone(request: dict[str, Any]) -> int:
    """Run a request with its own launcher."""
    try:
        return run_request(RunRequest.from_json(request)).exit_code
    except BatchmillError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code


def one_of(request: dict[str, Any], rank: int, size: int, patience: float, look: float = 5.0) -> int:
    """Be one of several workers that know of each other by the commit log only.

    Args:
        request: The run.
        rank: This worker.
        size: Number of workers.
        patience: Seconds of silence in the log before a chunk is taken over.
        look: Seconds between looks at the log while it goes through its own chunks.
    """
    batchmill.engine.run.TAKEOVER_PATIENCE = patience
    batchmill.engine.claims._LOOK_INTERVAL = look
    launcher = EnvironmentLauncher(DistributedContext(rank, size, rank, size))
    try:
        return launcher.launch(RunRequest.from_json(request)).exit_code
    except BatchmillError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
