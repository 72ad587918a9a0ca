"""The command line: ``python -m tests.simulation campaign | replay SEED | mutants``, from the repository's root."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:  # started as a file
    sys.path.insert(0, str(Path(__file__).parents[2]))
    __package__ = "tests.simulation"

from .campaign import Findings, hunt_all, run_campaign
from .mutants import MUTANTS, find_mutant
from .patches import simulated_surroundings
from .regressions import remember
from .schedule import run_schedule


def main() -> int:
    """Do what the command line says; return 0 if all is as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Deterministic simulation of runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    several = argparse.ArgumentParser(add_help=False)
    several.add_argument("--start", type=int, default=0, metavar="SEED", help="the first seed (default: 0)")
    several.add_argument("--processes", type=int, default=1, metavar="N", help="work in so many processes")
    campaign = commands.add_parser("campaign", parents=[several], help="run schedules; report faults and violations")
    campaign.add_argument("--seeds", type=int, default=5000, metavar="N", help="so many schedules (default: 5000)")
    campaign.add_argument("--seconds", type=float, help="begin no schedules after this time")
    replaying = commands.add_parser("replay", help="run one schedule and print its steps")
    replaying.add_argument("seed", type=int)
    replaying.add_argument("--mutant", choices=[mutant.name for mutant in MUTANTS], metavar="NAME", help="break a rule")
    hunting = commands.add_parser(
        "mutants", parents=[several], help="break each rule in turn and print the share of schedules that expose it"
    )
    hunting.add_argument("--seeds", type=int, default=200, metavar="N", help="so many schedules each (default: 200)")
    hunting.add_argument("--markdown", action="store_true", help="print the table as docs/guarantees.md has it")
    options = parser.parse_args()
    if options.command == "campaign":
        return run(options.start, options.seeds, options.processes, options.seconds)
    if options.command == "replay":
        return replay(options.seed, options.mutant)
    return mutants(options.start, options.seeds, options.processes, options.markdown)


def run(start: int, seeds: int, processes: int, seconds: float | None) -> int:
    """Run schedules; tell on standard error how far it is, and keep the seeds that failed."""
    found = Findings()
    for found in run_campaign(start, seeds, processes):
        if found.schedules % 1000 == 0:
            told = f"{found.schedules} of {seeds}, {len(found.violations)} with violations, {found.seconds:.0f} s"
            print(told, file=sys.stderr, flush=True)
        if seconds is not None and found.seconds > seconds:
            break
    print(found.report())
    if found.violations:
        print(f"kept in {remember(found.violations)}, which the tests replay")
    if found.schedules >= 1000 and found.missing_faults:
        print(f"never injected: {', '.join(found.missing_faults)}")
        return 1
    return 1 if found.violations else 0


def replay(seed: int, mutant: str | None) -> int:
    """Print every step of a schedule."""
    with simulated_surroundings():
        outcome = run_schedule(seed, trace=True, mutant=find_mutant(mutant) if mutant else None)
    print("\n".join(outcome.trace))
    for violation in outcome.violations:
        print(f"VIOLATED {violation}")
    return 1 if outcome.violations else 0


def mutants(start: int, seeds: int, processes: int, markdown: bool) -> int:
    """Print the table of mutants."""
    wrong = 0
    for found in hunt_all(start, seeds, processes):
        print(found.markdown() if markdown else found.row(), flush=True)
        wrong += not found.as_it_should
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
