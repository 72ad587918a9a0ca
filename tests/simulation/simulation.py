"""One simulated world: its clock, storage, faults and processes, and what must never happen in it."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta, tzinfo

from batchmill_plugins.storage._local import LocalStorage
from batchmill_plugins.storage._object_store import ObjectStorage

from . import faults
from .checker import Snapshot
from .fake_os import mount
from .faults import FaultProfile, Faults
from .kernel import File, Kernel
from .object_server import ObjectServer
from .runtime import activate
from .scheduler import Killed, KilledInFlight, Process, Scheduler, Task
from .watcher import Watcher
from .workload import RUN_ID, Ledger, Workload

OUTPUT = "/disk/out/runs"  # below a folder that is there already; the others are for the run to make


class Simulation:
    """Everything that one schedule touches.

    Args:
        seed: Decides everything.
        workload: What is computed.
        objects: Whether storage is an object store; else it is a POSIX file system.
        profile: How rough it is.
        trace: Collects what happens, or None.
    """

    def __init__(
        self, seed: int, workload: Workload, objects: bool, profile: FaultProfile, trace: list[str] | None
    ) -> None:
        self.rng = random.Random(f"{seed} simulation")
        self.workload, self.objects = workload, objects
        self.faults = Faults(profile, random.Random(f"{seed} faults"))
        self.scheduler = Scheduler(
            random.Random(f"{seed} turns"),
            switching=self.rng.choice((0.02, 0.05, 0.15, 0.5)),
            tick=self.rng.choice((1e-4, 1e-3, 1e-2, 0.1)),
            trace=trace,
        )
        self.ledger = Ledger()
        self.locks: dict[str, Process] = {}
        self.locks_broken = self.rng.random() < 0.2
        self.watcher = Watcher(workload, self._contents, self._note)
        self.mended = False  # whether the samples that failed would now pass
        self._tokens = self._marks = 0
        self._compute = 10 ** self.rng.uniform(-3, 0.5)
        self.world: Kernel | ObjectServer
        if objects:
            self.world = ObjectServer(self, self._changed, random.Random(f"{seed} network"))
        else:
            kind = self.rng.random()
            self.world = Kernel(self, self._changed, hard_links=kind < 0.9, nameless=not 0.6 < kind < 0.95)
            self.world.mkdir("/disk")
            self.world.root.sync()

    def activate(self) -> None:
        """Let the stand-ins that the code under test calls be those of this simulation."""
        activate(self)
        if isinstance(self.world, Kernel):
            mount(self.world)

    # -- what the code under test is given in place of the outside world

    def monotonic(self) -> float:
        """Stand in for ``time.monotonic``; a clock jump shows here as a pause does."""
        task = self.scheduler.current
        return self.scheduler.now + (task.process.skew if task is not None else 0.0)

    def wall_clock(self, zone: tzinfo = UTC) -> datetime:
        """Stand in for ``datetime.now``; skewed per process."""
        task = self.scheduler.current
        skew = task.process.wall_skew if task is not None else 0.0
        return datetime(2026, 1, 1, tzinfo=zone) + timedelta(seconds=self.scheduler.now + skew)

    def token_hex(self, size: int) -> str:
        """Stand in for ``secrets.token_hex``."""
        self._tokens += 1
        return f"{self._tokens:0{2 * size}x}"

    def make_storage(self) -> LocalStorage | ObjectStorage:
        """Return the real storage component of one process, over this world."""
        if isinstance(self.world, ObjectServer):
            return ObjectStorage("s3://bucket/runs/run", store=self.world)  # type: ignore[arg-type]
        return LocalStorage(f"{OUTPUT}/{RUN_ID}")

    # -- what the job does

    def compute(self) -> None:
        """Take the time that a batch takes."""
        self.scheduler.sleep(self._compute * self.rng.uniform(0.5, 2), "compute")

    def new_mark(self, batch_idx: int) -> str:
        """Return a mark that no other attempt has."""
        self._marks += 1
        return f"b{batch_idx}#{self._marks}"

    def current_process(self) -> Process:
        """Return the process whose turn it is."""
        task = self.scheduler.current
        assert task is not None, "this is done by processes only"
        return task.process

    # -- SystemCalls and Requests

    def enter(self, call: str, path: str) -> None:
        """See ``SystemCalls.enter``."""
        self.scheduler.step(call, path)
        if self.faults.active and (error := self.faults.before_call(call, path)) is not None:
            self._note(f"  fails: {error}")
            raise error

    def leave(self, call: str, path: str) -> None:
        """See ``SystemCalls.leave``."""
        if call == "fsync" and not path.endswith(".tmp") and self.scheduler.current is not None:
            self.scheduler.current.process.half_done = ""
        if self.faults.active and (error := self.faults.after_call(path)) is not None:
            self._note(f"  was done, but fails: {error}")
            raise error

    def written(self, size: int) -> int:
        """See ``SystemCalls.written``."""
        return self.faults.write_size(size)

    def send(self, verb: str, path: str) -> str:
        """See ``Requests.send``."""
        task = self.scheduler.current
        if task is not None and task.process.dead:
            raise Killed
        try:
            self.scheduler.step(verb, path)
        except Killed:
            raise KilledInFlight from None
        fate = self.faults.request_fate(verb)
        if fate:
            self._note(f"  fate: {fate}")
        return fate

    def answer(self, verb: str, path: str) -> None:
        """See ``Requests.answer``."""
        self.scheduler.step("await answer", path)
        if self.scheduler.current is not None:
            self.scheduler.current.process.half_done = ""

    # -- what lies in storage

    def visible(self) -> Snapshot:
        """Return the run's files as processes see them."""
        if isinstance(self.world, ObjectServer):
            return dict(self.world.objects)
        return self.world.visible(f"{OUTPUT}/{RUN_ID}")

    def durable(self) -> Snapshot:
        """Return what no power loss could take away."""
        if isinstance(self.world, ObjectServer):
            return dict(self.world.objects)
        return self.world.durable(f"{OUTPUT}/{RUN_ID}")

    def _changed(self, path: str, old: object, new: object) -> None:
        inside = path if self.objects else path.removeprefix(f"{OUTPUT}/{RUN_ID}/")
        if new is not None and not path.endswith(".tmp") and self.scheduler.current is not None:
            self.scheduler.current.process.half_done = inside
        self.watcher.changed(
            inside, old, new.data if isinstance(new, File) else new if isinstance(new, bytes) else None
        )

    def _contents(self, path: str, durable: bool) -> bytes | None:
        if isinstance(self.world, ObjectServer):
            return self.world.objects.get(path)
        return self.world.contents(f"{OUTPUT}/{RUN_ID}/{path}", durable)

    # -- faults

    def begin_faults(self) -> None:
        """Let faults strike from now on."""
        self.faults.begin()
        self.scheduler.disturb = self._disturb

    def end_faults(self) -> None:
        """Let no more faults strike."""
        self.faults.active, self.scheduler.disturb = False, None

    def lose_power(self, kind: str = faults.POWER_LOSS) -> None:
        """Kill everything and forget what was not durable; count it as a fault of some kind."""
        for process in self.scheduler.processes:
            self.kill(process)
        if isinstance(self.world, Kernel):
            self.faults.injected[kind] += 1
            self.world.lose_power(self.rng)
        self._note("POWER LOSS")

    def kill(self, process: Process) -> None:
        """Kill a process, and those that die with it."""
        if not process.dead:
            self._note(f"KILL {process.name}")
        self.scheduler.kill(process)
        for child in self.scheduler.processes:
            if child.parent is process:
                self.scheduler.kill(child)

    def stop_for_good(self, process: Process) -> None:
        """Make a process a zombie, which goes on once all is done."""
        if not process.is_zombie:
            process.paused_until = math.inf
            self.faults.injected[faults.ZOMBIE] += 1
            self._note(f"STOP {process.name}")

    def _note(self, text: str) -> None:
        self.scheduler.note(self.scheduler.current, text)

    def _disturb(self, task: Task, verb: str) -> None:
        kind = self.faults.strike(verb, task.process.half_done)
        if kind is None:
            return
        here, living = task.process, [process for process in self.scheduler.processes if process.alive]
        others = [process for process in living if process is not here]
        match kind:
            case faults.KILL:
                self.kill(here)
            case faults.KILL_OTHER:
                if not others:
                    return
                self.kill(self.rng.choice(others))
            case faults.KILL_LAUNCH:
                for process in living:
                    if process.group == here.group:
                        self.kill(process)
            case faults.KILL_ALL:
                for process in living:
                    self.kill(process)
            case faults.POWER_LOSS:
                if self.objects:
                    return
                self.lose_power()
                return  # counted there
            case faults.PAUSE:
                here.paused_until = self.scheduler.now + self.faults.pause()
            case faults.ZOMBIE:
                here.paused_until = math.inf
            case faults.CLOCK:
                here.skew += self.faults.jump()
                here.wall_skew += self.faults.jump() * self.rng.choice((-1, 1))
            case faults.PREEMPT:
                if here.stop is None or here.stop.requested:
                    return
                here.stop.request("preempted", now=self.rng.random() < 0.3)
        self.faults.injected[kind] += 1
        self._note(f"FAULT {kind}")
