"""Simulated launchers: what ``batchmill.launch`` does with processes and sockets, done with simulated processes.

The parts without processes are the real ones: ``execute``, ``ChunkBoard``, ``Restarts`` and ``RunLock``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from batchmill.components import ComponentRegistry
from batchmill.contracts.distributed import DistributedContext
from batchmill.engine.claims import DynamicClaims, StaticClaims
from batchmill.engine.finish import confirmed_result
from batchmill.engine.run import Surroundings, execute
from batchmill.engine.run_directory import open_existing
from batchmill.errors import AlreadyRunningError, BatchmillError, RunNotFoundError, WorkerError
from batchmill.launch.chunk_board import ChunkBoard
from batchmill.launch.restarts import Restarts
from batchmill.launch.run_lock import RunLock

from .scheduler import Process
from .simulation import OUTPUT, Simulation
from .workload import make_request

COMPLETE, INCOMPLETE = "complete", "incomplete"
# Far below the real ones, so that few steps are spent on waiting.
SILENCE, CHUNK_PATIENCE, GRACE, TICK = 6.0, 3.0, 4.0, 1.5
_registry = ComponentRegistry()


@dataclass(frozen=True)
class Launch:
    """One start of the run.

    Attributes:
        number: Tells launches apart.
        mode: "alone" (in process), "static" or "counter" (workers of torchrun and the like), "supervised", or
            "stranger": alone, with settings that do not fit the run.
        workers: Number of workers.
        join: Whether it works beside another launcher.
    """

    number: int
    mode: str
    workers: int
    join: bool

    def start(self, simulation: Simulation) -> list[Process]:
        """Start its processes and return those that work."""
        if self.mode == "supervised":
            return Supervisor(self, simulation).start()
        counter = _Counter() if self.mode == "counter" else None
        return [self._start_rank(simulation, rank, counter) for rank in range(self.workers)]

    def _start_rank(self, simulation: Simulation, rank: int, counter: _Counter | None) -> Process:
        process = Process(f"L{self.number}.{rank}", self.number)
        lock = RunLock(self.join) if rank == 0 else None

        def work() -> None:
            surroundings = Surroundings(distributed=DistributedContext(rank, self.workers))
            surroundings.counter = counter
            claims = StaticClaims if self.mode == "static" else DynamicClaims
            if lock is None:
                run_worker(simulation, process, surroundings, claims, self)
                return
            surroundings.opened = lambda run, committed: lock.take(run.storage)
            with lock:
                run_worker(simulation, process, surroundings, claims, self)

        simulation.scheduler.spawn(process, "main", work)
        return process


class _Counter:
    """The shared counter of torchrun's store."""

    def __init__(self) -> None:
        self._value = -1

    def __call__(self) -> int:
        self._value += 1
        return self._value


def run_worker(
    simulation: Simulation, process: Process, surroundings: Surroundings, claims: type, launch: Launch
) -> None:
    """Do one worker's part with the real engine, and note how it ended.

    Args:
        simulation: Where.
        process: As which process.
        surroundings: What its launcher gives.
        claims: The claims component.
        launch: The launch that it belongs to.
    """
    process.stop = surroundings.stop
    storage = simulation.make_storage()
    stranger = launch.mode == "stranger"
    request = make_request(
        simulation.workload, storage, claims, simulation.ledger, OUTPUT, join=launch.join, stranger=stranger
    )
    try:
        result = execute(request, _registry, surroundings)
    except BatchmillError as error:
        process.ended, process.error = type(error).__name__, error
    else:
        process.ended = COMPLETE if result.complete else INCOMPLETE
        if result.complete:
            simulation.watcher.acknowledge_result(result.metrics)
    simulation.scheduler.note(simulation.scheduler.current, f"ENDED {process.ended} {process.error or ''}")


