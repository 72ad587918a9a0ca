"""Simulated processes that take turns, one step at a time, in an order that one seed decides.

Every simulated thread of control (a task) runs real, blocking code in an operating-system thread of its own, but only
the holder of the baton runs. It may pass the baton on at every ``step()``, which stands before each operation that
others could observe. Time is a number: it moves a little with each step, and jumps when everyone sleeps.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from typing import Any, ClassVar


class Killed(BaseException):
    """Unwinds the threads of a killed process; no operation of theirs has an effect any more."""


class KilledInFlight(Killed):
    """The process was killed while a request of it was under way, which may arrive all the same."""


class Process:
    """A simulated operating-system process: its tasks live and die together.

    Attributes:
        name: For traces.
        group: The launch it belongs to.
        dead: Whether it was killed or its machine lost power.
        paused_until: Moment before which it gets no turn; infinite for a zombie.
        skew: Seconds that its monotonic clock is ahead.
        wall_skew: Seconds that its wall clock is ahead.
        ended: How its main function ended: a word, or None while it has not.
        error: The error it ended with, if it did.
        stop: Its stop flag, once it has one.
        half_done: Path of its last change, while it does not know yet that it is durable.
        parent: The process whose death the system answers by killing this one.
    """

    def __init__(self, name: str, group: int) -> None:
        self.name, self.group = name, group
        self.dead = False
        self.paused_until = 0.0
        self.skew = self.wall_skew = 0.0
        self.ended: str | None = None
        self.error: Exception | None = None
        self.stop: Any = None
        self.half_done = ""
        self.parent: Process | None = None

    @property
    def alive(self) -> bool:
        """Whether it may still do something."""
        return not self.dead and self.ended is None

    @property
    def is_zombie(self) -> bool:
        """Whether it was stopped without end."""
        return self.alive and self.paused_until == math.inf

    @property
    def is_halted(self) -> bool:
        """Whether it, or the parent that it depends on, was stopped without end."""
        return self.is_zombie or (self.parent is not None and self.parent.is_zombie)


class Task:
    """One thread of a process."""

    def __init__(self, process: Process, name: str, function: Callable[[], Any], thread: _Thread) -> None:
        self.process, self.name, self.function, self.thread = process, name, function, thread
        self.started = self.done = False
        self.wake = 0.0
        self.condition: Callable[[], bool] | None = None
        self.deadline = math.inf

    def next_moment(self) -> float:
        """Return when it can go on at the latest, by time alone."""
        return max(self.wake, self.process.paused_until, self.deadline if self.condition is not None else 0.0)


class _Thread:
    """A reusable operating-system thread; starting one for each task would cost more than the task."""

    idle: ClassVar[list[_Thread]] = []

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.job: Callable[[], Callable[[], None]] | None = None
        threading.Thread(target=self._loop, name="simulated", daemon=True).start()

    @classmethod
    def take(cls) -> _Thread:
        return cls.idle.pop() if cls.idle else cls()

    def _loop(self) -> None:
        while True:
            self.gate.acquire()
            assert self.job is not None
            pass_on = self.job()
            self.job = None
            _Thread.idle.append(self)
            pass_on()


class Scheduler:
    """Runs tasks in an order drawn from ``rng``.

    Args:
        rng: Decides every turn.
        switching: Chance that a step passes the baton on.
        tick: Simulated seconds for each step.
        trace: Collects what happened, or None.
    """

    def __init__(self, rng: random.Random, switching: float, tick: float, trace: list[str] | None = None) -> None:
        self._rng, self._switching, self._tick = rng, switching, tick
        self.trace = trace
        self.now = 0.0
        self.steps = 0
        self.break_at = 0
        self.current: Task | None = None
        self.disturb: Callable[[Task, str], None] | None = None
        self._tasks: list[Task] = []
        self._dying: list[Task] = []
        self._gate = threading.Lock()
        self._gate.acquire()
        self.failure: BaseException | None = None

    @property
    def processes(self) -> list[Process]:
        """All processes with an unfinished task, in order of their start."""
        return list(dict.fromkeys(task.process for task in self._tasks if not task.done and not task.process.dead))

    def spawn(self, process: Process, name: str, function: Callable[[], Any]) -> Task:
        """Add a task; it runs when its turn comes."""
        task = Task(process, name, function, _Thread.take())
        task.thread.job = lambda: self._run_task(task)
        self._tasks.append(task)
        return task

    def run(self, break_at: int) -> bool:
        """Let tasks run until none can go on, or until step ``break_at``.

        Returns:
            Whether the run was interrupted at ``break_at``.
        """
        self.break_at = break_at
        chosen = self._choose()
        while chosen is not None and self.failure is None:
            self._give(chosen)
            self._gate.acquire()
            if self.failure is not None or self.steps >= self.break_at:
                break
            chosen = self._choose()
        if self.failure is not None:
            raise self.failure
        return self.steps >= self.break_at

    def step(self, verb: str, what: object = "") -> None:
        """Mark a point where others may come first, or a fault may strike. Outside of tasks nothing happens.

        Args:
            verb: What the task is about to do.
            what: To what; put into words for the trace only.
        """
        task = self.current
        if task is None:
            return
        process = task.process
        if process.dead:
            raise Killed
        self.steps += 1
        self.now += self._tick
        if self.trace is not None:
            self.note(task, f"{verb} {what}")
        if self.disturb is not None:
            self.disturb(task, verb)
            if process.dead:
                raise Killed
        if self.steps >= self.break_at:
            self._back_to_driver(task)
        elif process.paused_until > self.now or self._rng.random() < self._switching:
            self._yield(task)

    def sleep(self, seconds: float, verb: str = "sleep") -> None:
        """Let the current task wait for simulated seconds."""
        task = self.current
        if task is None:
            self.now += seconds
            return
        if task.process.dead:
            raise Killed
        task.wake = self.now + seconds
        self.step(verb, seconds)
        if task.wake > self.now:
            self._yield(task)

    def wait(self, condition: Callable[[], bool], verb: str, seconds: float = math.inf) -> None:
        """Let the current task wait until a condition holds, or for so many seconds."""
        task = self.current
        assert task is not None, "only tasks can wait"
        self.step(verb)
        if condition():
            return
        task.condition, task.deadline = condition, self.now + seconds
        try:
            self._yield(task)
        finally:
            task.condition = None

    def kill(self, process: Process) -> None:
        """End a process at once; its threads are unwound without effect before anyone else's next turn."""
        if process.dead or process.ended is not None:
            return
        process.dead = True
        for task in self._tasks:
            if task.process is process and not task.done and task is not self.current:
                self._dying.append(task)

    def note(self, task: Task | None, text: str) -> None:
        """Add a line to the trace."""
        if self.trace is not None:
            who = f"{task.process.name}/{task.name}" if task is not None else "-"
            self.trace.append(f"{self.steps:5d} {self.now:10.4f} {who:<22} {text}")

    def _run_task(self, task: Task) -> Callable[[], None]:
        task.started = True
        try:
            if not task.process.dead:
                task.function()
        except Killed:
            pass
        except BaseException as error:  # a fault of the simulator or of the code under test: the driver raises it
            self.failure = self.failure or error
        task.done = True
        self._tasks.remove(task)
        self.current = None
        chosen = self._choose() if self.failure is None and self.steps < self.break_at else None
        if chosen is None:
            return self._gate.release
        return lambda: self._give(chosen)

    def _choose(self) -> Task | None:
        """Return the next task to run, moving the clock if everyone sleeps; None if nobody can ever go on."""
        if self._dying:
            return self._dying.pop(0)
        while True:
            now = self.now
            # Written out, for this is the simulator's hottest line.
            ready = [
                task
                for task in self._tasks
                if task.wake <= now
                and task.process.paused_until <= now
                and (task.condition is None or task.deadline <= now or task.condition())
            ]
            if ready:
                return ready[0] if len(ready) == 1 else ready[int(self._rng.random() * len(ready))]
            moments = (task.next_moment() for task in self._tasks)
            later = min((moment for moment in moments if self.now < moment < math.inf), default=None)
            if later is None:
                return None
            self.now = later

    def _yield(self, task: Task) -> None:
        chosen = self._choose()
        if chosen is task:
            return
        self.current = None
        if chosen is None:
            self._gate.release()
        else:
            self._give(chosen)
        self._await_turn(task)

    def _back_to_driver(self, task: Task) -> None:
        self.current = None
        self._gate.release()
        self._await_turn(task)

    def _await_turn(self, task: Task) -> None:
        task.thread.gate.acquire()
        if task.process.dead:
            raise Killed

    def _give(self, task: Task) -> None:
        self.current = task
        task.thread.gate.release()
