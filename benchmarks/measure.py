"""Measuring: interleaved repeats, and the ratio of each case to a hand-written base of the same round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Case = Callable[[], float]


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one case.

    Attributes:
        seconds: One value per round, in the order measured.
        ratios: This case's time divided by the base's in the same round; below 1 is faster than the base.
    """

    seconds: Sequence[float]
    ratios: Sequence[float]

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        """Median of the rounds' ratios, which a drift of the machine's speed does not move."""
        return statistics.median(self.ratios)


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
            values["timings"][name] |= {"median": timing.median, "ratio": timing.ratio}
        return values


def interleave(cases: Mapping[str, Case], repeats: int, warm_up: bool = True) -> dict[str, Timing]:
    """Measure all cases ``repeats`` times, round by round, so that a busy moment of the machine hits all of them.

    The order changes from round to round.

    Args:
        cases: Name to a callable that does the work once and returns its seconds; the first is the base.
        repeats: Rounds that count.
        warm_up: Whether a round that does not count comes first, for lazy imports, caches and the allocator.
    """
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for case in cases.values() if warm_up else ():
        case()
    for turn in range(repeats):
        for place in range(len(names)):
            name = names[(place + turn) % len(names)]
            seconds[name].append(cases[name]())
    base = seconds[names[0]]
    return {
        name: Timing(values, [value / of for value, of in zip(values, base, strict=True)])
        for name, values in seconds.items()
    }


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
