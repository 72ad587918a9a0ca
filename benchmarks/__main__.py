"""``python -m benchmarks [--short] [--json FILE] [W1 W1b W2 W3 W7 W8 W9 W10]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

import batchmill
from benchmarks.commits import w8
from benchmarks.measure import Outcome
from benchmarks.recovery import w9, w10
from benchmarks.startup import w7
from benchmarks.throughput import w1, w1b
from benchmarks.writing import w2, w3

WORKLOADS: dict[str, Callable[[bool], Outcome]] = {
    "W1": w1,
    "W1b": w1b,
    "W2": w2,
    "W3": w3,
    "W7": w7,
    "W8": w8,
    "W9": w9,
    "W10": w10,
}

# Characters that the tables need; narrower terminals wrap lines rather than cut figures.
WIDTH = 112


def main(arguments: list[str] | None = None) -> int:
    """Measure and show; the exit code is 1 if a goal was missed, and 0 with ``--short``, which measures nothing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="W", help=f"some of {', '.join(WORKLOADS)}; default: all")
    parser.add_argument("--short", action="store_true", help="tiny sizes: tells whether it runs, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to FILE")
    given = parser.parse_args(arguments)
    for name in given.workloads:
        if name not in WORKLOADS:
            parser.error(f"there is no workload {name!r}; there are {', '.join(WORKLOADS)}")
    torch.set_num_threads(1)  # of the bare loops; Batchmill's workers use one thread by default
    console = Console()
    console.width = max(console.width, WIDTH)
    facts = machine()
    console.print("  ".join(f"{key} {value}" for key, value in facts.items()), highlight=False)
    if given.short:
        console.print("--short: sizes are tiny, so the figures say nothing about speed.", highlight=False)
    outcomes = []
    for name in given.workloads or WORKLOADS:
        outcome = WORKLOADS[name](given.short)
        show(console, outcome, judge=not given.short)
        outcomes.append(outcome)
    if given.json is not None:
        document = {"machine": facts, "short": given.short, "workloads": [outcome.to_json() for outcome in outcomes]}
        given.json.write_text(json.dumps(document, indent=2) + "\n")
    met = all(goal.met for outcome in outcomes for goal in outcome.goals)
    return 0 if given.short or met else 1


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "batchmill": batchmill.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


def show(console: Console, outcome: Outcome, judge: bool) -> None:
    """Print one workload's table and goals."""
    table = Table(title=f"{outcome.name}: {outcome.title}", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("case", no_wrap=True)
    for column in ("time / base", "from", "to", "cpu / base", "seconds", *(["samples/s"] if outcome.items else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for name, timing in outcome.timings.items():
        rate = [f"{outcome.items / timing.median:,.0f}"] if outcome.items else []
        spread = [f"{min(timing.ratios):.2f}", f"{max(timing.ratios):.2f}"]
        ratios = [f"{timing.ratio:.2f}", *spread, f"{timing.cpu_ratio:.2f}"]
        table.add_row(name, *ratios, f"{timing.median:.3f}", *rate)
    console.print(table)
    for goal in outcome.goals if judge else ():
        console.print(f"  goal {'met' if goal.met else 'MISSED'}: {goal.text}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
