"""The supervisor of local workers: it hands out chunks, and replaces workers that die or hang.

A worker that dies costs its chunk in progress: the chunk goes back to the queue, and only that worker is started
again. One that falls silent (stopped, or stuck in a call that never returns to Python) is killed, which is the
same. One that is alive but does not come to an end of its chunk costs a copy of that chunk on an idle worker. No
port is opened and no collective is used. The supervisor never imports torch.
"""

from __future__ import annotations

import selectors
import signal
import sys
import time
from typing import Any

from batchmill import errors
from batchmill.contracts.run import RunRequest, RunResult
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.engine.cores import available_cores
from batchmill.engine.finish import confirmed_result, result_of
from batchmill.engine.run_directory import join_url, open_existing
from batchmill.engine.stopping import StopFlag
from batchmill.launch.callbacks import build_callbacks
from batchmill.launch.chunk_board import ChunkBoard
from batchmill.launch.progress import ProgressTicker
from batchmill.launch.restarts import Restarts
from batchmill.launch.run_lock import RunLock
from batchmill.launch.suspects import Suspects
from batchmill.launch.worker_process import Patience, WorkerProcess, sweep_session
from batchmill.plugin_manager import get_catalog, make_run_manager

_TICK = 0.2


class Supervisor:
    """Starts, feeds, watches and restarts the workers of one run.

    Args:
        request: The run, with its id.
        nproc: Number of workers.
        stop: Set when the run should stop.
        patience: How long to wait for workers.
        restarts: How often to start dead ones again.
    """

    def __init__(
        self,
        request: RunRequest,
        nproc: int,
        stop: StopFlag,
        patience: Patience | None = None,
        restarts: Restarts | None = None,
    ) -> None:
        self._request, self._nproc, self._stop = request, nproc, stop
        self._patience, self._restarts = patience or Patience(), restarts or Restarts()
        self._message = request.to_json()
        self._workers: dict[int, WorkerProcess] = {}
        self._past_samples: dict[int, int] = {}
        self._board: ChunkBoard | None = None
        self._moved = time.monotonic()
        self._worked: set[int] = set()
        self._suspects = Suspects()
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
                while self._workers or self._restarts.pending:
                    self._step(assembler)
            finally:
                self._kill_all()
        if self._failure is not None:
            raise _rebuild_error(self._failure)
        return self._result(assembler)

    def _result(self, assembler: Assembler) -> RunResult:
        run_id = str(self._request.run_id)
        storage = open_storage(assembler, self._path or join_url(self._request.output, run_id))
        try:
            run = open_existing(storage, working=True)
        except errors.RunNotFoundError:  # stopped before any worker had opened it
            return RunResult(run_id, storage.url, False, 0.0, 0, 0, {}, (), self._stop.reason)
        return result_of(run, confirmed_result(run), self._stop.reason)

    def _start(self, rank: int) -> None:
        threads = self._request.threads or max(1, available_cores() // self._nproc)
        worker = WorkerProcess.start(rank, self._nproc, threads)
        worker.channel.send("request", request=self._message)
        self._tell_suspects(worker)
        self._workers[rank] = worker
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)

    def _tell_suspects(self, worker: WorkerProcess) -> None:
        worker.channel.send("suspects", chunks=self._suspects.chunks, limit=self._patience.batch)

    def _step(self, assembler: Assembler) -> None:
        for key, _ in self._selector.select(_TICK):
            worker: WorkerProcess = key.data
            messages = worker.channel.receive()
            if messages is None:
                self._left(worker)
                continue
            worker.heard = time.monotonic()
            for message in messages:
                self._handle(worker, message, assembler)
        for worker in [worker for worker in self._workers.values() if worker.process.poll() is not None]:
            # Loader processes may still hold a dead worker's end of the channel, so its end of file can be late.
            for message in worker.channel.receive_rest():
                self._handle(worker, message, assembler)
            self._left(worker)
        self._pass_on_stop()
        self._watch(time.monotonic())
        for rank in self._restarts.due(time.monotonic()):
            self._start(rank)

    def _handle(self, worker: WorkerProcess, message: dict[str, Any], assembler: Assembler) -> None:
        match message["kind"]:
            case "opened":
                self._opened(message, assembler)
            case "next":
                assert self._board is not None, "a worker opens the run before it asks for chunks"
                self._answer(self._board.ask(worker.rank, message["wait"]))
            case "committed":
                assert self._board is not None
                self._moved = time.monotonic()
                self._answer(self._board.commit(message["chunk"]))
            case "progress" | "processing":
                worker.note(message)
            case "worked":
                self._moved = time.monotonic()
                self._worked.add(worker.rank)
            case "finished":
                worker.ended, worker.samples = message, message["samples"]
            case "failed":
                worker.ended = message
                self._fail(message)

    def _opened(self, message: dict[str, Any], assembler: Assembler) -> None:
        if self._board is not None:
            return
        self._path = message["path"]
        self._board = ChunkBoard(message["chunks"], message["committed"], joined=self._request.join)
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

    def _left(self, worker: WorkerProcess) -> None:
        self._selector.unregister(worker.channel)
        worker.channel.close()
        code = worker.process.wait()
        del self._workers[worker.rank]
        sweep_session(worker.process.pid)
        self._past_samples[worker.rank] = self._past_samples.get(worker.rank, 0) + worker.samples
        died = worker.ended is None and not self._stop.requested and self._request.on_error == "quarantine"
        if died and self._suspects.died(worker.processing):
            self._restarts.forgive(2)  # the chunk is to blame, and will not do it again
            for other in self._workers.values():
                self._tell_suspects(other)
        if self._board is not None:
            self._answer(self._board.leave(worker.rank))
        if worker.ended is not None or self._failure is not None or self._stop.requested:
            return
        if self._worked and worker.rank not in self._worked:
            return  # the run was finished without it
        self._restart(worker, code)

    def _restart(self, worker: WorkerProcess, code: int) -> None:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        backoff = self._restarts.died(worker.rank, time.monotonic())
        if backoff is not None:
            print(
                f"batchmill: worker {worker.rank} {how}; its chunk goes back, restarting it in {backoff:.1f} s",
                file=sys.stderr,
            )
            return
        message = (
            f"Worker {worker.rank} {how}; workers died {self._restarts.most + 1} times within "
            f"{self._restarts.window:.0f} s, and the run is given up. What is committed stays: 'batchmill resume "
            f"{self._path or self._request.run_id}' goes on. Workers that vanish with SIGKILL are often out of memory; "
            f"try a smaller batch_size or nproc."
        )
        self._fail({"error": "WorkerError", "message": message, "trace": ""})

    def _fail(self, failure: dict[str, Any]) -> None:
        if self._failure is None:
            self._failure = failure
            self._stop.request("another worker failed")

    def _pass_on_stop(self) -> None:
        wanted = (self._stop.requested, self._stop.requested and self._stop.overdue())
        if wanted != self._told_to_stop:
            self._told_to_stop = wanted
            self._restarts.cancel()
            for worker in self._workers.values():
                worker.channel.send("stop", reason=self._stop.reason, now=wanted[1])
        if self._stop.requested and self._stop.elapsed() > self._patience.grace:
            self._kill_all()

    def _watch(self, now: float) -> None:
        """Kill the silent, copy the chunks of the slow, and part from those whom the run was finished without."""
        for worker in self._workers.values():
            if (what := worker.overdue(self._patience, now)) is not None:
                print(f"batchmill: worker {worker.rank} {what}; it is killed", file=sys.stderr)
                worker.process.kill()
                worker.heard = worker.moved = now  # its death is seen at the end of its channel
        if self._worked:
            if now - self._moved > self._patience.grace:
                for worker in self._workers.values():
                    if worker.rank not in self._worked:
                        worker.process.kill()
        elif self._board is not None and now - self._moved > self._patience.chunk and (lent := self._board.lend()):
            self._moved = now
            self._answer(lent)

    def _kill_all(self) -> None:
        for worker in self._workers.values():
            worker.kill()

    def _samples_by_rank(self) -> dict[int, int]:
        samples = dict(self._past_samples)
        for rank, worker in list(self._workers.items()):
            samples[rank] = samples.get(rank, 0) + worker.samples
        return samples


def _rebuild_error(failure: dict[str, Any]) -> errors.BatchmillError:
    """Return a worker's error in this process, with its class (and so its exit code) and its words."""
    kind = getattr(errors, failure["error"], None) if failure["error"] else None
    if kind is None or not issubclass(kind, errors.BatchmillError):
        return errors.WorkerError(f"A worker failed with an unexpected error: {failure['message']}\n{failure['trace']}")
    error: errors.BatchmillError = kind.__new__(kind)
    Exception.__init__(error, failure["message"])
    return error
