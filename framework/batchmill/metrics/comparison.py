"""Two runs side by side: the value of each metric in both, and what changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from batchmill.errors import ModelError
from batchmill.metrics.numbers import Number, difference, exact, relative_difference

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Compared:
    """One metric in the baseline A and the candidate B.

    Attributes:
        metric: Its name.
        a: Its value in A; None where A has none.
        b: Its value in B; None where B has none.
        difference: B - A; None unless both are numbers.
        relative: The difference as a share of A's absolute value; None unless both are numbers.
    """

    metric: str
    a: Any
    b: Any
    difference: Number | None
    relative: Number | None


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Compared]:
    """Return every metric that A or B has, A's first, with what changed from A to B."""
    rows = []
    for metric in dict.fromkeys([*a, *b]):
        old, new = exact(a.get(metric)), exact(b.get(metric))
        change = share = None
        if old is not None and new is not None:
            change, share = difference(old, new), relative_difference(old, new)
        rows.append(Compared(metric, a.get(metric), b.get(metric), change, share))
    return rows


def latest_values(reports: Iterable[Report], group: str, run: str) -> dict[str, Any]:
    """Return each metric's value at the last step for which it was reported.

    Args:
        reports: A run's reports: ``group``, ``steps_completed``, ``rank`` and ``metrics`` each.
        group: The group to look at.
        run: The run, for messages.

    Raises:
        ModelError: Nobody reported the group, or two ranks reported different values for one metric and step.
    """
    groups: set[str] = set()
    latest: dict[str, tuple[int, int, Any]] = {}
    for report in reports:
        groups.add(report["group"])
        if report["group"] != group:
            continue
        step, rank = report["steps_completed"], report["rank"]
        for metric, value in report["metrics"].items():
            known_step, known_rank, known = latest.get(metric, (-1, rank, value))
            if step == known_step and value != known:
                raise ModelError(
                    f"Run {run} has several values of metric {metric!r} in group {group!r} at step {step}: {known!r} "
                    f"from rank {known_rank}, {value!r} from rank {rank}. Compare a group that one rank reports, or "
                    f"whose metrics all ranks agree on."
                )
            if step >= known_step:
                latest[metric] = (step, rank, value)
    if not latest:
        raise ModelError(
            f"Run {run} reported no metrics in group {group!r}. Groups there: {', '.join(sorted(groups)) or 'none'}. "
            f"Choose one with --group; the final metrics of a run are in `validation` once it is complete."
        )
    return {metric: latest[metric][2] for metric in sorted(latest)}
