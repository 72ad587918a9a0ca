"""What children of the zygote run: a request on one worker, or as one of several."""

from __future__ import annotations

import errno
import os
import resource
import sys
import time
from typing import Any

import batchmill.engine.claims
import batchmill.engine.retries
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


def alone_at(request: dict[str, Any], at: float) -> int:
    """Run a request from a moment of the monotonic clock on, which is one for all processes."""
    time.sleep(max(0.0, at - time.monotonic()))
    return alone(request)


def with_small_files(request: dict[str, Any], limit: int) -> int:
    """Run a request in a process that may write no file of more than ``limit`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    batchmill.engine.retries._FIRST_DELAY = 0.0
    return alone(request)


def on_a_full_disk(request: dict[str, Any], patience: float = 0.0) -> int:
    """Run a request that finds its disk full, and wait for room only so long."""
    batchmill.engine.retries.FULL_PATIENCE = patience
    return alone(request)


def running_out_of_space(request: dict[str, Any], first: int, last: int, patience: float) -> int:
    """Run a request whose writes number ``first`` to ``last`` stop half way: there is no space left."""
    batchmill.engine.retries.FULL_PATIENCE = patience
    batchmill.engine.retries._FULL_PAUSE = 0.01
    write, writes = os.write, 0

    def failing(descriptor: int, data: bytes) -> int:
        nonlocal writes
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith(request["output"]):
            return write(descriptor, data)
        writes += 1
        if first <= writes <= last:
            write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    os.write = failing  # type: ignore[assignment]
    return alone(request)


def on_failing_storage(request: dict[str, Any], rank: int, size: int, delay: float) -> int:
    """Be one of several workers whose storage fails; with tries that follow each other after so many seconds."""
    batchmill.engine.retries._FIRST_DELAY = delay
    return one_of(request, rank, size, patience=0.5)


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
