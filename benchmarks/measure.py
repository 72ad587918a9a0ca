"""Measuring: interleaved repeats, and the ratio of each case to a hand-written base of the same round."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class Spent(NamedTuple):
    """What a piece of work took.

    Attributes:
        seconds: Wall time.
        cpu: CPU time of all threads and of child processes that ended.
    """

    seconds: float
    cpu: float


Case = Callable[[], Spent]


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one case.

    Attributes:
        seconds: Wall time of each round, in the order measured.
        ratios: This case's wall time divided by the base's in the same round; below 1 is faster than the base.
        cpu_ratios: The same for CPU time, which other work on the machine disturbs less.
    """

    seconds: Sequence[float]
    ratios: Sequence[float]
    cpu_ratios: Sequence[float]

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios, which a drift of the machine's speed does not move."""
        return statistics.median(self.ratios)

    @property
    def cpu_ratio(self) -> float:
        """Median of the rounds' ratios of CPU time."""
        return statistics.median(self.cpu_ratios)


@dataclass(frozen=True)
class Goal:
    """Something that a workload is meant to show.

    Attributes:
        text: What should hold.
        met: Whether it did.
    """

    text: str
    met: bool


@dataclass(frozen=True)
class Outcome:
    """What one workload came to.

    Attributes:
        name: Short name, as given on the command line.
        title: What is measured.
        timings: Case to measurements; the first case is the base.
        items: Samples processed in one repeat; None where a rate says nothing.
        goals: What should hold.
    """

    name: str
    title: str
    timings: Mapping[str, Timing]
    items: int | None = None
    goals: Sequence[Goal] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        values = asdict(self)
        for name, timing in self.timings.items():
            medians = {"median": timing.median, "ratio": timing.ratio, "cpu_ratio": timing.cpu_ratio}
            values["timings"][name] |= medians
        return values


def interleave(cases: Mapping[str, Case], repeats: int, warm_up: bool = True) -> dict[str, Timing]:
    """Measure all cases ``repeats`` times, round by round, so that a busy moment of the machine hits all of them.

    The order changes from round to round.

    Args:
        cases: Name to a callable that does the work once and returns what it took; the first is the base.
        repeats: Rounds that count.
        warm_up: Whether a round that does not count comes first, for lazy imports, caches and the allocator.
    """
    names = list(cases)
    spent: dict[str, list[Spent]] = {name: [] for name in names}
    for case in cases.values() if warm_up else ():
        case()
    for turn in range(repeats):
        for place in range(len(names)):
            name = names[(place + turn) % len(names)]
            spent[name].append(cases[name]())
    base = spent[names[0]]
    return {
        name: Timing(
            [value.seconds for value in values],
            [value.seconds / of.seconds for value, of in zip(values, base, strict=True)],
            [value.cpu / of.cpu for value, of in zip(values, base, strict=True)],
        )
        for name, values in spent.items()
    }


def timed(work: Callable[[], object]) -> Spent:
    """Return what ``work`` takes."""
    cpu, start = _cpu_seconds(), time.perf_counter()
    work()
    return Spent(time.perf_counter() - start, _cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
