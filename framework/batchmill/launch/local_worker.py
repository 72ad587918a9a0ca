"""A worker process of the local launcher: ``python -m batchmill.launch.local_worker``, started by ``local.py``."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

from batchmill.contracts.distributed import DistributedContext
from batchmill.contracts.run import RunRequest
from batchmill.engine.confidential import redact
from batchmill.engine.stopping import StopFlag, grace_of, stop_on_signals
from batchmill.errors import EXIT_COMPLETE, EXIT_INTERNAL, EXIT_PREEMPTED, BatchmillError
from batchmill.launch.channel import Channel

if TYPE_CHECKING:
    from batchmill.engine.worker import Progress

CHANNEL_VARIABLE = "BATCHMILL_CHANNEL"

_PR_SET_PDEATHSIG = 1
_PROGRESS_INTERVAL = 0.25
# Seconds without progress after which the worker says that it is alive.
_SIGN_OF_LIFE = 1.0
_POLL = 0.2


def main() -> int:
    """Work until the run is complete or stopped; return the process exit code."""
    die_with_parent()
    channel = Channel(socket.socket(fileno=int(os.environ.pop(CHANNEL_VARIABLE))))
    line, life = _Line(channel), _SignsOfLife(channel)
    with stop_on_signals(line.stop):
        return _work(channel, line, life)


def _work(channel: Channel, line: _Line, life: _SignsOfLife) -> int:
    request = RunRequest.from_json(line.requests.get())

    # Heavy imports come last: they take seconds, in which the supervisor may ask to stop, or die.
    from batchmill.engine.run import Surroundings, execute
    from batchmill.engine.run_directory import RunDirectory
    from batchmill.launch.callbacks import build_callbacks
    from batchmill.launch.trial_process import LocalTrialProcess
    from batchmill.plugin_manager import get_catalog

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def opened(run: RunDirectory, committed: set[int]) -> None:
        grid = run.grid
        channel.send(
            "opened",
            path=run.path,
            samples=grid.samples,
            chunks=grid.chunks,
            committed=sorted(committed),
            resumed=grid.samples_in(committed),
        )

    def committed(chunk: int) -> None:
        channel.send("committed", chunk=chunk)

    surroundings = Surroundings(
        distributed=DistributedContext(rank, size, rank, size),
        stop=line.stop,
        queue=SupervisedQueue(channel, line.replies, line.stop),
        opened=opened,
        committed=committed,
        worked=lambda: channel.send("worked"),
        processing=lambda chunk: channel.send("processing", chunk=chunk),
        suspects=line.suspects,
        asks_for_outputs=False,  # the supervisor tells them, once for all workers, which have little time to leave
    )
    progress = life.progress = surroundings.progress

    def start_trials() -> LocalTrialProcess:
        def alive() -> None:
            progress.steps += 1

        return LocalTrialProcess(request, surroundings.distributed, line.batch_limit, line.stop, alive)

    if request.on_error == "quarantine":
        surroundings.start_trials = start_trials
    try:
        registry = get_catalog().registry
        surroundings.callbacks = build_callbacks(request, registry)
        result = execute(request, registry, surroundings)
    except BatchmillError as error:
        trace = redact("".join(traceback.format_exception(error)))
        channel.send("failed", error=type(error).__name__, message=redact(str(error)), trace=trace)
        return error.exit_code
    except Exception as error:  # a fault of ours or of a plugin: told whole, and fatal for the run
        channel.send("failed", error="", message=redact(repr(error)), trace=redact(traceback.format_exc()))
        return EXIT_INTERNAL
    channel.send("finished", complete=result.complete, reason=result.stop_reason, samples=progress.samples)
    return EXIT_COMPLETE if result.complete else EXIT_PREEMPTED


class SupervisedQueue:
    """The supervisor's chunk queue, as a worker sees it."""

    def __init__(self, channel: Channel, replies: queue.Queue[int | None], stop: StopFlag) -> None:
        self._channel, self._replies, self._stop = channel, replies, stop

    def take(self, wait: bool) -> int | None:
        """Return a chunk from the supervisor, or None; see ``ChunkQueue``."""
        self._channel.send("next", wait=wait)
        while True:
            try:
                return self._replies.get(timeout=_POLL)
            except queue.Empty:
                if self._stop.requested:
                    return None


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies.

    Only Linux can; end of file on the channel is the other, portable way.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Line:
    """Listens to the supervisor in a thread of its own, from the first moment on."""

    def __init__(self, channel: Channel) -> None:
        self.stop = StopFlag(grace_of(os.environ))
        self.requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self.replies: queue.Queue[int | None] = queue.Queue()
        self.suspects: set[int] = set()
        self.batch_limit = 0.0
        self._channel = channel
        threading.Thread(target=self._listen, name="batchmill-channel", daemon=True).start()

    def _listen(self) -> None:
        while (messages := self._channel.receive()) is not None:
            for message in messages:
                match message["kind"]:
                    case "request":
                        self.requests.put(message["request"])
                    case "suspects":
                        self.batch_limit = message["limit"]
                        self.suspects.update(message["chunks"])
                    case "chunk":
                        self.replies.put(message["chunk"])
                    case "stop":
                        self.stop.request(message["reason"], now=message["now"])
        # The supervisor is gone. This process leads its own session, so its loader processes go with it.
        os.killpg(0, signal.SIGKILL)


class _SignsOfLife:
    """Tells the supervisor how far this worker is, and, while that does not change, that it is alive.

    Attributes:
        progress: How far it is, once it works.
    """

    def __init__(self, channel: Channel) -> None:
        self.progress: Progress | None = None
        self._channel = channel
        threading.Thread(target=self._tell, name="batchmill-life", daemon=True).start()

    def _tell(self) -> None:
        told, silent_for = -1, 0.0
        pause = threading.Event()
        while not pause.wait(_PROGRESS_INTERVAL):
            silent_for += _PROGRESS_INTERVAL
            now = self.progress
            steps = now.steps if now is not None else 0
            if steps != told or silent_for >= _SIGN_OF_LIFE:
                told, silent_for = steps, 0.0
                samples, slowest = (now.samples, now.slowest) if now is not None else (0, 0.0)
                self._channel.send("progress", samples=samples, steps=steps, slowest=slowest)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of user code must not keep a finished worker alive; everything of ours is committed.
    os._exit(code)
