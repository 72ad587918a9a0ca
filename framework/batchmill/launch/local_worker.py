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
from typing import Any

from batchmill.contracts.distributed import DistributedContext
from batchmill.contracts.run import RunRequest
from batchmill.errors import EXIT_COMPLETE, EXIT_INTERNAL, EXIT_PREEMPTED, BatchmillError
from batchmill.launch.channel import Channel

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
    replies: queue.Queue[dict[str, Any]] = queue.Queue()
    request = _receive_request(channel)

    # Heavy imports come after the orphan watch is armed by die_with_parent, and are the same for every worker.
    from batchmill.engine.run import Surroundings, execute
    from batchmill.engine.run_directory import RunDirectory
    from batchmill.engine.stopping import stop_on_signals
    from batchmill.launch.callbacks import build_callbacks
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

    surroundings = Surroundings(
        distributed=DistributedContext(rank, size, rank, size),
        opened=opened,
        committed=lambda chunk: _send(channel, "committed", chunk=chunk),
    )
    stop = surroundings.stop
    surroundings.queue = SupervisedQueue(channel, replies, lambda: stop.requested)
    threading.Thread(target=_listen, args=(channel, replies, stop), name="batchmill-channel", daemon=True).start()
    progress = surroundings.progress
    threading.Thread(target=_tell_progress, args=(channel, progress), name="batchmill-progress", daemon=True).start()
    with stop_on_signals(stop):
        try:
            registry = get_catalog().registry
            surroundings.callbacks = build_callbacks(request, registry)
            result = execute(request, registry, surroundings)
        except BatchmillError as error:
            _send(channel, "failed", error=type(error).__name__, message=str(error), trace=_cause_of(error))
            return error.exit_code
        except Exception as error:  # a fault of ours or of a plugin: told whole, and fatal for the run
            _send(channel, "failed", error="", message=repr(error), trace=traceback.format_exc())
            return EXIT_INTERNAL
    _send(channel, "finished", complete=result.complete, reason=result.stop_reason, samples=progress.samples)
    return EXIT_COMPLETE if result.complete else EXIT_PREEMPTED


class SupervisedQueue:
    """The supervisor's chunk queue, as a worker sees it."""

    def __init__(self, channel: Channel, replies: queue.Queue[dict[str, Any]], stopped: Any) -> None:
        self._channel, self._replies, self._stopped = channel, replies, stopped

    def take(self, wait: bool) -> int | None:
        """Return a chunk from the supervisor, or None; see ``ChunkQueue``."""
        self._channel.send("next", wait=wait)
        while True:
            try:
                chunk: int | None = self._replies.get(timeout=_POLL)["chunk"]
                return chunk
            except queue.Empty:
                if self._stopped():
                    return None


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies.

    Only Linux can; end of file on the channel is the other, portable way.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _receive_request(channel: Channel) -> RunRequest:
    while True:
        messages = channel.receive()
        if messages is None:
            sys.exit(EXIT_INTERNAL)  # the supervisor is gone before it said anything
        for message in messages:
            return RunRequest.from_json(message["request"])


def _listen(channel: Channel, replies: queue.Queue[dict[str, Any]], stop: Any) -> None:
    while (messages := channel.receive()) is not None:
        for message in messages:
            if message["kind"] == "chunk":
                replies.put(message)
            elif message["kind"] == "stop":
                stop.request(message["reason"], now=message["now"])
    # The supervisor is gone. This process leads its own session, so its loader processes go with it.
    os.killpg(0, signal.SIGKILL)


def _tell_progress(channel: Channel, progress: Any) -> None:
    told, silent_for = 0, 0.0
    pause = threading.Event()
    while not pause.wait(_PROGRESS_INTERVAL):
        silent_for += _PROGRESS_INTERVAL
        if progress.samples != told or silent_for >= _SIGN_OF_LIFE:
            told, silent_for = progress.samples, 0.0
            channel.send("progress", samples=told)


def _send(channel: Channel, kind: str, **values: Any) -> None:
    channel.send(kind, **values)


def _cause_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of user code must not keep a finished worker alive; everything of ours is committed.
    os._exit(code)
