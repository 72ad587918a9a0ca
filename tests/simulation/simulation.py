"""One simulated world: its clock, storage, faults and processes, and what must never happen in it."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from batchmill_plugins.storage._local import LocalStorage
from batchmill_plugins.storage._object_store import ObjectStorage

from . import faults
from .checker import Snapshot
from .faults import FaultProfile, Faults
from .kernel import File, Kernel
from .object_server import ObjectServer
from .scheduler import Killed, KilledInFlight, Process, Scheduler, Task
from .workload import RUN_ID, Ledger, Workload

OUTPUT = "/disk/out/runs"  # below a folder that is there already; the others are for the run to make
_WRITE_ONCE = re.compile(r"commits/[0-9]+\.json|run\.json|result\.json|_SUCCESS")


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
        self.scheduler.disturb = self._disturb
        self.ledger = Ledger()
        self.locks: dict[str, Process] = {}
        self.locks_broken = self.rng.random() < 0.2
        self.violations: list[str] = []
        self.acknowledged: dict[int, Any] = {}
        self.acknowledged_result: bytes | None = None
        self.arrivals: list[int] = []
        self._tokens = self._marks = 0
        self._compute = 10 ** self.rng.uniform(-3, 0.5)
        self.world: Kernel | ObjectServer
        if objects:
            self.world = ObjectServer(self, self._changed, random.Random(f"{seed} network"))
        else:
            self.world = Kernel(self, self._changed, hard_links=self.rng.random() < 0.9)
            self.world.mkdir("/disk")
            self.world.root.sync()

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

    def compute(self, batch_idx: int) -> None:
        """Take the time that a batch takes."""
        self.scheduler.sleep(self._compute * self.rng.uniform(0.5, 2), f"process batch {batch_idx}, computing")

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
        self.scheduler.step(f"{call} {path}")
        error = self.faults.before_call(call, path)
        if error is not None:
            self._note(f"  fails: {error}")
            raise error

    def leave(self, call: str, path: str) -> None:
        """See ``SystemCalls.leave``."""
        if call == "fsync" and not path.endswith(".tmp") and self.scheduler.current is not None:
            self.scheduler.current.process.half_done = ""
        error = self.faults.after_call(path)
        if error is not None:
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
            self.scheduler.step(f"{verb} {path}")
        except Killed:
            raise KilledInFlight from None
        fate = self.faults.request_fate(verb)
        if fate:
            self._note(f"  fate: {fate}")
        return fate

    def answer(self, verb: str, path: str) -> None:
        """See ``Requests.answer``."""
        self.scheduler.step(f"answer to {verb} {path}")
        if self.scheduler.current is not None:
            self.scheduler.current.process.half_done = ""

    # -- what must never happen

    def acknowledge(self, chunk: int, record: Any) -> None:
        """Note that the engine told others that a chunk has this record; from now on it may not change or vanish."""
        if self.acknowledged.setdefault(chunk, record) != record:
            self.violate(f"I4: chunk {chunk} was announced as committed with two different records")
        elif self._contents(f"commits/{chunk:08d}.json", durable=True) is None:
            self.violate(f"I4: chunk {chunk} was announced while a power loss could still take its record away")

    def acknowledge_result(self, metrics: Any) -> None:
        """Note that a process ended with exit code 0; from now on the result may not change or vanish.

        Args:
            metrics: Those of the result that it returned.
        """
        data = self.visible().get("result.json")
        durable = self.durable()
        if data is None:
            self.violate("I6: a process ended with exit code 0, but there is no result.json")
        elif json.loads(data)["metrics"] != metrics:
            self.violate("I3: a process returned other metrics than those of result.json")
        elif data != durable.get("result.json") or "_SUCCESS" not in durable:
            self.violate(
                "I6: a process ended with exit code 0, but a power loss could take result.json or _SUCCESS away"
            )
        elif self.acknowledged_result is None:
            self.acknowledged_result = data
        elif self.acknowledged_result != data:
            self.violate("I4: result.json changed after a worker had ended with exit code 0")

    def violate(self, what: str) -> None:
        """Note a violation."""
        self._note(f"VIOLATION {what}")
        self.violations.append(what)

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
        if not _WRITE_ONCE.fullmatch(inside):
            return
        if old is not None:
            self.violate(f"I4: {inside} was {'removed' if new is None else 'overwritten'}")
        elif inside == "result.json":
            for chunk in self.arrivals:
                if self._contents(f"commits/{chunk:08d}.json", durable=True) is None:
                    self.violate(f"I1: result.json appeared before the record of chunk {chunk} was there for good")
        elif inside.startswith("commits/"):
            self.arrivals.append(int(inside[8:-5]))
            self._check_named(inside, new.data if isinstance(new, File) else new)

    def _check_named(self, path: str, data: Any) -> None:
        """Check, at the moment when a record appears, that all it names is there and cannot be lost any more."""
        record = json.loads(data)
        sidecar = [record["partials_file"]] if "partials_file" in record else []
        for named in (*record["parts"], *record["files"], *sidecar):
            for contents in (self._contents(named["name"], durable=False), self._contents(named["name"], durable=True)):
                if contents is None or hashlib.sha256(contents).hexdigest() != named["sha256"]:
                    self.violate(f"I2: {path} appeared before {named['name']} was there for good")

    def _contents(self, path: str, *, durable: bool) -> bytes | None:
        if isinstance(self.world, ObjectServer):
            return self.world.objects.get(path)
        return self.world.contents(f"{OUTPUT}/{RUN_ID}/{path}", durable)

    # -- faults

    def lose_power(self) -> None:
        """Kill everything and forget what was not durable."""
        for process in self.scheduler.processes:
            self.kill(process)
        if isinstance(self.world, Kernel):
            self.faults.injected[faults.POWER_LOSS] += 1
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

    def _note(self, text: str) -> None:
        self.scheduler.note(self.scheduler.current, text)

    def _disturb(self, task: Task, label: str) -> None:
        kind = self.faults.strike(label, task.process.half_done)
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
