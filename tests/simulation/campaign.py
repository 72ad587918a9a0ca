"""Many schedules, in one process or several, and what they found."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context

from .faults import CLASSES
from .mutant import Mutant
from .mutants import MUTANTS, find_mutant
from .patches import simulated_surroundings
from .schedule import Outcome, run_schedule

REPLAY = "python -m tests.simulation replay"
_BATCH = 100


@dataclass
class Findings:
    """What some schedules found.

    Attributes:
        schedules: How many there were.
        violations: Seed to what should never have happened.
        injected: Faults injected, by class.
        steps: Steps taken.
        seconds: Wall time.
    """

    schedules: int = 0
    violations: dict[int, list[str]] = field(default_factory=dict)
    injected: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one schedule."""
        self.schedules += 1
        self.injected += outcome.injected
        self.steps += outcome.steps
        if outcome.violations:
            self.violations[outcome.seed] = outcome.violations

    def merge(self, other: Findings) -> None:
        """Add what other schedules found; the time is not added, for they ran side by side."""
        self.schedules += other.schedules
        self.violations.update(other.violations)
        self.injected += other.injected
        self.steps += other.steps

    @property
    def missing_faults(self) -> list[str]:
        """Fault classes of which none was injected: nothing was learnt about them."""
        return [kind for kind in CLASSES if not self.injected[kind]]

    def report(self) -> str:
        """Return all of it as text."""
        rate = self.schedules / self.seconds if self.seconds else 0.0
        lines = [
            f"{self.schedules} schedules, {self.steps} steps, {self.seconds:.1f} s, {rate:.0f} schedules/s, "
            f"{len(self.violations)} with violations",
            "faults injected:",
            *(f"  {kind:<28}{self.injected[kind]:>10}" for kind in CLASSES),
        ]
        for seed, violations in sorted(self.violations.items())[:20]:
            lines += [f"seed {seed}: {violations[0]}", f"  replay: {REPLAY} {seed}"]
        return "\n".join(lines)


@dataclass
class MutantFindings:
    """How well the schedules of a range expose one mutant.

    Attributes:
        mutant: The mutant.
        schedules: How many schedules ran.
        caught: How many exposed it.
        first: The first seed that did.
        example: What it violated.
    """

    mutant: Mutant
    schedules: int = 0
    caught: int = 0
    first: int | None = None
    example: str = ""

    @property
    def as_it_should(self) -> bool:
        """Whether a broken rule was caught, or a harmless change was not."""
        return bool(self.caught) != self.mutant.harmless

    def markdown(self) -> str:
        """Return a line of the table in the documentation."""
        share = 100 * self.caught / self.schedules
        shown = "0" if not self.caught else f"{share:.0f} %" if share >= 1 else f"{share:.1f} %"
        return f"| {self.mutant.rule} | `{self.mutant.name}` | {shown} |"

    def row(self) -> str:
        """Return a line of the table."""
        share = 100 * self.caught / self.schedules if self.schedules else math.nan
        verdict = "ok" if self.as_it_should else "NOT AS IT SHOULD BE"
        counts = f"{self.mutant.name:<24}{self.caught:>6}/{self.schedules:<6}{share:>6.1f} %"
        first = "" if self.first is None else f"seed {self.first}: "
        return f"{counts}  {verdict:<4}{first}{self.example[:90]}"


def run_seeds(seeds: Sequence[int]) -> Findings:
    """Run the schedules of some seeds, here."""
    findings, began = Findings(), time.perf_counter()
    with simulated_surroundings():
        for seed in seeds:
            findings.add(run_schedule(seed))
    findings.seconds = time.perf_counter() - began
    return findings


def run_campaign(start: int, schedules: int, processes: int) -> Iterator[Findings]:
    """Run schedules in several processes.

    Args:
        start: The first seed.
        schedules: How many.
        processes: How many processes share them.

    Yields:
        All findings so far, whenever there are new ones.
    """
    found, began = Findings(), time.perf_counter()
    batches = [range(at, min(at + _BATCH, start + schedules)) for at in range(start, start + schedules, _BATCH)]
    if processes == 1:
        parts: Iterator[Findings] = map(run_seeds, batches)
        yield from _merged(parts, found, began)
        return
    # Spawned, for the parent may have threads, and simulations leave some idle.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from _merged(pool.map(run_seeds, batches), found, began)


def hunt(name: str, start: int, schedules: int, until_caught: bool = False) -> MutantFindings:
    """Look for a mutant.

    Args:
        name: The mutant's.
        start: The first seed.
        schedules: How many schedules at most.
        until_caught: Whether to stop at the first schedule that exposes it.
    """
    found = MutantFindings(find_mutant(name))
    with simulated_surroundings():
        for seed in range(start, start + schedules):
            outcome = run_schedule(seed, mutant=found.mutant)
            found.schedules += 1
            if outcome.violations:
                if found.first is None:
                    found.first, found.example = seed, outcome.violations[0]
                found.caught += 1
                if until_caught:
                    break
    return found


def hunt_all(start: int, schedules: int, processes: int) -> Iterator[MutantFindings]:
    """Look for every mutant, in several processes, and yield what was found in the order of the table."""
    names = [mutant.name for mutant in MUTANTS]
    if processes == 1:
        for name in names:
            yield hunt(name, start, schedules)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(hunt, names, [start] * len(names), [schedules] * len(names))


def _merged(parts: Iterator[Findings], found: Findings, began: float) -> Iterator[Findings]:
    for part in parts:
        found.merge(part)
        found.seconds = time.perf_counter() - began
        yield found
