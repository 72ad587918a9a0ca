"""``python -m tests.simulation run | replay SEED | mutants``, from the repository's root."""

from __future__ import annotations

import argparse
import sys

if not __package__:  # started as a file
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[2]))
    __package__ = "tests.simulation"

from .campaign import Findings, hunt_all, run_campaign
from .mutants import find_mutant
from .patches import simulated_surroundings
from .schedule import run_schedule


def main() -> int:
    """Do what the command line says; return 0 if all is as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Deterministic simulation of runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="run schedules and report violations and faults")
    running.add_argument("--schedules", type=int, default=5000)
    running.add_argument("--start", type=int, default=0, metavar="SEED")
    running.add_argument("--jobs", type=int, default=1, metavar="N")
    replaying = commands.add_parser("replay", help="run one schedule and print its steps")
    replaying.add_argument("seed", type=int)
    replaying.add_argument("--mutant", help="break a rule")
    hunting = commands.add_parser("mutants", help="break each rule in turn and print how many schedules expose it")
    hunting.add_argument("--schedules", type=int, default=1000)
    hunting.add_argument("--start", type=int, default=0, metavar="SEED")
    hunting.add_argument("--jobs", type=int, default=1, metavar="N")
    options = parser.parse_args()
    if options.command == "run":
        return run(options.start, options.schedules, options.jobs)
    if options.command == "replay":
        return replay(options.seed, options.mutant)
    return mutants(options.start, options.schedules, options.jobs)


def run(start: int, schedules: int, jobs: int) -> int:
    """Run schedules; tell on standard error how far it is."""
    found = Findings()
    for found in run_campaign(start, schedules, jobs):
        if found.schedules % 1000 == 0:
            told = f"{found.schedules} of {schedules}, {len(found.violations)} with violations, {found.seconds:.0f} s"
            print(told, file=sys.stderr, flush=True)
    print(found.report())
    if schedules >= 1000 and found.missing_faults:
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


def mutants(start: int, schedules: int, jobs: int) -> int:
    """Print the table of mutants."""
    wrong = 0
    for found in hunt_all(start, schedules, jobs):
        print(found.row(), flush=True)
        wrong += not found.as_it_should
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
