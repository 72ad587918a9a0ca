"""Several workers on this machine under a supervisor of our own: it hands out chunks and restarts the dead.

A worker that dies costs its chunk in progress: the chunk goes back to the queue, and only that worker is started
again. No port is opened and no collective is used. The supervisor never imports torch.
"""

from __future__ import annotations

import dataclasses
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from batchmill import errors
from batchmill.contracts.launcher import Launcher
from batchmill.contracts.run import RunRequest, RunResult
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.cores import available_cores
from batchmill.engine.finish import result_of
from batchmill.engine.run_directory import open_existing
from batchmill.engine.stopping import DEFAULT_GRACE, StopFlag, stop_on_signals
from batchmill.launch.callbacks import build_callbacks
from batchmill.launch.channel import Channel
from batchmill.launch.chunk_board import ChunkBoard
from batchmill.launch.environment import EnvironmentLauncher, started_by_launcher
from batchmill.launch.local_worker import CHANNEL_VARIABLE
from batchmill.launch.naming import new_run_id
from batchmill.launch.progress import ProgressTicker
from batchmill.launch.run_lock import RunLock
from batchmill.plugin_manager import get_catalog, make_run_manager

# A run whose workers die more often than this is not going to succeed.
MOST_RESTARTS = 5
RESTART_WINDOW = 600.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.5, 30.0
_TICK = 0.2


class LocalLauncher(Launcher):
    """Runs ``nproc`` workers on this machine; one worker runs in this process.

    Started by torchrun, SLURM or Kubernetes (RANK and WORLD_SIZE are set), it is one of their workers instead.

    Args:
        nproc: Number of workers.
    """

    def __init__(self, nproc: int = 1) -> None:
        if nproc < 1:
            raise errors.ConfigError(f"launcher.nproc should be a positive integer, but is {nproc}.")
        self.nproc = nproc

    def launch(self, request: RunRequest) -> RunResult:
        """Start the workers and return the result when all have left."""
        if started_by_launcher(os.environ):
            return EnvironmentLauncher().launch(request)
        if self.nproc == 1:
            from batchmill.launch.in_process import InProcessLauncher

            return InProcessLauncher().launch(request)
        if request.run_id is None:
            request = dataclasses.replace(request, run_id=new_run_id())
        stop = StopFlag()
        with stop_on_signals(stop):
            return Supervisor(request, self.nproc, stop).run()


@dataclass
class _Worker:
    """One worker process, as its supervisor sees it."""

    rank: int
    process: subprocess.Popen[bytes]
    channel: Channel
    samples: int = 0
    ended: dict[str, Any] | None = None


@dataclass
class _Restarts:
    """Deaths of workers and restarts to come."""

    times: list[float] = field(default_factory=list)
    due: dict[int, float] = field(default_factory=dict)


