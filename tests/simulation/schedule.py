"""One schedule: a run under faults, its wreck, its recovery, zombies that wake up, and a last power loss."""

from __future__ import annotations

import random
import traceback
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from batchmill.engine.retry_view import begin_retry

from . import faults
from .checker import Snapshot, ViolationError, check_wreck, grid
from .faults import FaultProfile
from .generations import Generation, check_results
from .launches import COMPLETE, INCOMPLETE, Launch
from .mutant import Mutant
from .object_server import ObjectServer
from .patches import set_inline_limit
from .reading import check_reading
from .runtime import activate
from .scheduler import Process
from .simulation import Simulation
from .workload import Workload

# Steps after which faults cease, and within which everything must then come to its end.
FAULTY_STEPS, STEPS_TO_END = 1500, 6000
_MODES = ("alone", "static", "static", "counter", "supervised", "supervised")
# How processes may end while faults strike.
_STORAGE_FAILED = ("StorageError", "StorageFullError")
_ENDINGS = frozenset([COMPLETE, INCOMPLETE, *_STORAGE_FAILED, "AlreadyRunningError", "WorkerError"])
_STRANGER_ENDINGS = frozenset(["ConfigMismatchError", *_STORAGE_FAILED])
_QUIET = FaultProfile(0.0, {}, 0, "", 0.0, 0.0)


@dataclass
class Outcome:
    """What became of one schedule.

    Attributes:
        seed: Its seed.
        violations: What should never have happened; empty if all is well.
        injected: Faults injected, by class.
        steps: Steps taken.
        trace: What happened, if it was asked for.
    """

    seed: int
    violations: list[str] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    trace: list[str] = field(default_factory=list)


def run_schedule(seed: int, trace: bool = False, mutant: Mutant | None = None) -> Outcome:
    """Run the schedule of a seed. Call it inside ``simulated_surroundings()``.

    Args:
        seed: Decides everything.
        trace: Whether to note every step.
        mutant: The rule to break, if any.
    """
    try:
        schedule = _Schedule(seed, trace, against_reference=mutant is None or not mutant.renames)
    except Exception as error:  # see _Schedule.run
        return Outcome(seed, [f"{'' if isinstance(error, ViolationError) else 'crash: '}{error} (an undisturbed run)"])
    with nullcontext() if mutant is None else mutant.applied():
        return schedule.run()