class Supervisor:
    """The supervisor of one launch, as ``batchmill.launch.supervisor`` has it, without sockets.

    Args:
        launch: What it starts.
        simulation: Where.
    """

    def __init__(self, launch: Launch, simulation: Simulation) -> None:
        self._launch, self._simulation = launch, simulation
        self._process = Process(f"L{launch.number}.s", launch.number)
        self._inbox: deque[tuple[Any, ...]] = deque()
        self._workers: dict[int, Process] = {}
        self._replies: dict[int, deque[int | None]] = {}
        self._board: ChunkBoard | None = None
        self._restarts = Restarts(most=4, first_backoff=0.1, longest_backoff=1.0)
        self._moved = 0.0
        self._started = 0
        self._heard: dict[int, float] = {}
        self._worked: set[int] = set()
        self.requested = False
        self._requested_at = 0.0
        self._failure: Exception | None = None
        self._lock = RunLock(launch.join)
        self._storage = simulation.make_storage()
        self._process.stop = self

    def start(self) -> list[Process]:
        """Start the supervisor and its workers."""
        self._simulation.scheduler.spawn(self._process, "main", self._run)
        for rank in range(self._launch.workers):
            self._start_worker(rank)
        return [self._process]

    def _start_worker(self, rank: int) -> None:
        self._started += 1
        self._heard.pop(rank, None)
        process = Process(f"L{self._launch.number}.{rank}+{self._started}", self._launch.number)
        replies: deque[int | None] = deque()
        self._workers[rank], self._replies[rank] = process, replies
        process.parent = self._process
        surroundings = Surroundings(distributed=DistributedContext(rank, self._launch.workers))
        surroundings.queue = _Queue(self, rank, replies, surroundings)
        surroundings.opened = lambda run, committed: self.send("opened", rank, run.grid.chunks, sorted(committed))
        surroundings.committed = lambda chunk: self.send("committed", rank, chunk)
        surroundings.worked = lambda: self.send("worked", rank)
        launch = self._launch
        work: Callable[[], None] = lambda: run_worker(self._simulation, process, surroundings, DynamicClaims, launch)  # noqa: E731
        self._simulation.scheduler.spawn(process, "main", work)

    def send(self, *message: Any) -> None:
        """Take a message from a worker."""
        self._simulation.scheduler.step("tell", message)
        self._inbox.append(message)

    def _run(self) -> None:
        try:
            with self._lock:
                self._supervise()
            self._process.ended = self._result()
        except BatchmillError as error:
            self._process.ended, self._process.error = type(error).__name__, error
            for worker in self._workers.values():
                self._simulation.kill(worker)

    def _result(self) -> str:
        """Say what the run came to, as ``Supervisor._result`` does."""
        if self._failure is not None:
            raise self._failure
        try:
            stored = confirmed_result(open_existing(self._storage, working=True))
        except RunNotFoundError:
            return INCOMPLETE
        if stored is None:
            return INCOMPLETE
        self._simulation.watcher.acknowledge_result(stored["metrics"])
        return COMPLETE

    def _supervise(self) -> None:
        scheduler = self._simulation.scheduler
        while self._workers or self._restarts.pending:
            scheduler.wait(self._wanted, "supervise", TICK)
            while self._inbox:
                self._handle(*self._inbox.popleft())
            for rank, worker in list(self._workers.items()):
                if not worker.alive:
                    self._left(rank, worker)
            self._watch(scheduler.now)
            for rank in self._restarts.due(scheduler.now):
                self._start_worker(rank)

    def _wanted(self) -> bool:
        return bool(self._inbox) or any(not worker.alive for worker in self._workers.values())

    def _handle(self, kind: str, rank: int, *values: Any) -> None:
        if kind == "opened":
            if self._board is None:
                self._board = ChunkBoard(*values, joined=self._launch.join)
                try:
                    self._lock.take(self._storage)
                except AlreadyRunningError as error:
                    self._fail(error)
            return
        assert self._board is not None
        if kind == "next":
            self._answer(self._board.ask(rank, *values))
            return
        self._moved = self._simulation.scheduler.now
        if kind == "committed":
            self._answer(self._board.commit(*values))
        else:
            self._worked.add(rank)

    def _answer(self, answers: dict[int, int | None]) -> None:
        for rank, chunk in answers.items():
            if rank in self._workers:
                self._replies[rank].append(chunk)

    def _left(self, rank: int, worker: Process) -> None:
        del self._workers[rank]
        if self._board is not None:
            self._answer(self._board.leave(rank))
        if worker.error is not None:
            self._fail(worker.error)
        if worker.ended is not None or self.requested:
            return
        if self._worked and rank not in self._worked:
            return  # the run was finished without it
        if self._restarts.died(rank, self._simulation.scheduler.now) is None:
            self._fail(WorkerError("workers died too often"))

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self.request("another worker failed")

    def request(self, reason: str, *, now: bool = False) -> None:
        """Ask all workers to stop, as the supervisor does when it is asked."""
        if not self.requested:
            self.requested, self._requested_at = True, self._simulation.scheduler.now
        self._restarts.cancel()
        for worker in self._workers.values():
            if worker.stop is not None:
                worker.stop.request(reason, now=now)

    def _watch(self, now: float) -> None:
        for rank, worker in self._workers.items():
            if worker.paused_until <= now:
                self._heard[rank] = now
            elif now - self._heard.setdefault(rank, now) > SILENCE:
                self._simulation.kill(worker)
        if self.requested and now - self._requested_at > GRACE:
            self._part_from(set())
        if self._worked:
            if now - self._moved > GRACE:
                self._part_from(self._worked)
        elif self._board is not None and now - self._moved > CHUNK_PATIENCE and (lent := self._board.lend()):
            self._moved = now
            self._answer(lent)

    def _part_from(self, kept: set[int]) -> None:
        for rank, worker in self._workers.items():
            if rank not in kept:
                self._simulation.kill(worker)


class _Queue:
    """A supervisor's queue, as a worker sees it."""

    def __init__(
        self, supervisor: Supervisor, rank: int, replies: deque[int | None], surroundings: Surroundings
    ) -> None:
        self._supervisor, self._rank, self._replies = supervisor, rank, replies
        self._surroundings = surroundings

    def take(self, wait: bool) -> int | None:
        """Return a chunk from the supervisor, or None; see ``ChunkQueue``."""
        self._supervisor.send("next", self._rank, wait)
        stop, replies = self._surroundings.stop, self._replies
        simulation = self._supervisor._simulation
        simulation.scheduler.wait(lambda: bool(replies) or stop.requested, "await chunk")
        return replies.popleft() if replies else None