class Supervisor:
    """Starts, feeds, watches and restarts the workers of one run.

    Args:
        request: The run, with its id.
        nproc: Number of workers.
        stop: Set when the run should stop.
    """

    def __init__(self, request: RunRequest, nproc: int, stop: StopFlag) -> None:
        self._request, self._nproc, self._stop = request, nproc, stop
        self._message = request.to_json()
        self._workers: dict[int, _Worker] = {}
        self._past_samples: dict[int, int] = {}
        self._board: ChunkBoard | None = None
        self._restarts = _Restarts()
        self._failure: dict[str, Any] | None = None
        self._told_to_stop: tuple[bool, bool] = (False, False)
        self._path = ""
        self._selector = selectors.DefaultSelector()
        self._lock = RunLock(join=request.join)
        self._ticker: ProgressTicker

    def run(self) -> RunResult:
        """Work until every worker has left.

        Raises:
            BatchmillError: A worker failed, or workers died too often.
        """
        registry = get_catalog().registry
        assembler = Assembler(registry, self._request.allow_import)
        hooks = make_run_manager(build_callbacks(self._request, registry))
        with self._lock, ProgressTicker(hooks, self._samples_by_rank) as self._ticker:
            try:
                for rank in range(self._nproc):
                    self._start(rank)
                while self._workers or self._restarts.due:
                    self._step(assembler)
            finally:
                self._kill_all()
        if self._failure is not None:
            raise _rebuild_error(self._failure)
        run = open_existing(open_storage(assembler, self._path))
        return result_of(run, run.read_result(), self._stop.reason)

    def _start(self, rank: int) -> None:
        ours, theirs = socket.socketpair()
        threads = self._request.threads or max(1, available_cores() // self._nproc)
        environment = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(self._nproc),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(self._nproc),
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
        worker = _Worker(rank, process, Channel(ours))
        worker.channel.send("request", request=self._message)
        self._workers[rank] = worker
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)

    def _step(self, assembler: Assembler) -> None:
        for key, _ in self._selector.select(_TICK):
            worker: _Worker = key.data
            messages = worker.channel.receive()
            if messages is None:
                self._left(worker)
                continue
            for message in messages:
                self._handle(worker, message, assembler)
        self._pass_on_stop()
        now = time.monotonic()
        for rank in [rank for rank, due in self._restarts.due.items() if due <= now]:
            del self._restarts.due[rank]
            if not self._stop.requested and self._failure is None:
                self._start(rank)

    def _handle(self, worker: _Worker, message: dict[str, Any], assembler: Assembler) -> None:
        match message["kind"]:
            case "opened":
                self._opened(message, assembler)
            case "next":
                assert self._board is not None, "a worker opens the run before it asks for chunks"
                self._answer(self._board.ask(worker.rank, message["wait"]))
            case "committed":
                assert self._board is not None
                self._answer(self._board.commit(message["chunk"]))
            case "progress":
                worker.samples = message["samples"]
            case "finished":
                worker.ended, worker.samples = message, message["samples"]
            case "failed":
                worker.ended = message
                self._fail(message)

    def _opened(self, message: dict[str, Any], assembler: Assembler) -> None:
        if self._board is not None:
            return
        self._path = message["path"]
        self._board = ChunkBoard(message["chunks"], message["committed"])
        try:
            self._lock.take(open_storage(assembler, self._path))
        except errors.AlreadyRunningError as error:
            self._fail({"error": type(error).__name__, "message": str(error), "trace": ""})
            return
        self._ticker.begin(message["samples"], message["resumed"])

    def _answer(self, answers: dict[int, int | None]) -> None:
        for rank, chunk in answers.items():
            if rank in self._workers:
                self._workers[rank].channel.send("chunk", chunk=chunk)

    def _left(self, worker: _Worker) -> None:
        self._selector.unregister(worker.channel)
        worker.channel.close()
        code = worker.process.wait()
        del self._workers[worker.rank]
        _sweep_session(worker.process.pid)
        self._past_samples[worker.rank] = self._past_samples.get(worker.rank, 0) + worker.samples
        if self._board is not None:
            self._answer(self._board.leave(worker.rank))
        if worker.ended is None and self._failure is None and not self._stop.requested:
            self._restart(worker, code)

    def _restart(self, worker: _Worker, code: int) -> None:
        now = time.monotonic()
        recent = [moment for moment in self._restarts.times if now - moment < RESTART_WINDOW]
        self._restarts.times = [*recent, now]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        if len(recent) >= MOST_RESTARTS:
            message = (
                f"Worker {worker.rank} {how}; workers died {len(recent) + 1} times within {RESTART_WINDOW:.0f} s, and "
                f"the run is given up. What is committed stays: 'batchmill resume {self._path or self._request.run_id}' "
                f"goes on. Workers that vanish with SIGKILL are often out of memory; try a smaller batch_size or nproc."
            )
            self._fail({"error": "WorkerError", "message": message, "trace": ""})
            return
        backoff = min(_FIRST_BACKOFF * 2 ** len(recent), _LONGEST_BACKOFF)
        print(
            f"batchmill: worker {worker.rank} {how}; its chunk goes back, restarting it in {backoff:.1f} s",
            file=sys.stderr,
        )
        self._restarts.due[worker.rank] = now + backoff

    def _fail(self, failure: dict[str, Any]) -> None:
        if self._failure is None:
            self._failure = failure
            self._stop.request("another worker failed")

    def _pass_on_stop(self) -> None:
        wanted = (self._stop.requested, self._stop.requested and self._stop.overdue())
        if wanted != self._told_to_stop:
            self._told_to_stop = wanted
            self._restarts.due.clear()
            for worker in self._workers.values():
                worker.channel.send("stop", reason=self._stop.reason, now=wanted[1])
        if self._stop.requested and self._stop.elapsed() > DEFAULT_GRACE:
            self._kill_all()

    def _kill_all(self) -> None:
        for worker in self._workers.values():
            worker.process.kill()
            _sweep_session(worker.process.pid)

    def _samples_by_rank(self) -> dict[int, int]:
        samples = dict(self._past_samples)
        for rank, worker in list(self._workers.items()):
            samples[rank] = samples.get(rank, 0) + worker.samples
        return samples


def _sweep_session(pid: int) -> None:
    """Kill what is left of a worker's session: its loader processes."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nothing is left, which is the usual case


def _rebuild_error(failure: dict[str, Any]) -> errors.BatchmillError:
    """Return a worker's error in this process, with its class (and so its exit code) and its words."""
    kind = getattr(errors, failure["error"], None) if failure["error"] else None
    if kind is None or not issubclass(kind, errors.BatchmillError):
        return errors.WorkerError(f"A worker failed with an unexpected error: {failure['message']}\n{failure['trace']}")
    error: errors.BatchmillError = kind.__new__(kind)
    Exception.__init__(error, failure["message"])
    return error