class _Schedule:
    def __init__(self, seed: int, trace: bool, against_reference: bool) -> None:
        self._rng = rng = random.Random(f"{seed} plan")
        self._outcome = Outcome(seed)
        workload = Workload.draw(rng)
        reference = reference_result(workload) if workload.deterministic and against_reference else None
        self._simulation = Simulation(
            seed, workload, rng.random() < 0.4, FaultProfile.draw(rng), self._outcome.trace if trace else None
        )
        self._simulation.watcher.generations[0].reference = reference
        self._launches = [self._draw_launch(number) for number in range(rng.choice((1, 2, 2, 3)))]
        self._double = [rng.random() < 0.5 for _ in self._launches]
        self._allowed: dict[Process, frozenset[str]] = {}

    def run(self) -> Outcome:
        simulation, outcome = self._simulation, self._outcome
        simulation.activate()
        set_inline_limit(64 if simulation.workload.sidecar else 256 * 1024)
        try:
            self._run_phases()
        except ViolationError as error:
            simulation.watcher.violate(str(error))
        except Exception as error:  # of the code under test, or of the simulator: either way a seed to look at
            simulation.watcher.violate(f"crash: {error!r}")
            outcome.trace += traceback.format_exception(error) if simulation.scheduler.trace is not None else []
        finally:
            for process in simulation.scheduler.processes:
                simulation.scheduler.kill(process)
            simulation.scheduler.failure = None
            simulation.scheduler.run(10**9)
            activate(None)
        outcome.violations, outcome.steps = simulation.watcher.violations, simulation.scheduler.steps
        outcome.injected = simulation.faults.injected
        return outcome

    def _run_phases(self) -> None:
        simulation, rng = self._simulation, self._rng
        self._note("plan", simulation.workload, simulation.faults.profile, self._launches)
        self._suffer()
        self._check_wreck("the wreck")
        if not simulation.objects and rng.random() < 0.3:
            simulation.lose_power()
            self._check_wreck("the wreck after a power loss")
        self._recover()
        self._retry()
        self._wake_zombies()
        if not simulation.objects:
            simulation.lose_power(faults.LAST_POWER_LOSS)
            self._check_finished("after a power loss that followed the end")
        if rng.random() < 0.3:
            self._launch_to_the_end(Launch(99, "alone", 1, True))
            self._check_finished("after it was opened once more")
            check_reading(simulation)

    def _suffer(self) -> None:
        """Launch, and launch again, while faults strike."""
        simulation, rng = self._simulation, self._rng
        scheduler, injected = simulation.scheduler, simulation.faults.injected
        simulation.begin_faults()
        self._start(self._launches[0])
        for before, launch, double in zip(self._launches, self._launches[1:], self._double, strict=False):
            at = scheduler.steps + int(10 ** rng.uniform(0.5, 2.7)) if double else FAULTY_STEPS
            if scheduler.run(min(at, FAULTY_STEPS)) and any(process.alive for process in scheduler.processes):
                injected[faults.DOUBLE_LAUNCH] += 1
            else:
                injected[faults.RESUME] += 1
            if launch.workers != before.workers:
                injected[faults.OTHER_SIZE] += 1
            self._stop_if_violated()
            if rng.random() < 0.2 and "run.json" in simulation.durable():
                injected[faults.STRANGER] += 1
                self._start(Launch(launch.number + 50, "stranger", 1, True), _STRANGER_ENDINGS)
            self._start(launch)
        scheduler.run(FAULTY_STEPS)
        self._let_faults_cease()

    def _let_faults_cease(self) -> None:
        simulation, rng = self._simulation, self._rng
        simulation.end_faults()
        if rng.random() < 0.4:
            for process in simulation.scheduler.processes:
                if rng.random() < 0.7:
                    simulation.kill(process)
        self._run_to_the_end("the launches did not end after the last fault")
        self._check_endings()

    def _recover(self) -> None:
        """Complete the run; before that, another launch may be stopped half way, and wake up after all is done."""
        simulation, rng = self._simulation, self._rng
        if len(self._check_wreck("before recovery")[0]) < len(grid(simulation.workload)) and rng.random() < 0.4:
            self._start(self._draw_launch(91, join=True))
            simulation.scheduler.run(simulation.scheduler.steps + int(10 ** rng.uniform(1, 2.3)))
            for process in simulation.scheduler.processes:
                simulation.stop_for_good(process)
        self._launch_to_the_end(self._draw_launch(90, join=True))
        self._check_finished("after recovery")

    def _retry(self) -> None:
        """Mend what made samples fail, and try them again under faults; zombies of the run itself are still there."""
        simulation, rng = self._simulation, self._rng
        (run,), (records,) = simulation.watcher.generations, self._check_wreck("before a retry")
        chunks = frozenset(chunk for chunk, record in records.items() if record["quarantined"])
        if not chunks or rng.random() < 0.5:
            return
        simulation.mended = True
        simulation.faults.injected[faults.RETRY] += 1
        begin_retry(simulation.make_storage(), 1, sorted(chunks))
        simulation.watcher.generations.append(run.retry(1, chunks, replace(simulation.workload, bad=())))
        simulation.begin_faults()
        for number in range(80, 80 + rng.choice((1, 2))):
            self._start(self._draw_launch(number))
            simulation.scheduler.run(simulation.scheduler.steps + int(10 ** rng.uniform(1.5, 2.7)))
            self._stop_if_violated()
        self._let_faults_cease()
        self._launch_to_the_end(self._draw_launch(89, join=True))
        self._check_finished("after a retry")

    def _wake_zombies(self) -> None:
        simulation = self._simulation
        if isinstance(simulation.world, ObjectServer):
            simulation.world.deliver_late()
        zombies = [process for process in simulation.scheduler.processes if process.is_zombie]
        for process in zombies:
            simulation.faults.injected[faults.LATE_ZOMBIE] += 1
            self._note(f"WAKE {process.name}")
            process.paused_until = 0.0
        if zombies:
            self._run_to_the_end("zombies did not end")
            self._check_endings()
        self._check_finished("after zombies woke up")

    def _draw_launch(self, number: int, join: bool = False) -> Launch:
        rng = self._rng
        mode = rng.choice(_MODES)
        return Launch(number, mode, 1 if mode == "alone" else rng.choice((1, 2, 2, 3)), join or rng.random() < 0.5)

    def _start(self, launch: Launch, allowed: frozenset[str] = _ENDINGS) -> None:
        self._note(f"LAUNCH {launch}")
        self._allowed.update((process, allowed) for process in launch.start(self._simulation))

    def _launch_to_the_end(self, launch: Launch) -> None:
        self._start(launch, frozenset([COMPLETE]))
        self._run_to_the_end(f"launch {launch.number} ({launch.mode}) did not end")
        self._check_endings()

    def _run_to_the_end(self, otherwise: str) -> None:
        scheduler = self._simulation.scheduler
        if scheduler.run(scheduler.steps + STEPS_TO_END):
            raise ViolationError(f"I6: {otherwise} within {STEPS_TO_END} steps")
        stuck = [process.name for process in scheduler.processes if process.alive and not process.is_halted]
        if stuck:
            raise ViolationError(f"I6: {otherwise}: {', '.join(stuck)} wait for ever")
        self._stop_if_violated()

    def _check_endings(self) -> None:
        for process, allowed in self._allowed.items():
            if process.ended is not None and process.ended not in allowed:
                raise ViolationError(f"I6: {process.name} ended with {process.ended}: {process.error}")

    def _check_wreck(self, when: str) -> list[dict[int, dict[str, Any]]]:
        """Check what is visible, and what a power loss would leave of it; return the visible records of each result."""
        simulation = self._simulation
        visible, durable = simulation.visible(), simulation.durable()
        found = []
        for generation in simulation.watcher.generations:
            if durable != visible:
                self._check_generation(generation, durable, f"durable part of {when}")
            found.append(self._check_generation(generation, visible, when))
        return found

    def _check_generation(self, generation: Generation, files: Snapshot, when: str) -> dict[int, dict[str, Any]]:
        files = generation.view(files)
        when = f"{generation.folder or 'run'}, {when}"
        try:
            records = check_wreck(files, generation.workload)
        except ViolationError as error:
            raise ViolationError(f"{error} ({when})") from error
        for chunk, record in generation.acknowledged.items():
            if records.get(chunk) != record:
                how = "changed" if chunk in records else "vanished"
                raise ViolationError(f"I4: the announced record of chunk {chunk} {how} ({when})")
        if generation.result is not None and files.get("result.json") != generation.result:
            raise ViolationError(f"I4: the acknowledged result changed or vanished ({when})")
        return records

    def _check_finished(self, when: str) -> None:
        simulation = self._simulation
        self._stop_if_violated()
        found, visible = self._check_wreck(when), simulation.visible()
        try:
            check_results(simulation.watcher.generations, found, visible, simulation.ledger)
        except ViolationError as error:
            raise ViolationError(f"{error} ({when})") from error

    def _stop_if_violated(self) -> None:
        if self._simulation.watcher.violations:
            raise ViolationError(self._simulation.watcher.violations.pop())

    def _note(self, *values: object) -> None:
        self._simulation.scheduler.note(None, " ".join(map(str, values)))


@lru_cache(maxsize=64)
def reference_result(workload: Workload) -> bytes:
    """Return ``result.json`` of an undisturbed run of one worker."""
    simulation = Simulation(0, workload, True, _QUIET, None)
    simulation.activate()
    set_inline_limit(64 if workload.sidecar else 256 * 1024)
    (process,) = Launch(0, "alone", 1, False).start(simulation)
    simulation.scheduler.run(10**9)
    if process.ended != COMPLETE:
        raise ViolationError(f"I6: it ended with {process.ended}: {process.error}")
    files = simulation.visible()
    check_results(simulation.watcher.generations, [check_wreck(files, workload)], files, simulation.ledger)
    return files["result.json"]
