"""A worker process as its supervisor sees it, and how long it is waited for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from batchmill.engine.stopping import DEFAULT_GRACE
from batchmill.launch.channel import Channel
from batchmill.launch.local_worker import CHANNEL_VARIABLE

# How many times slower than the slowest before a batch may be.
_SLOWER = 10


@dataclass(frozen=True)
class Patience:
    """How long a supervisor waits, in seconds.

    Attributes:
        silence: For a sign of life from a worker, which sends one every second.
        chunk: For any chunk to be committed while a worker is idle, before the idle one gets a copy of a chunk.
        batch: For a worker to come to the end of a batch, or ten times as long as its slowest one took if that is more.
        first_batch: For a worker to come to the end of its first batch, in which models are compiled.
        grace: For workers to leave after a stop, or after the run is complete without them.
    """

    silence: float = 60.0
    chunk: float = 60.0
    batch: float = 60.0
    first_batch: float = 1800.0
    grace: float = DEFAULT_GRACE


@dataclass
class WorkerProcess:
    """One worker process.

    Attributes:
        rank: Its rank.
        process: The process.
        channel: The supervisor's end of the connection to it.
        heard: When it last said anything.
        samples: Samples it has done.
        steps: Batches and trials it has come to the end of.
        slowest: Seconds that its slowest batch took.
        processing: The chunk it is processing.
        moved: When it last came to the end of a batch, or began a chunk.
        ended: Its last message, once it has said how it ended.
    """

    rank: int
    process: subprocess.Popen[bytes]
    channel: Channel
    heard: float
    samples: int = 0
    steps: int = 0
    slowest: float = 0.0
    processing: int | None = None
    moved: float = 0.0
    ended: dict[str, Any] | None = None

    @classmethod
    def start(cls, rank: int, workers: int, threads: int) -> Self:
        """Start a worker of a launch of ``workers``; it waits for its request."""
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(workers),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(workers),
            "OMP_NUM_THREADS": str(threads),
            CHANNEL_VARIABLE: str(theirs.fileno()),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "batchmill.launch.local_worker"],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, and loader processes die with their worker
        )
        theirs.close()
        return cls(rank, process, Channel(ours), heard=time.monotonic())

    def note(self, message: Mapping[str, Any]) -> None:
        """Take a message about how far the worker is."""
        if message["kind"] == "processing":
            self.processing, self.moved = message["chunk"], self.heard
            return
        if message["steps"] != self.steps:
            self.moved = self.heard
        self.samples, self.steps, self.slowest = message["samples"], message["steps"], message["slowest"]

    def overdue(self, patience: Patience, now: float) -> str | None:
        """Return why the worker seems to hang, for people; None if it does not."""
        limit = max(patience.batch, _SLOWER * self.slowest) if self.steps else patience.first_batch
        if now - self.heard > patience.silence:
            return f"has given no sign of life for {patience.silence:.0f} s"
        if self.processing is not None and now - self.moved > limit:
            return f"has not come to the end of a batch of chunk {self.processing} for {limit:.0f} s"
        return None

    def kill(self) -> None:
        """Kill the process and its session, in which its loader processes are."""
        self.process.kill()
        sweep_session(self.process.pid)


def sweep_session(pid: int) -> None:
    """Kill what is left of a worker's session: its loader processes."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nothing is left, which is the usual case
