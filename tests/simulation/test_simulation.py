"""Schedules, seeds that once failed, and the mutants that schedules must catch; see the package's docstring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import regressions
from .campaign import Findings, hunt, run_campaign
from .mutants import MUTANTS
from .patches import simulated_surroundings
from .schedule import run_schedule

PER_CHANGE, CAMPAIGN = 5000, 200_000
PROCESSES = int(os.environ.get("BATCHMILL_SIMULATION_PROCESSES", str(min(2, len(os.sched_getaffinity(0))))))
# Schedules within which every mutant must be caught, counted from the seed where it is known to be.
MOST_PER_MUTANT = 2000
HARMLESS_SCHEDULES = 100

KNOWN_FAILURES = regressions.known_failures()


def test_no_schedule_violates_anything() -> None:
    check_schedules(0, PER_CHANGE)


@pytest.mark.campaign
def test_no_schedule_of_a_campaign_violates_anything() -> None:
    schedules = int(os.environ.get("BATCHMILL_SIMULATION_SCHEDULES", str(CAMPAIGN)))
    check_schedules(PER_CHANGE, schedules)


def check_schedules(start: int, schedules: int) -> None:
    found = Findings()
    for latest in run_campaign(start, schedules, PROCESSES):
        found = latest
    print(found.report())
    assert found.schedules == schedules
    assert not found.violations, found.report()
    assert not found.missing_faults, f"never injected, so nothing was learnt about them: {found.missing_faults}"


def test_seeds_that_once_failed_do_so_no_more() -> None:
    with simulated_surroundings():
        failed = {seed: run_schedule(seed).violations for seed in KNOWN_FAILURES}
    assert not any(failed.values()), {seed: violated for seed, violated in failed.items() if violated}


@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS if not mutant.harmless])
def test_a_broken_rule_is_caught(name: str) -> None:
    start = next(mutant.seen_at for mutant in MUTANTS if mutant.name == name)
    found = hunt(name, start, MOST_PER_MUTANT, until_caught=True)
    assert found.caught, f"{found.schedules} schedules did not expose mutant {name}: {found.mutant.rule}"
    assert not found.example.startswith("crash"), f"mutant {name} is broken itself: {found.example}"


@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS if mutant.harmless])
def test_what_breaks_no_rule_is_not_caught(name: str) -> None:
    found = hunt(name, 0, HARMLESS_SCHEDULES)
    assert not found.caught, found.example


def test_a_seed_always_takes_the_same_steps() -> None:
    """Also in another process, whose strings have other hashes."""
    with simulated_surroundings():
        first, second = run_schedule(71, trace=True), run_schedule(71, trace=True)
    assert first.trace and first.trace == second.trace
    command = [sys.executable, str(Path(__file__).parent), "replay", "71"]
    elsewhere = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert elsewhere.stdout.splitlines() == first.trace


def test_failing_seeds_are_kept_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "regressions.json"
    kept.write_text('{"5": "I1: first"}')
    monkeypatch.setattr(regressions, "_FILE", kept)
    assert regressions.remember({7: ["I2: another", "I3"], 5: ["I4: later"]}) == kept
    assert json.loads(kept.read_text()) == {"5": "I1: first", "7": "I2: another"}


def test_the_documentation_lists_every_mutant() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text()
    missing = [mutant.name for mutant in MUTANTS if f"| {mutant.rule} | `{mutant.name}` |" not in page]
    assert not missing, f"print the table with: python -m tests.simulation mutants --markdown; not there: {missing}"
