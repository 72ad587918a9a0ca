"""Schedules, seeds that once failed, and the mutants that schedules must catch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .campaign import Findings, hunt, run_campaign
from .mutants import MUTANTS
from .patches import simulated_surroundings
from .schedule import run_schedule

SCHEDULES = int(os.environ.get("BATCHMILL_SIMULATION_SCHEDULES", "2000"))
JOBS = int(os.environ.get("BATCHMILL_SIMULATION_JOBS", str(min(2, len(os.sched_getaffinity(0))))))
# Schedules within which every mutant is to be caught; how many are needed is known from the table in the docs.
MOST_PER_MUTANT = 4000
HARMLESS_SCHEDULES = 100

HERE = Path(__file__).parent
REGRESSIONS = json.loads((HERE / "regressions.json").read_text())


def test_no_schedule_violates_anything() -> None:
    found = Findings()
    for latest in run_campaign(0, SCHEDULES, JOBS):
        found = latest
    assert found.schedules == SCHEDULES
    assert not found.violations, found.report()
    if SCHEDULES >= 1000:
        assert not found.missing_faults, f"never injected: {found.missing_faults}"


@pytest.mark.parametrize("case", REGRESSIONS, ids=[f"{case['seed']}" for case in REGRESSIONS])
def test_seeds_that_once_failed(case: dict[str, object]) -> None:
    with simulated_surroundings():
        outcome = run_schedule(int(str(case["seed"])))
    assert not outcome.violations, case["why"]


@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS if not mutant.harmless])
def test_a_broken_rule_is_caught(name: str) -> None:
    start = next(mutant.seen_at for mutant in MUTANTS if mutant.name == name)
    found = hunt(name, start, MOST_PER_MUTANT, until_caught=True)
    assert found.caught, f"{found.schedules} schedules did not expose mutant {name}: {found.mutant.rule}"


@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS if mutant.harmless])
def test_what_breaks_no_rule_is_not_caught(name: str) -> None:
    found = hunt(name, 0, HARMLESS_SCHEDULES)
    assert not found.caught, found.example


def test_a_seed_always_takes_the_same_steps() -> None:
    """Also in another process, whose strings have other hashes."""
    with simulated_surroundings():
        first, second = run_schedule(71, trace=True), run_schedule(71, trace=True)
    assert first.trace and first.trace == second.trace
    command = [sys.executable, str(HERE), "replay", "71"]
    elsewhere = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert elsewhere.stdout.splitlines() == first.trace
