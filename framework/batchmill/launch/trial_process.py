"""The outside of a trial process: starts it, asks it, and sees it die."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchmill.contracts.distributed import DistributedContext
from batchmill.contracts.run import RunRequest
from batchmill.engine.isolation import OutOfTime
from batchmill.engine.quarantine import SampleFailure
from batchmill.engine.stopping import StopFlag
from batchmill.errors import WorkerError
from batchmill.launch.channel import Channel
from batchmill.launch.local_worker import CHANNEL_VARIABLE
from batchmill.launch.trial_worker import TRACE_VARIABLE

_LONGEST_START = 1800.0
_DUMP_PATIENCE = 0.5
_POLL = 0.2


class LocalTrialProcess:
    """A trial process on this machine; started anew after each death. See ``engine.sacrifice.TrialProcess``.

    Args:
        request: The run.
        distributed: Where the worker that asks stands.
        limit: Seconds that one batch may take.
        stop: Set when the worker should stop.
        alive: Called now and then while the process works, to show that it does.
    """

    def __init__(
        self, request: RunRequest, distributed: DistributedContext, limit: float, stop: StopFlag, alive: Any
    ) -> None:
        self._request, self._distributed, self._limit = request.to_json(), distributed, limit
        self._stop, self._alive = stop, alive
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="batchmill-trial-")
        self._trace = Path(self._folder.name) / "trace"

    def attempt(self, batch_idx: int, positions: Sequence[int]) -> SampleFailure | None:
        """See ``TrialProcess.attempt``.

        Raises:
            WorkerError: The process does not even start.
            OutOfTime: The worker must leave.
        """
        channel = self._channel or self._start()
        channel.send("attempt", batch_idx=batch_idx, positions=list(positions))
        answer = self._wait(channel, self._limit)
        return None if answer is not None and answer["kind"] == "passed" else self._failure(answer)

    def close(self) -> None:
        """End the process."""
        self._end()
        self._folder.cleanup()

    def _start(self) -> Channel:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, CHANNEL_VARIABLE: str(theirs.fileno()), TRACE_VARIABLE: str(self._trace)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "batchmill.launch.trial_worker"],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        channel = self._channel = Channel(ours)
        place = self._distributed
        place_values = [place.rank, place.size, place.local_rank, place.local_size]
        channel.send("request", request=self._request, distributed=place_values)
        answer = self._wait(channel, _LONGEST_START)
        if answer is None or answer["kind"] != "ready":
            how = self._failure(answer).message if answer is None or answer["kind"] == "late" else answer["message"]
            raise WorkerError(f"The process in which single samples are tried could not be started: {how}")
        return channel

    def _wait(self, channel: Channel, limit: float) -> dict[str, Any] | None:
        """Return the next message, "late" after ``limit`` seconds, or None if the process has gone."""
        began = time.monotonic()
        while time.monotonic() - began < limit:
            if self._stop.requested and self._stop.overdue():
                raise OutOfTime
            self._alive()
            if select.select([channel], [], [], _POLL)[0]:
                messages = channel.receive()
                if messages is None:
                    return None
                if messages:
                    return messages[0]
        return {"kind": "late"}

    def _failure(self, answer: dict[str, Any] | None) -> SampleFailure:
        assert self._process is not None, "asked after it was started"
        if answer is not None:
            self._process.send_signal(signal.SIGUSR2)  # it writes down where it is
            time.sleep(_DUMP_PATIENCE)
            error, message = "Hung", f"did not come to an end within {self._limit:.0f} s"
            self._process.kill()
        code = self._process.wait()
        if answer is None:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            error, message = "ProcessDied", f"the process that handled it was {how}"
        trace = self._trace.read_text(encoding="utf-8", errors="replace") if self._trace.exists() else ""
        self._end()
        return SampleFailure.told("process", error, message, trace)

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
